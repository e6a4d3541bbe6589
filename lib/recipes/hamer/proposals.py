"""Entries of hands.json that the current model fills in, and the pictures without any."""

from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.data import pictures
from lib.recipes.hamer import conventions, detector, drafts, formats, label_page
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.drafts import Draft, Wanted

Entry = dict[str, Any]
BATCH = 8  # hands of one forward


def of_photographs(
    config: Config, network: Any, folder: Path, files: list[str], given: list[Entry], find: Any, box: Any
) -> list[Entry]:
    """The entries of all pictures, in the order of their names; an unreadable one is named and gets no draft."""
    found: list[Entry] = []
    waiting: list[tuple[Entry, Wanted]] = []
    for file in files:
        picture, mine = read(folder, file), [entry for entry in given if entry["file"] == file]
        if picture is None:
            found += mine
            continue
        for entry in mine or starts(file, picture, find, box):
            found.append(entry)
            if not is_settled(entry):
                waiting.append((entry, wanted(entry, picture)))
        if len(waiting) >= BATCH:
            fill(config, network, folder, waiting)
            waiting = []
    fill(config, network, folder, waiting)
    return found


def read(folder: Path, file: str) -> np.ndarray | None:
    try:
        return np.asarray(pictures.read(folder / file, upright=True))
    except pictures.Unreadable as error:
        print(f"  skipped {file}: {error}", flush=True)
        return None


def starts(file: str, picture: np.ndarray, find: Any, box: Any) -> list[Entry]:
    """Boxes of a picture that has none. A detector that finds nothing leaves nothing to draft."""
    if find:
        boxes = detector.boxes(find, picture, file)
    else:
        height, width = picture.shape[:2]
        boxes = [box or ("right", [0, 0, width - 1, height - 1])]
    return [{"file": file, "hand": side, "box": list(numbers)} for side, numbers in boxes]


def is_settled(entry: Entry) -> bool:
    """Did a person accept, label or reject this hand?"""
    return bool(entry.get("rejected")) or (entry.get("keypoints_2d") is not None and not entry.get("draft"))


def wanted(entry: Entry, picture: np.ndarray) -> Wanted:
    box = formats.box_in(entry)
    height, width = picture.shape[:2]
    box = np.array([0, 0, width - 1, height - 1.0]) if box is None else conventions.corners(box, "corners")
    if not (box[2:] > box[:2]).all() or (box[2:] <= 0).any() or (box[:2] >= [width, height]).any():
        cause = f"{entry['file']}: the box {box.tolist()} has no area in the picture of {width} x {height} px"
        raise Stop(cause, "correct the list of hands, or --box")
    return Wanted(picture, box, formats.side_of(entry) == "right")


def fill(config: Config, network: Any, folder: Path, waiting: list[tuple[Entry, Wanted]]) -> None:
    """Drafts the entries in place, and draws them."""
    if not waiting:
        return
    answers = drafts.draft(config, network, [hand for _, hand in waiting])
    for (entry, hand), answer in zip(waiting, answers, strict=True):
        write_into(entry, hand, answer, network.mano.stand_in)
    for file in dict.fromkeys(entry["file"] for entry, _ in waiting):
        mine = [entry for entry, _ in waiting if entry["file"] == file]
        label_page.draw(folder, file, next(hand.picture for entry, hand in waiting if entry["file"] == file), mine)


def write_into(entry: Entry, hand: Wanted, answer: Draft, stand_in: bool) -> None:
    entry |= {
        "box": np.round(hand.box, 1).tolist(),
        "draft": True,
        "confidence": round(answer.confidence, 3),
        "hand_model": "stand-in hand, not MANO" if stand_in else "MANO",
        "keypoints_2d": np.round(answer.keypoints_2d, 3).tolist(),
        "keypoints_3d": np.round(answer.keypoints_3d, 5).tolist(),
        "hand_pose": np.round(answer.hand_pose, 5).tolist(),
        "betas": np.round(answer.betas.astype(float), 4).tolist(),
    }
