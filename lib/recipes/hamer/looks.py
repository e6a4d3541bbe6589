"""Labels drawn over the pixels that step 3 keeps, to be looked at before a training: some hands of every shard.

Coloured: the 2D keypoints, as they are used. White: the 3D keypoints, scaled and shifted onto them, as the test of step
3 does; where both agree, the white skeleton covers the coloured one. A box without labels is drawn alone.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lib.core.run import atomic
from lib.recipes.hamer import agreement
from lib.recipes.hamer.agreement import BONES, LEAST_POINTS, NEAREST_M
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.skeleton import skeleton

DRAWN = 8  # hands of a shard
FOLDER = "overlays"
LEAST_PX = 256  # of a drawn picture: smaller ones are enlarged


def draw(rows: list[dict[str, Any]], hands: list[Hand], shard: Path) -> None:
    """out/overlays/SHARD-ROW-NAME.jpg for some of the rows (windows.window) of these hands, at even distances."""
    for number in sorted({int(place) for place in np.linspace(0, len(rows) - 1, min(DRAWN, len(rows)))}):
        name = re.sub(r"[^\w.-]+", "-", hands[number].name)[-80:]
        path = shard.parent / FOLDER / f"{shard.stem}-{number:03d}-{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as temporary:
            look(rows[number]).save(temporary, format="JPEG", quality=90)


def look(row: dict[str, Any]) -> Image.Image:
    """One hand: box, 2D keypoints, and the 3D ones where they can be projected."""
    picture = np.asarray(row["pixels"])
    scale = max(1, -(-LEAST_PX // max(picture.shape[:2])))
    picture = picture.repeat(scale, 0).repeat(scale, 1)
    points = row["keypoints_2d"].astype(float)
    points[:, :2] = (points[:, :2] + 0.5) * scale - 0.5
    image = Image.fromarray(skeleton(picture, points))
    pen, half = ImageDraw.Draw(image), scale * float(row["side_px"]) / 2
    x, y = (row["centre"].astype(float) + 0.5) * scale - 0.5
    pen.rectangle([x - half, y - half, x + half, y + half], outline=(255, 255, 0))
    for start, end in projected_bones(points, row["keypoints_3d"].astype(float)):
        pen.line([*start, *end], fill=(255, 255, 255))
    return image


def projected_bones(points: np.ndarray, joints: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ends (2,) px of the bones of joints (21, 4) m, laid onto points (21, 3) px; none where too few are known."""
    seen = (points[:, 2] > 0) & (joints[:, 3] > 0)
    if seen.sum() < LEAST_POINTS:
        return []
    ways = [joints[:, :2]]
    if (joints[seen, 2] > NEAREST_M).all():
        ways.append(joints[:, :2] / np.where(joints[:, 2:3] > NEAREST_M, joints[:, 2:3], np.inf))
    best = min(ways, key=lambda way: float(agreement.distance(way, points[:, :2], seen)))
    laid = agreement.onto(best, points[:, :2], seen)
    known = joints[:, 3] > 0
    return [(laid[a], laid[b]) for a, b in BONES if known[a] and known[b]]
