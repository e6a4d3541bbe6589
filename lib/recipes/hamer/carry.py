"""Drafts along a video: where a hand is in one frame says where to look for it in the next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.data import pictures
from lib.recipes.hamer import drafts, formats
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.drafts import Draft
from lib.recipes.hamer.proposals import Entry, fill, is_settled, read, starts, wanted


def of_film(
    config: Config, network: Any, folder: Path, film: Path, paths: list[Path], given: list[Entry], find: Any, box: Any
) -> list[Entry]:
    """The entries of a video's frames, in their order. A frame's old drafts are made again from its neighbours."""
    files = [path.relative_to(folder).as_posix() for path in paths]
    known = {file: [entry for entry in given if entry["file"] == file] for file in files}
    for entry in given:
        if entry["file"] == film.name:
            known[files[0]].append(entry | {"file": files[0]})
    frames = {file: [kept for entry in mine if (kept := from_you(entry))] for file, mine in known.items()}
    if not any(frames.values()):
        first = starts(files[0], read_frame(folder, files[0]), find, box)
        frames[files[0]] = [entry | {"given": bool(box)} for entry in first]
    for order in (files, files[::-1]):  # on from every box, then back from the first one
        carry(config, network, folder, order, frames)
    for mine in frames.values():
        for entry in mine:
            entry.setdefault("group", film.name)
    return [entry for file in files for entry in frames[file]]


def from_you(entry: Entry) -> Entry | None:
    """What a person said of a frame's hand: all of it, or the box that he gave or moved; None for a mere draft."""
    if is_settled(entry):
        return entry
    if entry.get("draft") and not entry.get("given"):
        return None
    return {name: entry[name] for name in ("file", "hand", "box", "group") if name in entry} | {"given": True}


def carry(config: Config, network: Any, folder: Path, files: list[str], frames: dict[str, list[Entry]]) -> None:
    """Drafts along the frames: a hand that was in the frame before, and is not in this one yet, is looked for there."""
    boxes: dict[str, np.ndarray] = {}
    for file in files:
        there = {entry["hand"] for entry in frames[file]}
        frames[file] += [
            {"file": file, "hand": side, "box": box.tolist()} for side, box in boxes.items() if side not in there
        ]
        undrafted = [e for e in frames[file] if not is_settled(e) and not e.get("draft")]
        picture = read_frame(folder, file) if undrafted else None
        if picture is not None:
            fill(config, network, folder, [(entry, wanted(entry, picture)) for entry in undrafted])
            for entry in undrafted:
                if not entry.get("given"):  # where it was looked for is where the hand was a frame ago
                    entry["box"] = np.round(next(following(folder, entry)), 1).tolist()
        boxes = {entry["hand"]: box for entry in frames[file] for box in following(folder, entry)}


def following(folder: Path, entry: Entry) -> Iterator[np.ndarray]:
    """The box in which the next frame is looked at: none after a hand that is rejected, or has no keypoint."""
    if entry.get("rejected"):
        return
    points = np.array(entry["keypoints_2d"], float)
    points = points if points.shape[1] == 3 else np.hstack([points, np.ones((21, 1))])
    seen = points[points[:, 2] > 0]
    if not len(seen):
        return
    width, height = pictures.header(folder / entry["file"], upright=True)[:2]
    box = formats.box_in(entry)
    around = np.concatenate([seen[:, :2].min(0), seen[:, :2].max(0)]) if box is None else box
    sure = float(entry["confidence"]) if entry.get("draft") else 1.0
    nothing = np.zeros(0)
    yield drafts.carried(around, Draft(seen, nothing, nothing, nothing, sure), width, height)


def read_frame(folder: Path, file: str) -> np.ndarray:
    picture = read(folder, file)
    if picture is None:
        raise Stop(f"{folder / file} is damaged", f"delete {(folder / file).parent} and propose again")
    return picture
