"""The formats of data.format, and the reader of a plain folder of pictures with a list of hands.

`hands.json` is a list, or {"hands": list}, of {file, hand: left|right, box: [x0, y0, x1, y1] px, group}, and where they
are known keypoints_2d (21 x 2 or 3 px), keypoints_3d (21 x 3 or 4 m), hand_pose (48, axis-angle in rad), betas (10).
A hand with `draft: true` is a model's proposal: until a person accepts it, it counts as a box without labels. One with
`rejected: true` is no hand. `K` is the camera's matrix for --predict (predict.py).
`hands.csv` has the columns file, hand, x0, y0, x1, y1, group. Paths are relative to the folder. Pixels are those of the
upright picture. Other conventions have settings: data.joint_order_2d, joint_order_3d, axes, pose_format, left_betas,
box_format (its four numbers are in the columns x0, y0, x1, y1 all the same), confidence.
"""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.core.names import stated
from lib.data import pictures
from lib.recipes.hamer import conventions, field_sets, list_fields, published, training_tars
from lib.recipes.hamer.conventions import BadLabel
from lib.recipes.hamer.crop import Labels, square
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.labelled import Hand, attempt, box_of, group_of, is_name, load_json, table
from lib.recipes.hamer.list_fields import SIDES
from lib.recipes.hamer.mano_file import ManoModel

LABEL_FILES = ("hands.json", "hands.csv")
MOST_PX = 1e7
NAMELESS = "the list does not say whose hand it is, as it does of others in this folder: it may be any of theirs"
TWICE = "it is there twice: the same picture, side and box or keypoints as a hand before it"
READERS = {
    "made": published.evaluation,
    "hamer_npz": published.evaluation,
    "hamer_tar": training_tars.tars,
    "freihand": published.freihand,
    "coco_wholebody": field_sets.coco_wholebody,
    "ho3d": field_sets.ho3d,
    "dexycb": field_sets.dexycb,
    "interhand": field_sets.interhand,
}


def hands(data: DataConfig, root: Path, mano: ManoModel) -> Iterator[Hand]:
    """Every hand below `root` in the format `data.format`, in a fixed order, with labels in our conventions.

    A hand that cannot be read says why in `fault`. Stop: data that is missing, damaged or of another format, and two
    hands of one name.
    """
    if not root.exists():
        raise Stop(f"the data folder {root} does not exist", "set data.root to your data")
    said, seen, placed = conventions.conventions_of(data), set(), set()
    for hand in (READERS | {"folder": folder})[data.format](data, root):
        if hand.name in seen:
            raise Stop(f"two hands are called {hand.name}", "rename one of them")
        seen.add(hand.name)
        place = hash((hand.source, hand.right, *hand.centre.tolist(), hand.side_px))
        if place in placed and not hand.draft:
            hand.fault = hand.fault or TWICE
        placed |= {place} if not hand.draft and not hand.fault else set()
        if isinstance(hand.image, Path) and not is_below(hand.image, root):
            hand.fault = "its picture does not lie below the data's folder"
        try:
            hand.labels = conventions.ours(hand.given, said, mano, hand.right)
        except BadLabel as error:
            hand.fault = hand.fault or str(error)
        yield hand


def is_below(image: Path, root: Path) -> bool:
    """Step 2 notes the content of what lies there, and of nothing else."""
    return image.is_relative_to(root.parent if root.is_file() else root) and ".." not in image.parts


def folder(data: DataConfig, root: Path) -> Iterator[Hand]:
    """Images with `hands.json` or `hands.csv`.

    A box is tight and grows by `data.box_factor`; without one the keypoints give it, and without those the whole image
    is the crop.
    """
    listed = entries(root)
    nameless = set() if data.group_pattern else list_fields.of_nobody(listed)
    groups = [str(e.get("group") or group_of(data, e["file"], str(Path(e["file"]).parent))) for e in listed]
    list_fields.refuse_one_person_twice(groups)
    tops = {name: top(data, listed, name, columns) for name, columns in (("keypoints_2d", 3), ("keypoints_3d", 4))}
    for number, (entry, group) in enumerate(zip(listed, groups, strict=True)):
        file = entry["file"]
        fill = partial(fill_entry, entry=entry, data=data, path=root / file, tops=tops)
        hand = attempt(f"{file}#{number}", group, root / file, file, fill)
        hand.fault = hand.fault or (NAMELESS if number in nameless else "")
        yield hand


def top(data: DataConfig, listed: list[dict[str, Any]], name: str, columns: int) -> float:
    """The confidence that means certain among all hands: one hand alone does not show the scale."""
    found = []
    for entry in listed:
        try:
            found.append(table(entry[name], name, (21, columns))[:, -1])
        except (KeyError, BadLabel):  # no such labels, without confidences, or for `fill_entry` to refuse
            continue
    return conventions.certain(np.concatenate([np.zeros(1), *found]), data.confidence, name)


def fill_entry(hand: Hand, entry: dict[str, Any], data: DataConfig, path: Path, tops: dict[str, float]) -> None:
    hand.right = side_of(entry) == "right"
    given, box = labels_of(entry, tops), box_in(entry)
    hand.draft = is_draft(entry)
    hand.given = Labels() if hand.draft else given
    if box is not None:
        likely = conventions.likelier_box(box, given.keypoints_2d, data.box_format)
        corners = conventions.corners(box, data.box_format)
        hand.likely_box = f"data.box_format={likely}" if likely else ""
        if not likely and conventions.exchanged(corners, given.keypoints_2d):
            hand.likely_box = conventions.EXCHANGED
        hand.centre, hand.side_px = grown(corners, data.box_factor)
    elif given.keypoints_2d[:, 2].any():
        hand.centre, hand.side_px = box_of(given.keypoints_2d, data.box_factor)
    else:
        try:
            size = pictures.header(path, upright=True)[:2]
        except pictures.Unreadable as error:
            raise BadLabel(f"the picture cannot be used: {error}") from error
        hand.centre, hand.side_px = np.array(size) / 2 - 0.5, float(max(size))


