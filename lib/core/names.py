"""Names that become a folder or a file: a run, a scene, a shard. A name is never a path out of where it belongs."""

import re
import unicodedata
from typing import Any

from lib.core.errors import Stop

MOST_BYTES = 200  # of one component; file systems take 255, and temporary names add some
# What programs write where a table has no name.
NO_NAME = {
    "", "None", "none", "null", "NULL", "nan", "NaN", "N/A", "n/a", "#N/A", "<NA>", "-1", "?", "unknown", "Unknown",
}  # fmt: skip
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are no UTF-8


def fault(name: str, nested: bool = False) -> str:
    """Why a name cannot be a path component, or several of them (`nested`, with "/"); "" where it can.

    Unicode stays as it is: a name is refused or kept, never rewritten, so two names cannot become one.
    """
    parts = name.split("/") if nested else [name]
    if CONTROL.search(name):
        return "holds a control character"
    if SURROGATE.search(name):
        return "is not text in UTF-8"
    if "\\" in name or (not nested and "/" in name):
        return "holds a separator of folders"
    if ".." in parts or name.startswith("/"):
        return "leads out of its folder"
    if any(part in ("", ".") for part in parts):
        return "is not a name"
    if any(part.startswith("-") or part != part.strip() for part in parts):
        return "begins with a hyphen or has a space at its end"
    if any(len(part.encode("utf-8", "surrogatepass")) > MOST_BYTES for part in parts):
        return f"is longer than {MOST_BYTES} bytes"
    return ""


def refuse_unsafe(what: str, name: str, command: str = "", nested: bool = False) -> None:
    """Stop: the name cannot be a folder. what: the flag or setting that gave it."""
    if why := fault(name, nested):
        shown = name if len(name) <= 60 else f"{name[:60]}…"
        raise Stop(f"{what} {shown!r} {why}", command or "give a plain name, such as mine-2")


def spelling(name: str) -> str:
    """The same for names that differ in capitals, separators, leading zeros and forms of one character alone."""
    text = re.sub(r"[\s_.()#-]+", " ", unicodedata.normalize("NFKC", name).casefold())
    parts = re.findall(r"\d+|[^\d ]+", text)
    return " ".join(part.lstrip("0") or "0" if part.isdigit() else part for part in parts)


def stated(value: Any) -> str:
    """A name in somebody's table as text: 3.0, as pandas writes numbers beside gaps, is "3", and what stands for no
    name is "".
    """
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return "" if text.strip() in NO_NAME else re.sub(r"^(\d+)\.0+$", r"\1", text)
