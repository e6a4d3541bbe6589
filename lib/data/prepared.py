"""Prepared arrays are known by what they hold: step 3 notes every file's sha256, and whoever reads one compares.

What a recipe makes beside them for one stage (`stage_inputs`) is known so too, and compared before a training.

Hashing all of a large data set before each step would cost minutes, so a file is hashed once per process, when it is
read first. A changed bit ends the step instead of changing a score in silence.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.core.errors import FAILED
from lib.core.hashes import expect, fault, sha256_of
from lib.core.run import LISTED, Damaged, existing, files_below, read_record, write_record

FILE = LISTED  # in the folder of the arrays, written last
FOLDER = "folder"  # in it: what the folder is called, which says what it was made from


def clear_damaged(folder: Path, what: str = "all prepared arrays") -> bool:
    """Before step 3 writes: a finished folder that is not whole any more is removed, and that is said. Was it?

    All of it, because recipes take one file of a sample for the proof of the others. A folder that a pause left
    unfinished stays.
    """
    try:
        noted = read_record(folder / FILE)
        why = "" if noted is None else fault_of(folder, listed(folder, noted, ""))
    except Damaged as damaged:
        why = damaged.cause
    if why:
        print(f"{why}; {what} are made again", flush=True)
        shutil.rmtree(folder)
    return bool(why)


def listed(folder: Path, noted: dict[str, Any], command: str) -> dict[str, str]:
    """The hashes of a folder's files. Damaged: they are those of another folder, which was copied over it."""
    if noted.get(FOLDER, folder.name) != folder.name:
        raise Damaged(f"{folder} does not hold what was written, but a copy of {noted[FOLDER]}", command, FAILED)
    hashes: dict[str, str] = noted["files"]
    return hashes


def fault_of(folder: Path, hashes: dict[str, str]) -> str:
    """The first file that is gone or holds something else, in words; "" where all are whole."""
    for name, sha256 in hashes.items():
        if found := fault(folder / name, sha256):
            return found
    return ""


def note(folder: Path, pause: Callable[[], None]) -> None:
    """Notes the hashes of all files, at the end of step 3. pause() is called between two files."""
    hashes = {}
    for name in sorted(set(files_below(folder)) - {FILE}):
        pause()
        hashes[name] = sha256_of(folder / name)
    write_record(folder / FILE, {FOLDER: folder.name, "files": hashes})


def whole_or_again(make: Callable[[], Path | None], cache: Path, pause: Callable[[], None]) -> Path | None:
    """What `make` returns: a folder, which is made again where it does not hold what was noted. Each file is read once.

    cache: nothing outside of it is noted or removed (a folder of somebody else's). pause() is called between two files.
    """
    folder = make()
    if folder is None or not folder.is_relative_to(cache):
        return folder
    if clear_damaged(folder, f"the files of {folder.name}"):
        folder = make()
        assert folder is not None
    if not (folder / FILE).exists():
        note(folder, pause)
    return folder


def expect_noted(folder: Path, command: str) -> None:
    """From here on the folder's files are compared when they are read (lib.core.hashes.checked).

    Damaged: it has no hashes, or those of another folder. command: what prepares again.
    """
    expect(folder, listed(folder, existing(folder / FILE, command), command), command)
