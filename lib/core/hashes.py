"""Content hashes of files, remembered.

Hashing gigabytes takes minutes, so a hash is kept beside the file's size and time of change (cache/hashes.json), and
looking at an unchanged file again costs one `stat`. Size and time do not show what a disk or a careless program did to
the bytes: whoever trains or scores with a file compares its content, once per process, as it reads it (`checked`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.core.errors import FAILED
from lib.core.run import Damaged, files_below, read_json, read_memo, write_json, write_record
from lib.core.shared import alone_at

READ_BYTES = 1 << 22
HASHES = "sha256.json"  # in a folder: the hashes of its other files

expected: dict[str, tuple[str, str]] = {}  # path -> (sha256, the command that brings it again); what is read leaves it


class Memo:
    """Hashes of files by path, size and time of change."""

    def __init__(self, path: Path, afresh: bool = False):
        """afresh: every file that is asked for is hashed, whatever was known of it."""
        self.path, self.known = path, {} if afresh else read_memo(path)
        self.found: dict[str, list[Any]] = {}  # by this process since the last `save`

    def sha256(self, file: Path) -> str:
        status = file.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = self.known.get(str(file.absolute()))
        if not entry or entry[:2] != stamp:
            entry = [*stamp, sha256_of(file)]
            self.known[str(file.absolute())] = self.found[str(file.absolute())] = entry
        return entry[2]

    def is_another(self, file: Path, sha256: str) -> bool:
        """Is it gone, or of another content than when it was hashed? Of one that never was, nothing is said."""
        if not file.is_file():
            return True
        return str(file.absolute()) in self.known and self.sha256(file) != sha256

    def save(self) -> None:
        """What other runs of this root found meanwhile is kept."""
        if self.found:
            with alone_at(self.path):
                write_record(self.path, read_memo(self.path) | self.found)
            self.found = {}


def sha256_of(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def expect(folder: Path, hashes: Mapping[str, str], command: str) -> None:
    """From here on `checked` knows these files: relative path -> sha256. command: what brings or makes them again."""
    expected.update({str(folder / name): (sha256, command) for name, sha256 in hashes.items()})


def checked(file: Path) -> Path:
    """The file, for whoever opens it. Damaged: it is gone, or its content is not what its step recorded."""
    if found := expected.get(str(file)):
        if said := fault(file, found[0]):
            raise Damaged(said, found[1], FAILED)
        expected.pop(str(file), None)  # another thread may have read it too
    return file


def fault(file: Path, sha256: str) -> str:
    """Why a file is not the one with this hash; "" where it is."""
    if not file.is_file():
        return f"{file} is missing"
    return "" if sha256_of(file) == sha256 else f"{file} does not hold what was written: its sha256 is another"


def write_hashes(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Lists in a folder the sha256 of all its files (see `folder_fault`). known: those that their writers computed."""
    known = known or {}
    files = sorted(set(files_below(folder)) - {HASHES})
    write_json(folder / HASHES, {name: known.get(name) or sha256_of(folder / name) for name in files})


def identity(folder: Path) -> dict[str, str]:
    """What tells one folder with hashes from another, the sha256, and what it is called."""
    return {"name": folder.name, "sha256": sha256_of(folder / HASHES)}


def folder_fault(folder: Path, read_back: Iterable[str] = ()) -> str:
    """Why a folder with a list of hashes cannot be used; "" when every file is there with its hash.

    read_back: files that their writers have read already; only whether they are there is looked at.
    """
    try:
        hashes = read_json(folder / HASHES)
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict) or not hashes:
        return f"{HASHES} is missing or unreadable"
    for name, wanted in hashes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if name not in read_back and sha256_of(path) != wanted:
            return f"{name} does not have the hash that was stored"
    return ""


def git_blob_of(file: Path) -> str:
    """The name that git gives a file's content: what the hub lists for small files instead of a sha256."""
    summed = hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    with open(file, "rb") as stream:
        while block := stream.read(READ_BYTES):
            summed.update(block)
    return summed.hexdigest()
