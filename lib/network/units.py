"""Tensors kept by name in few large files, which several processes fill at once; what is read back is what was written.

    frozen-features-<fingerprint>/
        0.units   tensors one after another, as bytes; of each process that writes at the same time one such file
        0.jsonl   a line for each of them: folder, name, first byte, shape, precision, CRC-32, and the line's own
        used      its time is when the folder was last opened; locked while a process has it open

A line is written after its tensor, so what a killed process was writing has no line and is written again. What is
missing, cut or flipped does not have its CRC-32 and counts as not kept, and so does what was written for another such
folder. Nothing is flushed to the disk on purpose: what a power cut takes is noticed in the same way. The quota is for
all such folders together, the oldest one goes first.
"""

import contextlib
import fcntl
import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from lib.core.run import line_of, whole_record
from lib.core.shared import is_at

FREE_BYTES_KEPT = 2_000_000_000  # the cache never takes the last 2 GB of a disk
PREFIX = "frozen-features-"
USED = "used"  # the mark in each folder


class Place(NamedTuple):
    """Where a tensor lies, and what it is."""

    file: Path
    first_byte: int
    shape: tuple[int, ...]
    precision: str  # of torch: float32, bfloat16, ...
    crc32: int


class Units:
    """`stack` and `get` may be called by several threads at once, `put` by one."""

    def __init__(self, folder: Path, quota_bytes: float):
        self.folder, self.quota_bytes, self.full, self.warned = folder, quota_bytes, False, False
        self.places: dict[str, list[Place]] = {}  # by name; of several the last one was written last
        self.seen_bytes: dict[Path, int] = {}  # of each .jsonl
        self.readers: dict[Path, IO[bytes]] = {}
        self.writer: Writer | None = None
        self.lock = threading.Lock()
        self.used = opened(folder)
        self.look_for_more()

    # ------------------------------------------------------------------------------------------ reading

    def stack(self, names: list[str]) -> torch.Tensor | None:
        """(names, …): the tensors of these names, each read to where it is needed. None where one is not kept."""
        found = [self.place(name) for name in names]
        if not all(found) or len({(place.shape, place.precision) for place in found if place}) > 1:
            return None
        first = found[0]
        assert first
        made = torch.empty((len(names), *first.shape), dtype=getattr(torch, first.precision))
        for name, place, row in zip(names, found, made, strict=True):
            if place is None or not self.read_into(row, name, place):
                return None
        return made

    def get(self, name: str) -> torch.Tensor | None:
        """The tensor of this name on the CPU; None where it is not kept, or not as it was written."""
        while place := self.place(name):
            made = torch.empty(place.shape, dtype=getattr(torch, place.precision))
            if self.read_into(made, name, place):
                return made
        return None

    def place(self, name: str) -> Place | None:
        if not self.places.get(name):
            self.look_for_more()
        found = self.places.get(name)
        return found[-1] if found else None

    def read_into(self, tensor: torch.Tensor, name: str, place: Place) -> bool:
        """Was it there as it was written? If not, the place is forgotten."""
        view = bytes_of(tensor)
        try:
            complete = read_fully(self.reader(place.file).fileno(), view, place.first_byte)
        except OSError:
            complete = False
        if complete and zlib.crc32(view) == place.crc32:
            return True
        with self.lock:
            self.places[name] = [one for one in self.places[name] if one != place]
            if not self.warned:
                print(f"{place.file} is not as it was written; what is missing is computed again", flush=True)
            self.warned = True
        return False

    def reader(self, file: Path) -> IO[bytes]:
        with self.lock:
            if file not in self.readers:
                self.readers[file] = file.open("rb", buffering=0)
            return self.readers[file]

    def look_for_more(self) -> None:
        """What this process or others have written since the last look. A torn or damaged line is passed over."""
        with self.lock:
            for index in sorted(self.folder.glob("*.jsonl")):
                with contextlib.suppress(FileNotFoundError), index.open("rb") as file:
                    file.seek(self.seen_bytes.get(index, 0))
                    lines, _, _ = file.read().rpartition(b"\n")
                    self.seen_bytes[index] = self.seen_bytes.get(index, 0) + len(lines) + bool(lines)
                    for record in self.of_here(lines):
                        place = Place(
                            index.with_suffix(".units"), record["at"], tuple(record["shape"]), record["precision"],
                            record["crc32_of_bytes"],
                        )  # fmt: skip
                        self.places.setdefault(record["name"], []).append(place)

    def of_here(self, lines: bytes) -> list[dict[str, Any]]:
        """The whole records that were written for this folder."""
        found = filter(None, map(whole_record, lines.split(b"\n")))
        return [record for record in found if record.get("folder") == self.folder.name]

    # ------------------------------------------------------------------------------------------ writing

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Keeps a tensor of the CPU while there is room; that there is none is said once."""
        view = bytes_of(tensor)
        if self.full or not self.make_room(len(view)):
            return self.no_more(f"cache.quota_gb is {self.quota_bytes / 1e9:g}, and the disk keeps 2 GB")
        try:
            self.writer = self.writer or Writer(self.folder)
            at = self.writer.append(view)
            precision = str(tensor.dtype).removeprefix("torch.")
            described = {"folder": self.folder.name, "name": name, "at": at}
            described |= {"shape": list(tensor.shape), "precision": precision, "crc32_of_bytes": zlib.crc32(view)}
            self.writer.note(line_of(described))
        except OSError as error:
            self.no_more(str(error))

    def forget_pages(self) -> None:
        """What was written leaves the memory of the system, so that the next read is one of the disk."""
        if self.writer:
            os.fsync(self.writer.units.fileno())
            os.posix_fadvise(self.writer.units.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def no_more(self, why: str) -> None:
        if not self.full:
            held = f"the cache of frozen layers holds {held_bytes(self.folder) / 1e9:.2f} GB"
            print(f"{held} and takes no more ({why}); the rest is computed each time", flush=True)
        self.full = True

    def make_room(self, size_bytes: int) -> bool:
        """Removes the oldest other folders until a tensor of this size fits. Is there room?"""
        others = iter(oldest_first(self.folder))
        while not self.has_room(size_bytes):
            folder = next(others, None)
            if folder is None:
                return False
            if held := removed(folder):
                print(f"removed {folder.name}, {held / 1e9:.2f} GB, the oldest frozen features", flush=True)
        return True

    def has_room(self, size_bytes: int) -> bool:
        held = sum(held_bytes(folder) for folder in self.folder.parent.glob(f"{PREFIX}*"))
        held += 0 if self.folder.name.startswith(PREFIX) else held_bytes(self.folder)
        free = shutil.disk_usage(self.folder).free
        return held + size_bytes <= self.quota_bytes and free >= size_bytes + FREE_BYTES_KEPT


class Writer:
    """The first pair of files that no other process writes to; it goes on at their end."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            self.units = (folder / f"{number}.units").open("ab", buffering=0)
            try:
                fcntl.flock(self.units, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self.units.close()
                number += 1
        self.lines = (folder / f"{number}.jsonl").open("ab", buffering=0)
        if self.lines.tell():
            self.lines.write(b"\n")  # ends a line that a killed process left torn

    def append(self, view: memoryview) -> int:
        """Where it begins. OSError: the disk is full; the file is as it was."""
        at = self.units.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(view):
                written += self.units.write(view[written:])
        except OSError:
            self.units.truncate(at)
            raise
        return at

    def note(self, line: str) -> None:
        self.lines.write(line.encode())


# ---------------------------------------------------------------------------------------------- bytes, folders


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor of the CPU."""
    view: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(view)


def read_fully(file: int, view: memoryview, at: int) -> bool:
    """From byte `at` on into all of `view`; False where the file ends before."""
    done = 0
    while done < len(view):
        count = os.preadv(file, [view[done:]], at + done)
        if not count:
            return False
        done += count
    return True


def held_bytes(folder: Path) -> int:
    def sizes() -> Iterator[int]:
        for path in folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                yield path.stat().st_size

    return sum(sizes())


def oldest_first(but: Path) -> list[Path]:
    """The folders of frozen features beside one, by when they were last opened."""

    def opened_ns(folder: Path) -> int:
        mark = folder / USED
        return (mark if mark.exists() else folder).stat().st_mtime_ns

    return sorted((one for one in but.parent.glob(f"{PREFIX}*") if one != but), key=opened_ns)


def opened(folder: Path) -> IO[bytes]:
    """Its mark, locked: nobody removes the folder before it is closed. One that was just removed is made again."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            mark = (folder / USED).open("ab")
            fcntl.flock(mark, fcntl.LOCK_SH)
            if is_at(mark.fileno(), folder / USED):
                os.utime(folder / USED)
                return mark
            mark.close()


def removed(folder: Path) -> int:
    """The bytes that were freed; 0 where a process has the folder open, or another one is removing it.

    The mark goes last: as long as it is there, the others see that it is locked.
    """
    with contextlib.suppress(FileNotFoundError), (folder / USED).open("rb") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        held = held_bytes(folder)
        for file in folder.iterdir():
            if file.name != USED:
                file.unlink()
        (folder / USED).unlink()
        with contextlib.suppress(OSError):  # opened again meanwhile
            folder.rmdir()
        return held
    return 0
