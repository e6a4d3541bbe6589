"""The formats of data.format, and the reader of a plain folder of pictures with a list of hands.

`hands.json` is a list, or {"hands": list}, of {file, hand: left|right, box: [x0, y0, x1, y1] px, group}, and where they
are known keypoints_2d (21 x 2 or 3 px), keypoints_3d (21 x 3 or 4 m), hand_pose (48, axis-angle in rad), betas (10).
`hands.csv` has the columns file, hand, x0, y0, x1, y1, group. Paths are relative to the folder.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer import published
from lib.recipes.hamer.config import DataConfig
from lib.recipes.hamer.crop import Labels, square
from lib.recipes.hamer.labelled import Hand, box_of, confident, group_of, load_json

LABEL_FILES = ("hands.json", "hands.csv")
READERS = {"made": published.evaluation, "hamer_npz": published.evaluation, "hamer_tar": published.tars}


def hands(data: DataConfig, root: Path, hands_mean: np.ndarray) -> Iterator[Hand]:
    """Every hand below `root` in the format `data.format`, in a fixed order.

    hands_mean (45,) rad: MANO's, which FreiHAND's poses leave out. Stop: data that is missing, damaged or of another
    format, and two hands of one name.
    """
    if not root.exists():
        raise Stop(f"the data folder {root} does not exist", "set data.root to your data")
    if data.format == "freihand":
        found = published.freihand(data, root, hands_mean)
    else:
        found = (READERS | {"folder": folder})[data.format](data, root)
    seen = set()
    for hand in found:
        if hand.name in seen:
            raise Stop(f"two hands are called {hand.name}", "rename one of them")
        seen.add(hand.name)
        yield hand


def folder(data: DataConfig, root: Path) -> Iterator[Hand]:
    """Images with `hands.json` or `hands.csv`.

    A box is tight and grows by `data.box_factor`; without one the keypoints give it, and without those the whole image
    is the crop.
    """
    for number, entry in enumerate(entries(root)):
        file = entry["file"]
        labels = labels_of(entry, root)
        centre, side_px = entry_box(entry, root / file, labels, data.box_factor)
        group = str(entry.get("group") or group_of(data, file, str(Path(file).parent)))
        right = side_of(entry) == "right"
        yield Hand(f"{file}#{number}", group, root / file, file, right, centre, side_px, labels)


def labels_of(entry: dict[str, Any], root: Path) -> Labels:
    labels = Labels()
    for name, columns in (("keypoints_2d", 3), ("keypoints_3d", 4)):
        if entry.get(name) is not None:
            points = np.array(entry[name], np.float32)
            points = points if points.ndim == 2 and points.shape[1] == columns else confident(points)
            if points.shape != (21, columns):
                cause = f"{root}: {name} of {entry['file']} has the shape {points.shape} instead of (21, {columns})"
                raise Stop(cause, "correct the label file")
            setattr(labels, name, points)
    for name, flag in (("hand_pose", "has_pose"), ("betas", "has_betas")):
        if entry.get(name) is not None:
            setattr(labels, name, np.array(entry[name], np.float32).ravel())
            setattr(labels, flag, True)
    return labels


def side_of(entry: dict[str, Any]) -> str:
    """left or right. Stop: anything else."""
    hand = str(entry.get("hand", "")).lower()
    if hand not in ("left", "right"):
        raise Stop(f"{entry['file']}: hand is {hand!r}, but only left and right are known", "correct the label file")
    return hand


def entry_box(entry: dict[str, Any], path: Path, labels: Labels, factor: float) -> tuple[np.ndarray, float]:
    """Centre (2,) px and side of the square crop in px; 0 where the box has no area."""
    if entry.get("box") is not None:
        box = np.array(entry["box"], float)
        width_px, height_px = (factor * (box[2:] - box[:2])).clip(0)
        return (box[:2] + box[2:]) / 2, square(width_px, height_px)
    if labels.keypoints_2d[:, 2].any():
        return box_of(labels.keypoints_2d, factor)
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image.size) / 2 - 0.5, float(max(image.size))


def entries(root: Path) -> list[dict[str, Any]]:
    """The label file as dictionaries; boxes of a CSV are its columns x0, y0, x1, y1.

    Stop: there is none, or it is not a list of hands that each name a file.
    """
    file = next((root / name for name in LABEL_FILES if (root / name).exists()), None)
    if file is None:
        cause = f"{root} holds neither {' nor '.join(LABEL_FILES)}"
        raise Stop(cause, "write one: a row per hand with file, hand, x0, y0, x1, y1, group")
    found = json_rows(file) if file.suffix == ".json" else csv_rows(file)
    if not isinstance(found, list) or not all(isinstance(entry, dict) and entry.get("file") for entry in found):
        cause = f"{file} is not a list of hands that each name a file"
        raise Stop(cause, "see the docstring of lib/recipes/hamer/formats.py")
    return found


def json_rows(file: Path) -> Any:
    content = load_json(file)
    return content["hands"] if isinstance(content, dict) and "hands" in content else content


def csv_rows(file: Path) -> Any:
    with open(file, newline="", encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    for row in rows:
        row["box"] = [row[side] for side in ("x0", "y0", "x1", "y1")] if row.get("x0") else None
    return rows
