"""What a record of nuScenes' JSON files must hold. A damaged one ends in a sentence that names file, record and field.

Python's JSON takes NaN, and any value where another one was; what reaches the geometry unchecked becomes a wrong ray or
an exception of another library.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lib.core.errors import Stop

FARTHEST_M = 1e7  # no map coordinate is a quarter of the Earth away
LONGEST_LANE_M = 1e5  # of a piece of a lane: its points are half a metre apart
LONGEST_NAME = 200  # file systems take 255 bytes, and endings are added
GET_AGAIN = "bring the file again, as https://www.nuscenes.org/nuscenes has it"


class Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63  # True is an int for Python, and no float holds the largest ints


def are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(is_number, value))


def is_file_name(value: Any) -> bool:
    """Tokens, scenes and locations become files and folders of the run: none may lead out of them."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and bool(re.fullmatch(r"(?!\.)[^/\\\0]+", value))


def is_rotation(value: Any) -> bool:
    return are_numbers(value, 4) and math.hypot(*value) > 1e-6


def is_camera_matrix(value: Any) -> bool:
    rows = isinstance(value, list) and len(value) == 3 and all(are_numbers(row, 3) for row in value)
    return rows and value[0][0] > 0 and value[1][1] > 0 and value[2] == [0, 0, 1]


def is_shape(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[LSR]{3}", value))


def are_lengths(value: Any) -> bool:
    return are_numbers(value, 3) and min(value) >= 0 and max(value) < LONGEST_LANE_M


TEXT = Kind("text", lambda value: isinstance(value, str))
TEXT_OR_NOTHING = Kind("text or null", lambda value: value is None or isinstance(value, str))
TEXTS = Kind("a list of text", lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value))
NAME = Kind("a name without / and a leading dot", is_file_name)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", is_whole)
PIXELS = Kind("a number of pixels", lambda value: is_whole(value) and 0 < value < 2**31)
METRES = Kind("a coordinate in metres", lambda value: is_number(value) and abs(value) < FARTHEST_M)
PLACE = Kind("three coordinates in metres", lambda value: are_numbers(value, 3) and max(map(abs, value)) < FARTHEST_M)
ROTATION = Kind("a quaternion [w, x, y, z]", is_rotation)
CAMERA_MATRIX = Kind("a 3 x 3 camera matrix", is_camera_matrix)
POSE = Kind("x and y in metres and a heading", PLACE.fits)
SHAPE = Kind("three letters of L, S and R", is_shape)
RADIUS = Kind("a radius in metres", lambda value: is_number(value) and 0 < value < FARTHEST_M)
LENGTHS = Kind("three lengths in metres", are_lengths)
LIST = Kind("a list", lambda value: isinstance(value, list))


Kinds = Mapping[str, Kind]  # field -> what it must be


def refuse_damaged(path: Path, record: Any, name: str, wanted: Kinds) -> None:
    """Stop where a record is not a JSON object or a field is absent or of another kind.

    name: which record it is, for the sentence: "record 17", "node 3".
    """
    if not isinstance(record, dict):
        raise Stop(f"{path}: {name} is {shown(record)}, not a JSON object", GET_AGAIN)
    for field, kind in wanted.items():
        if field not in record:
            raise Stop(f"{path}: {name} has no {field!r}", GET_AGAIN)
        if not kind.fits(record[field]):
            raise Stop(f"{path}: {field!r} of {name} is {shown(record[field])}, not {kind.words}", GET_AGAIN)


def shown(value: Any) -> str:
    """A value for a sentence, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a deep {type(value).__name__}"
    return text if len(text) <= 60 else text[:60] + " …"
