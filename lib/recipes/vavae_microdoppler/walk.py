"""The files below a person's folder. What an operating system adds is passed over; what cannot be opened is listed with
the reason.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.recipes.vavae_microdoppler.stored import printable

# Those that no reader here knows are listed too, so that their owner hears why they are skipped.
IMAGE_TYPES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".avif",
    ".heic", ".heif",
)  # fmt: skip
ARRAY_TYPES = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".csv")
TYPES = {"images": IMAGE_TYPES, "iq": ARRAY_TYPES, "arrays": ARRAY_TYPES}
NOISE = {  # of Mac, Windows, Linux, Python, a NAS, and of step 2
    "__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found", "__pycache__",
    "@eadir", "#recycle", "#snapshot", "sources.json",
}  # fmt: skip
SHOWN = 5


@dataclass(frozen=True)
class File:
    """One file (or a folder that cannot be entered) of a person's data."""

    path: Path
    name: str  # relative to the root, with "/", as `printable` writes it
    user: str = ""
    inner: str = ""  # what of the name is not the user, without the type: "session_01/seg003"
    problem: str = ""  # why it cannot be used


def walk(
    folder: Path, above: str, types: tuple[str, ...], others: "Counter[str]", inside: tuple[tuple[int, int], ...]
) -> Iterator[File]:
    """Every file of the types below a folder; links are followed, but no folder is entered from within itself."""
    try:
        status = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        yield File(folder, above, problem=f"the folder cannot be opened ({error.strerror})")
        return
    here = (status.st_dev, status.st_ino)
    for entry in entries if here not in inside else ():
        name = f"{above}{printable(entry.name)}"
        if entry.name.startswith(".") or entry.name.lower() in NOISE:
            continue
        if is_folder(entry):
            yield from walk(Path(entry.path), f"{name}/", types, others, (*inside, here))
        elif Path(entry.name).suffix.lower() in types:
            yield File(Path(entry.path), name, problem=problem_of(entry))
        else:
            others[Path(entry.name).suffix.lower()] += 1


def is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def problem_of(entry: "os.DirEntry[str]") -> str:
    """Of anything but a file, which would end or block whoever opens it."""
    try:
        if entry.is_file():
            return ""
        return "it is a link to nothing" if entry.is_symlink() else "it is not a file"
    except OSError as error:
        return f"it cannot be opened ({error.strerror})"


def some(names: list[str], count: int = SHOWN) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def natural(text: str) -> list[Any]:
    """A key for sorting: numbers inside names count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", text)]
