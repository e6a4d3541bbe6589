"""Tables on disk: CSV files that open as one pandas DataFrame, and safely in a spreadsheet.

A table's columns and their dtypes are stated where it is made: MANIFEST (lib.data.split), PER_SAMPLE
(lib.evaluation.statistics), COMPARISON (lib.commands.compare), LAYERS (lib.network.layers). A cell of text that a
spreadsheet would run as a formula gets an apostrophe in front, which `read_table` takes off again; numbers such as -1.5
stay numbers, and a missing one is an empty cell.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.errors import Stop
from lib.core.run import atomic

if TYPE_CHECKING:
    import pandas as pd

TEXT, NUMBER, COUNT, YES_NO = "str", "float64", "Int64", "boolean"  # dtypes; COUNT and YES_NO may have missing values
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # an apostrophe too, so that every text comes back as it was


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """The frame without its index. Numbers are written so that they come back bit for bit."""
    from pandas.api.types import is_numeric_dtype

    told = {name: column if is_numeric_dtype(column) else column.map(escaped) for name, column in frame.items()}
    out = frame.assign(**told).rename(columns=escaped)
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        out.to_csv(file, index=False, lineterminator="\r\n")


def read_table(path: Path, columns: Mapping[str, str]) -> "pd.DataFrame":
    """What `write_table` wrote. columns: dtype of each column that must be there; further ones come as text.

    Stop: it is not such a table.
    """
    import pandas as pd

    again = f"put {path.name} back from a copy, or make it again with --force"
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Stop(f"{path} is not a table of comma-separated values ({error})", again) from error
    found = found.rename(columns=plain).map(plain)
    if missing := [name for name in columns if name not in found]:
        raise Stop(f"{path} has no column {missing[0]}", again)
    try:
        return found.assign(**{name: typed(found[name], dtype) for name, dtype in columns.items()})
    except (TypeError, ValueError) as error:
        raise Stop(f"{path} holds what is not a number ({error})", again) from error


def typed(column: "pd.Series[Any]", dtype: str) -> "pd.Series[Any]":
    """Text as its dtype; an empty cell is a missing value."""
    import pandas as pd

    if dtype == TEXT:
        return column
    known = column != ""
    if dtype == NUMBER:
        return column.where(known, "nan").astype("float64")
    meaning = {"True": True, "False": False} if dtype == YES_NO else None
    values = [
        (meaning[cell] if meaning else int(cell)) if there else pd.NA for cell, there in zip(column, known, strict=True)
    ]
    return pd.Series(values, column.index, dtype=dtype)


def escaped(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(FORMULA) or is_number(cell):
        return cell
    return f"'{cell}"


def plain(cell: str) -> str:
    return cell.removeprefix("'")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
