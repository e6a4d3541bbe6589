"""CSV files that people open in a spreadsheet: text that a spreadsheet would run as a formula stays text.

A cell of text that begins like a formula gets an apostrophe in front, which `read_table` takes off again; numbers such
as -1.5 stay numbers.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib.core.run import atomic

FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # an apostrophe too, so that every text comes back as it was


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([escaped(cell) for cell in row] for row in [header, *rows])


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of what `write_table` wrote, by column."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: plain(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def escaped(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(FORMULA) or is_number(cell):
        return cell
    return f"'{cell}"


def plain(cell: str) -> str:
    return cell.removeprefix("'") if cell else cell


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