def labels_of(entry: dict[str, Any], tops: dict[str, float]) -> Labels:
    """Labels as the entry has them. BadLabel: one of another shape."""
    labels = Labels()
    for name, columns in (("keypoints_2d", 3), ("keypoints_3d", 4)):
        if entry.get(name) is not None:
            points = table(entry[name], name, (21, columns - 1), (21, columns))
            known = points.shape[1] == columns
            setattr(labels, name, conventions.weighted(points, tops[name]) if known else conventions.confident(points))
    if entry.get("hand_pose") is not None:
        labels.hand_pose, labels.has_pose = table(entry["hand_pose"], "hand_pose").ravel(), True
    if entry.get("betas") is not None:
        labels.betas, labels.has_betas = table(entry["betas"], "betas", (10,), (1, 10)).ravel(), True
    return labels


def is_draft(entry: dict[str, Any]) -> bool:
    """Has nobody accepted these labels yet? BadLabel: `draft` is neither true nor false."""
    return marked(entry, "draft")


def marked(entry: dict[str, Any], name: str) -> bool:
    """BadLabel: draft or rejected is neither true nor false."""
    mark = entry.get(name, False)
    if not isinstance(mark, bool):
        raise BadLabel(f"{name} is {mark!r} instead of true or false")
    return mark


def side_of(entry: dict[str, Any]) -> str:
    """left or right. BadLabel: anything else."""
    hand = str(entry.get("hand", "")).lower()
    if hand not in ("left", "right"):
        raise BadLabel(f"hand is {hand!r}, but only left and right are known")
    return hand


def box_in(entry: dict[str, Any]) -> np.ndarray | None:
    """The four numbers of the box as they are given, None without one. BadLabel: they are not, or no picture's."""
    if entry.get("box") is None:
        return None
    box = table(entry["box"], "box", (4,), kind=np.float64)
    if not (np.abs(box) < MOST_PX).all():
        raise BadLabel(f"box is {box.tolist()}, which no picture has")
    if (np.abs(box) < conventions.FRACTION_PX).all():
        raise BadLabel(f"box holds shares of the picture, and pixels are expected ({box.tolist()})")
    return box


def grown(box: np.ndarray, factor: float) -> tuple[np.ndarray, float]:
    """Centre (2,) px and side in px of the crop around a box x0, y0, x1, y1; a side of 0 where it has no area."""
    width_px, height_px = (factor * (box[2:] - box[:2])).clip(0)
    return (box[:2] + box[2:]) / 2, square(width_px, height_px)


def entries(root: Path, rejected: bool = False) -> list[dict[str, Any]]:
    """The label file as dictionaries; boxes of a CSV are its columns x0, y0, x1, y1.

    rejected: also the drafts that a person rejected, which stay in the list so that they are not drafted again.

    Stop: there is none, or it is not a list of hands that each name a file.
    """
    file = next((root / name for name in LABEL_FILES if (root / name).exists()), None)
    if file is None:
        cause = f"{root} holds neither {' nor '.join(LABEL_FILES)}"
        raise Stop(cause, "write one: a row per hand with file, hand, x0, y0, x1, y1, group")
    if len(there := [name for name in LABEL_FILES if (root / name).exists()]) > 1:
        print(f"  {there[1]} is not read, because {there[0]} lies beside it", flush=True)
    found = json_rows(file) if file.suffix == ".json" else csv_rows(file)
    if not isinstance(found, list) or not found:
        raise Stop(f"{file} is not a list of hands", "see the docstring of lib/recipes/hamer/formats.py")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict) or not is_name(entry.get("file")) or not is_name(str(entry.get("group") or "x")):
            cause = f"{file} is not a list of hands that each name a file: number {number} does not"
            raise Stop(cause, "see the docstring of lib/recipes/hamer/formats.py")
        if "group" in entry:
            entry["group"] = stated(entry["group"])
        if Path(entry["file"]).is_absolute() or ".." in Path(entry["file"]).parts:
            raise Stop(f"{file} names {entry['file']!r}, which is not below {root}", "name files of the folder itself")
    list_fields.refuse_other_names(file, found)
    try:
        return [entry for entry in found if rejected or not marked(entry, "rejected")]
    except BadLabel as error:
        raise Stop(f"{file}: {error}", "correct the list of hands") from error


def json_rows(file: Path) -> Any:
    content = load_json(file)
    return content["hands"] if isinstance(content, dict) and "hands" in content else content


def csv_rows(file: Path) -> Any:
    """Stop: a table that cannot be read, or one with a part of a box."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            head = lines.readline()
            lines.seek(0)
            mark = ";" if ";" in head and "," not in head else ","
            rows: list[dict[str, Any]] = list(csv.DictReader(lines, delimiter=mark, skipinitialspace=True))
    except (csv.Error, ValueError, OSError) as error:
        raise Stop(f"{file} is not a table of comma-separated values ({error})", "save it as CSV in UTF-8") from error
    there = [side for side in SIDES if rows and side in rows[0]]
    if there and len(there) < len(SIDES):
        raise Stop(
            f"{file} has the columns {', '.join(there)} but not all of {', '.join(SIDES)}", "add the missing ones"
        )
    for number, row in enumerate(rows, 2):
        if None in row:
            raise Stop(f"{file}, line {number} has more cells than the first line has names", "correct the table")
        if there:
            row["box"] = [row[side] for side in SIDES] if any(row[side] for side in SIDES) else None
    return rows
