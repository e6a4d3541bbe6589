"""Labels drawn over the pixels that step 3 keeps, to be looked at before a training: some hands of every shard.

Coloured: the 2D keypoints, as they are used. White: the 3D keypoints, scaled and shifted onto them, as the test of step
3 does; where both agree, the white skeleton covers the coloured one. Beside it, where pose and shape are used, the mesh
that they make, scaled and shifted in the same way. A box without labels is drawn alone.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lib.core.run import atomic
from lib.recipes.hamer import agreement, overlay, render
from lib.recipes.hamer.agreement import BONES, LEAST_POINTS, NEAREST_M
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano_file import ManoModel
from lib.recipes.hamer.skeleton import skeleton

DRAWN = 8  # hands of a shard
FOLDER = "overlays"
AFAR_M = 100.0  # a distance from which a hand is as in a parallel projection
LEAST_PX = 256  # of a drawn picture: smaller ones are enlarged


def draw(rows: list[dict[str, Any]], hands: list[Hand], shard: Path, mano: ManoModel) -> None:
    """out/overlays/SHARD-ROW-NAME.jpg for some of the rows (windows.window) of these hands, at even distances."""
    numbers = sorted({int(place) for place in np.linspace(0, len(rows) - 1, min(DRAWN, len(rows)))})
    whole = [number for number in numbers if rows[number]["has_pose"] and rows[number]["has_betas"]]
    found = meshes(whole, hands, mano)
    for number in numbers:
        name = re.sub(r"[^\w.-]+", "-", hands[number].name)[-80:]
        path = shard.parent / FOLDER / f"{shard.stem}-{number:03d}-{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as temporary:
            look(rows[number], found.get(number)).save(temporary, format="JPEG", quality=90)


class Surface(NamedTuple):
    """What pose and shape make of a hand, in the camera's axes; the wrist is closed."""

    joints: np.ndarray  # (21, 3) m, OpenPose order
    vertices: np.ndarray  # (778, 3) m
    faces: np.ndarray  # (f, 3)


def meshes(numbers: list[int], hands: list[Hand], mano: ManoModel) -> dict[int, Surface]:
    """Of these hands, all of which have pose and shape."""
    from lib.recipes.hamer.mano import Mano

    if not numbers:
        return {}
    layer, sides = Mano(mano), [hands[number].right for number in numbers]
    joints, vertices = agreement.surfaces(layer, [hands[number].labels for number in numbers], sides)
    faces = render.closed(layer.faces_tensor.numpy())
    turned = [faces if right else faces[:, ::-1] for right in sides]
    return dict(zip(numbers, map(Surface, joints, vertices, turned), strict=True))


def look(row: dict[str, Any], surface: Surface | None = None) -> Image.Image:
    """One hand: box, 2D keypoints, and the 3D ones where they can be projected; beside it the mesh over the picture."""
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
    if surface is None or not (points[:, 2] > 0).any():
        return image
    return Image.fromarray(np.hstack([np.asarray(image), dressed(picture, points, surface)]))


def dressed(picture: np.ndarray, points: np.ndarray, surface: Surface) -> np.ndarray:
    """The mesh over a picture (h, w, 3) uint8, with its joints laid onto points (21, 3) px as one sees it from afar."""
    count = len(surface.vertices)
    places = np.concatenate([surface.joints, surface.vertices])[:, :2]
    target = np.concatenate([points[:, :2], np.zeros((count, 2))])
    laid = agreement.onto(places, target, np.concatenate([points[:, 2] > 0, np.zeros(count, bool)]))[-count:]
    scale = np.ptp(laid, axis=0).max() / np.ptp(surface.vertices[:, :2], axis=0).max()  # pixels a metre
    if not scale > 0:  # the labels are opposed to one another: no size fits
        return picture
    depth = AFAR_M + surface.vertices[:, 2:] - surface.vertices[:, 2:].mean()
    vertices = np.hstack([laid / scale * depth / AFAR_M, depth])
    return overlay.mesh(picture, vertices, surface.faces, scale * AFAR_M, np.zeros(2))


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
