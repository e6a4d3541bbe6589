"""The run folder: paths, atomic writes, JSON records. Nothing else in the project decides where a file lies."""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.errors import FAILED, Stop

SEAL, CHECK = "sha256", "crc32"  # of a record, of a line of a log
RESTORE = "put it back from a copy, or begin another run (--run NAME)"
GOOGLE_DRIVE = "/content/drive"  # where Colab mounts it
# A disk that is slow with many small files, and where on the machine's own disk what can be made again lies instead.
NETWORK_DISKS = {GOOGLE_DRIVE: "/content/cache"}
CACHE = "cache"  # of a root, and before the names of what lies in it
LISTED = "hashes.json"  # in a folder of prepared arrays: what each of its files holds
STEPS = {1: "setup", 2: "download", 3: "prepare", 4: "train", 5: "evaluate"}
SCRIPTS = {number: f"step{number}_{name}.py" for number, name in STEPS.items()}


@dataclass(frozen=True)
class Run:
    """Where the files of a run lie. `root` holds runs/, data/, cache/ and places.json."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.root / "runs" / self.name

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.csv"

    @property
    def split(self) -> Path:
        return self.folder / "split.json"

    @property
    def assets(self) -> Path:
        return self.folder / "assets.json"

    @property
    def scores(self) -> Path:
        return self.folder / "eval" / "scores.json"

    @property
    def cache(self) -> Path:
        """What can be made again: prepared arrays, features of frozen layers."""
        own = (scratch for disk, scratch in NETWORK_DISKS.items() if self.root.absolute().is_relative_to(disk))
        return Path(next(own, self.root / CACHE))

    def output(self, name: str) -> Path:
        """Where an output lies that a stamp calls so: in the cache, or below the run's folder or the root."""
        first, _, rest = name.partition("/")
        if first == CACHE:
            return self.cache / rest
        return self.folder / name if (self.folder / name).exists() else self.root / name

    def name_of(self, output: Path) -> str:
        """The inverse of `output`."""
        if output.is_relative_to(self.cache):
            return f"{CACHE}/{output.relative_to(self.cache)}"
        return str(output.relative_to(self.folder if output.is_relative_to(self.folder) else self.root))

    @property
    def places(self) -> Path:
        return self.root / "places.json"

    @property
    def again(self) -> Path:
        """Changes when a training ends to begin again with less memory (lib.training.memory)."""
        return self.folder / ".again.tmp"

    def stamp(self, step: int) -> Path:
        return self.folder / f"{step}_{STEPS[step]}.json"

    def stage(self, name: str) -> Path:
        return self.folder / "train" / name

    def data(self, recipe: str, asset: str) -> Path:
        return self.root / "data" / recipe / asset

    def place_key(self, recipe: str, asset: str, content: str) -> str:
        return f"{recipe}/{asset}/{content}"

    def known_places(self, recipe: str, asset: str, content: str = "") -> list[Path]:
        """Where an asset may lie: remembered folders (of this content, or of any), then its own ones below data/.

        Own ones are several where runs made an asset of one name with different settings.
        """
        key, own = self.place_key(recipe, asset, content), self.data(recipe, asset)
        noted = [Path(path) for known, path in read_memo(self.places).items() if known.startswith(key)]
        return [*noted, *sorted(own.parent.glob(f"{own.name}-????????")), own]

    def command(self, step: int, *extra: str) -> str:
        """What the user types to run a step of this run, from the folder that they are in."""
        elsewhere = [] if self.root == Path.cwd() else ["--root", shlex.quote(str(self.root))]
        return " ".join([self.portable_command(step, *elsewhere), *extra])

    def portable_command(self, step: int, *extra: str) -> str:
        """The same for a file that may be read on another machine: typed where runs/ lies."""
        return " ".join(["python", SCRIPTS[step], "--run", shlex.quote(self.name), *extra])


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; when the block ends well the file is flushed to disk and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Like `atomic` for a whole folder. One that stands there already goes when the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                flush(file)
        if path.exists():  # a rename does not replace a folder that holds something
            os.replace(path, replaced)
        os.replace(temporary, path)
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def folder_unless_stopped(path: Path) -> Iterator[None]:
    """A folder of the user's, made where it is not there. A new one goes again where a Stop ends the work in it."""
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except Stop:
        if is_new:
            shutil.rmtree(path)
        raise


def flush(path: Path) -> None:
    """A rename may reach the disk before the bytes do; this makes the bytes come first."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sweep(folder: Path) -> None:
    """Remove what a killed process left under a temporary name, at any depth; only who holds the run's lock may."""
    for leftover in sorted(folder.rglob(".*.tmp")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def files_below(folder: Path) -> Iterator[str]:
    """The relative paths of a folder's files, without temporaries; in no order, 200 000 of them in half a second."""
    for place, _, names in os.walk(folder):
        below = os.path.relpath(place, folder)
        for name in names:
            if not (name.startswith(".") and name.endswith(".tmp")):
                yield name if below == "." else f"{below}/{name}"


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value of a file, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


class Damaged(Stop):
    """A file of ours that does not hold what was written."""


def seal_of(value: Any) -> str:
    """The sha256 of a value as JSON gives it back, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_record(path: Path, value: dict[str, Any]) -> None:
    """A JSON object with the hash of its content under SEAL: what `read_record` reads, and nothing else is believed."""
    given_back = json.loads(json.dumps(value))  # tuples are lists then, and numbers as keys are text
    write_json(path, given_back | {SEAL: seal_of(given_back)})


def read_record(path: Path, command: str = "") -> dict[str, Any] | None:
    """What `write_record` wrote, or None where there is no such file.

    Damaged: it is cut, a digit of it changed, or it was edited. command: what makes it again.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged ({error})", command or RESTORE, FAILED) from error
    if not isinstance(found, dict) or found.pop(SEAL, None) != seal_of(found):
        cause = f"{path} does not hold what was written: it is damaged, was edited, or comes from an earlier version"
        raise Damaged(cause, command or RESTORE, FAILED)
    return found


def existing(path: Path, command: str = "") -> dict[str, Any]:
    """`read_record` of a file that must be there. Damaged: it is missing."""
    found = read_record(path, command)
    if found is None:
        raise Damaged(f"{path} is missing", command or RESTORE, FAILED)
    return found


def read_memo(path: Path) -> dict[str, Any]:
    """`read_record` of something that can be found out again: a damaged one is forgotten, and that is said."""
    try:
        return read_record(path) or {}
    except Damaged as damaged:
        print(f"{damaged.cause}; it is made again", file=sys.stderr, flush=True)
        return {}


def line_of(record: dict[str, Any]) -> str:
    text = json.dumps(record)
    return json.dumps(record | {CHECK: zlib.crc32(text.encode())}) + "\n"


def append_line(path: Path, record: dict[str, Any]) -> None:
    """One JSONL record with its checksum. A torn last line (killed in mid-write) is cut off by `cut_log` on resume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line_of(record))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole records of a JSONL file; a torn or damaged line is left out."""
    if not path.exists():
        return []
    return [found for line in path.read_bytes().split(b"\n") if (found := whole_record(line)) is not None]


def whole_record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    check = found.pop(CHECK, None) if isinstance(found, dict) else None
    return found if check is not None and check == zlib.crc32(json.dumps(found).encode()) else None


def cut_log(path: Path, last_step: int) -> None:
    """Keep the records up to a step, so that a resumed log continues where the checkpoint stands."""
    if path.exists():
        kept = [record for record in read_log(path) if record["step"] <= last_step]
        write_text(path, "".join(map(line_of, kept)))
