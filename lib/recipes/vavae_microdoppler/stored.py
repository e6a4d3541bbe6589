"""Names of samples and of the pictures that are kept of them: two samples never meet, on any file system."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath

PLAIN = re.compile(r"[a-z0-9_-]")
LONGEST = 180  # bytes of one escaped name; file systems take 255


def sample_name(name: str, window: int | None = None) -> str:
    """The path in the data's folder with its type, and of an echo's window "#" and its number. One name, one sample."""
    return name + ("" if window is None else f"#{window}")


def printable(name: str) -> str:
    """A file's name as text of one line: line breaks and bytes that are not UTF-8 become \\u...., a backslash two."""

    def spelt(c: str) -> str:
        return f"\\u{ord(c):04x}" if c < " " or "\ud800" <= c <= "\udfff" else c.replace("\\", "\\\\")

    return "".join(map(spelt, name))


def image_path(out: Path, sample_id: str) -> Path:
    """Where the picture of a sample lies: below out/images, in the folders of the source."""
    *folders, last = PurePosixPath(sample_id).parts if sample_id else ("",)
    return Path(out, "images", *map(escaped, folders), escaped(last, plain_dots=True) + ".png")


def escaped(name: str, plain_dots: bool = False) -> str:
    """A name of a-z, 0-9, _ and - alone, from which the old one could be read back.

    "+a" stands for A, because some file systems take both for one; "%20" for the byte 20 of the name in UTF-8. A dot
    stays where `plain_dots` says so: never in a folder, so that no folder has the name of a picture. What is longer
    than LONGEST ends in its sha256.
    """
    text = "".join(one(c, plain_dots) for c in name)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 40]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}"


def one(character: str, plain_dots: bool) -> str:
    if PLAIN.fullmatch(character) or (plain_dots and character == "."):
        return character
    if "A" <= character <= "Z":
        return f"+{character.lower()}"
    return "".join(f"%{byte:02x}" for byte in os.fsencode(character))
