"""A labelled hand, and what every reader of hands needs.

A reader gives labels as its format has them. `formats.hands` turns them into ours (conventions.py), once and nowhere
else: keypoints in pixels of the whole upright picture, metres in camera axes, boxes as centre and side of a square.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer.conventions import BadLabel
from lib.recipes.hamer.crop import Labels, square
from lib.recipes.hamer.data_config import DataConfig

MOST_BYTES = 4_000_000_000  # of a column of an .npz, or of the members of a tar: HaMeR's largest have 0.2 GB
# What numpy and Python raise on labels that are not what they should be: text, tables with gaps, numbers too large.
DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass
class Hand:
    name: str  # unique in the data set
    group: str  # subject or sequence
    image: Path | bytes
    source: str  # path below the root
    right: bool = True
    centre: np.ndarray = field(default_factory=lambda: np.zeros(2))  # px
    side_px: float = 0.0  # of the square crop
    given: Labels = field(default_factory=Labels)  # as the file has them
    labels: Labels = field(default_factory=Labels)  # in our conventions
    likely_box: str = ""  # a setting under which the box would lie on the hand, where it does not, or EXCHANGED
    fault: str = ""  # why the hand cannot be read
    draft: bool = False  # a model's proposal that nobody accepted: its box counts, its labels do not


def attempt(name: str, group: str, image: Path | bytes, source: str, fill: Callable[[Hand], None]) -> Hand:
    """A hand with what `fill` reads of it, or one whose `fault` says why that failed."""
    hand = Hand(name, group, image, source)
    try:
        fill(hand)
    except BadLabel as error:
        hand.fault = str(error)
    except DAMAGED as error:
        hand.fault = f"its labels cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    return hand


def table(value: Any, name: str, *shapes: tuple[int, ...], kind: type = np.float32) -> np.ndarray:
    """Numbers of one of these shapes. BadLabel: something else."""
    try:
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the checks refuse
            numbers: np.ndarray = np.array(value, np.float64).astype(kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadLabel(f"{name} is not a table of numbers") from error
    if shapes and numbers.shape not in shapes:
        wanted = " or ".join(str(shape) for shape in shapes)
        raise BadLabel(f"{name} has the shape {numbers.shape} instead of {wanted}")
    return numbers


def flag(cell: dict[str, Any], name: str) -> bool:
    """Yes or no, yes where nothing is said. BadLabel: neither."""
    value = table(cell.get(name, 1), name).ravel()
    if value.shape != (1,) or value[0] not in (0, 1):
        raise BadLabel(f"{name} is {value.tolist()[:3]} instead of 0 or 1")
    return bool(value[0])


def is_name(text: Any) -> bool:
    """Is this text that can stand in a manifest: in UTF-8, on one line, and not empty?"""
    try:
        return isinstance(text, str) and bool(text.encode("utf-8")) and not any(ord(letter) < 32 for letter in text)
    except UnicodeEncodeError:
        return False


def group_of(data: DataConfig, name: str, otherwise: str) -> str:
    """The subject or sequence that `data.group_pattern` finds in a name; `otherwise` where there is no pattern.

    Stop: the pattern does not match. A group is never guessed.
    """
    if not data.group_pattern:
        return otherwise
    match = re.search(data.group_pattern, name)
    if not match or match.group(1) is None:
        cause = f"data.group_pattern={data.group_pattern!r} finds no group in {name!r}"
        raise Stop(cause, "correct the pattern: its first parentheses are the group")
    return str(match.group(1))


def load_json(path: Path) -> Any:
    """Stop: the file is not JSON to its end, or cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise Stop(f"{path} is not complete JSON ({error})", "fetch it again, or correct it") from error


def box_of(keypoints_2d: np.ndarray, factor: float) -> tuple[np.ndarray, float]:
    """Centre (2,) px and side in px of the crop around the confident ones of keypoints (21, 3); a side of 0: none."""
    points = keypoints_2d[(keypoints_2d[:, 2] > 0) & np.isfinite(keypoints_2d).all(1), :2]
    if not len(points):
        return np.zeros(2), 0.0
    low, high = points.min(0), points.max(0)
    width_px, height_px = factor * (high - low)
    return (low + high) / 2, square(width_px, height_px)


def place(hand: Hand, data: DataConfig, points: np.ndarray) -> None:
    hand.centre, hand.side_px = box_of(points, data.box_factor)


def pixels_of(joints: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Joints (21, 3) m in OpenCV's axes through a camera (3, 3) -> (21, 2) px."""
    flat = joints @ camera.T
    with np.errstate(divide="ignore", invalid="ignore"):  # a depth of 0: the checks refuse what is not finite
        return np.asarray(flat[:, :2] / flat[:, 2:])
