"""The page on which drafts of hands are corrected, the small pictures that it lists, and which are a person's own."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.data import label_page, pictures
from lib.recipes.hamer.skeleton import skeleton

SMALL, FRAMES = "drafts", "frames"
OURS = (SMALL, FRAMES)  # folders that --propose makes below a person's pictures


def photographs(folder: Path) -> set[str]:
    """A person's pictures below a folder, in folders below it too, as a list of hands names them."""
    found = set()
    for path in folder.rglob("*") if folder.is_dir() else ():
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.suffix.lower() in pictures.PHOTOS and not hidden and name.parts[0] not in OURS:
            found.add(name.as_posix())
    return found


def small_name(file: str) -> str:
    return f"{SMALL}/{label_page.SMALL}/{file}.jpg"


def draw(folder: Path, file: str, picture: np.ndarray, entries: list[dict[str, Any]]) -> None:
    """The picture (h, w, 3) uint8 with the skeletons of its hands, made small."""
    drawn = np.asarray(label_page.small(Image.fromarray(picture)))
    scale = drawn.shape[1] / picture.shape[1]
    for entry in entries:
        if entry.get("keypoints_2d") is not None and not entry.get("rejected"):
            points = np.array(entry["keypoints_2d"], float)
            points[:, :2] *= scale
            drawn = skeleton(drawn, points)
    label_page.save(Image.fromarray(drawn), folder / small_name(file))


def write(folder: Path, entries: list[dict[str, Any]]) -> Path:
    """label.html for the hands of hands.json; a picture that was drawn in an earlier round is not drawn again,
    unless it changed.
    """
    shown = []
    for file in dict.fromkeys(entry["file"] for entry in entries):
        try:
            width, height = pictures.header(folder / file, upright=True)[:2]
        except pictures.Unreadable:  # was named when it was to be drafted; its hands stay in the list
            continue
        if not label_page.is_of(folder / small_name(file), folder / file):
            picture = np.asarray(pictures.read(folder / file, upright=True))
            draw(folder, file, picture, [entry for entry in entries if entry["file"] == file])
        copy = f"{SMALL}/{label_page.WHOLE}/{file}.jpg"
        seen = label_page.shown(folder, file, copy, upright=True)
        shown.append({"file": file, "width": width, "height": height, "shown": seen, "small": small_name(file)})
    return label_page.write(folder, "hands", shown, entries)
