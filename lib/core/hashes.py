"""Content hashes of files, remembered.

Hashing gigabytes takes minutes, so a hash is kept beside the file's size and time of change (cache/hashes.json), and
looking at an unchanged file again costs one `stat`.
"""

import hashlib
from pathlib import Path

from lib.core.run import read_memo, write_record

READ_BYTES = 1 << 22


class Memo:
    """Hashes of files by path, size and time of change."""

    def __init__(self, path: Path):
        self.path, self.known, self.changed = path, read_memo(path), False

    def sha256(self, file: Path) -> str:
        status = file.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = self.known.get(str(file.absolute()))
        if not entry or entry[:2] != stamp:
            entry = [*stamp, sha256_of(file)]
            self.known[str(file.absolute())], self.changed = entry, True
        return entry[2]

    def save(self) -> None:
        if self.changed:
            write_record(self.path, self.known)
            self.changed = False


def sha256_of(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_blob_of(file: Path) -> str:
    """The name that git gives a file's content: what the hub lists for small files instead of a sha256."""
    summed = hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    with open(file, "rb") as stream:
        while block := stream.read(READ_BYTES):
            summed.update(block)
    return summed.hexdigest()
