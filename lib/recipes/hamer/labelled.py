"""A labelled hand, and what every reader of hands needs.

Conventions meet in the readers and nowhere else: keypoints in pixels of the whole image, OpenPose order; metres in
camera axes (x right, y down, z forward); poses relative to the flat hand; boxes as centre and side of a square.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer.config import DataConfig
from lib.recipes.hamer.crop import Labels, square

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass
class Hand:
    name: str  # unique in the data set
    group: str  # subject or sequence
    image: Path | bytes
    source: str  # path below the root
    right: bool
    centre: np.ndarray  # (2,) px
    side_px: float  # of the square crop
    labels: Labels


def group_of(data: DataConfig, name: str, otherwise: str) -> str:
    """The subject or sequence that `data.group_pattern` finds in a name; `otherwise` where there is no pattern.

    Stop: the pattern does not match. A group is never guessed.
    """
    if not data.group_pattern:
        return otherwise
    match = re.search(data.group_pattern, name)
    if not match or not match.groups():
        cause = f"data.group_pattern={data.group_pattern!r} finds no group in {name!r}"
        raise Stop(cause, "correct the pattern: its first parentheses are the group")
    return str(match.group(1))


def load_json(path: Path) -> Any:
    """Stop: the file is not JSON to its end."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Stop(f"{path} is not complete JSON ({error})", "fetch it again") from error


def confident(points: np.ndarray) -> np.ndarray:
    """Coordinates (n, d) -> (n, d + 1) float32 with confidence 1 as a last column."""
    return np.hstack([points, np.ones((len(points), 1))]).astype(np.float32)


def box_of(keypoints_2d: np.ndarray, factor: float) -> tuple[np.ndarray, float]:
    """Centre (2,) px and side in px of the crop around the confident ones of keypoints (21, 3); a side of 0: none."""
    points = keypoints_2d[keypoints_2d[:, 2] > 0, :2]
    if not len(points):
        return np.zeros(2), 0.0
    low, high = points.min(0), points.max(0)
    width_px, height_px = factor * (high - low)
    return (low + high) / 2, square(width_px, height_px)
