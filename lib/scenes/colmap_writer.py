"""A COLMAP model in its text format (colmap.github.io/format.html): cameras, images with keypoints, points with tracks.

Its quaternions have the scalar first, and its pixel centres lie at +0.5, where ours are whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.core.run import atomic
from lib.scenes import geometry
from lib.scenes.tracks import Tracks


@dataclass(frozen=True)
class Picture:
    """A picture of a view: the network's, or the photo that it was cut from.

    x of the picture, from its left edge, is left + scale * x of the network's picture; y likewise.
    """

    name: str
    width_px: int
    height_px: int
    left: float = 0.0
    top: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0


def write(folder: Path, pictures: list[Picture], cam_from_world: Tensor, intrinsics: Tensor, tracks: Tracks) -> None:
    """cam_from_world (s, 3, 4), intrinsics (s, 3, 3) and the tracks' pixels are those of the network's pictures.

    Lines are written as they are made: a text of all keypoints of hundreds of photos is larger than all else in memory.
    """
    scale = torch.tensor([[one.scale_x, one.scale_y] for one in pictures], dtype=torch.float64)
    corner = torch.tensor([[one.left, one.top] for one in pictures], dtype=torch.float64)
    keypoints = corner[tracks.view] + (tracks.pixel + 0.5) * scale[tracks.view]
    focal = intrinsics.diagonal(dim1=-2, dim2=-1)[:, :2].double() * scale
    centre = corner + (intrinsics[:, :2, 2].double() + 0.5) * scale
    order = tracks.view.argsort(stable=True)  # a view's keypoints one after another
    counts = torch.bincount(tracks.view, minlength=len(pictures))
    number = numbers_in_view(order, counts)
    write_lines(folder / "cameras.txt", cameras(pictures, torch.cat([focal, centre], 1)))
    of_views = zip(keypoints[order].split(counts.tolist()), tracks.track[order].split(counts.tolist()), strict=True)
    write_lines(folder / "images.txt", images(pictures, cam_from_world, of_views))
    write_lines(folder / "points3D.txt", points(tracks, number, float(scale.mean())))


def write_lines(path: Path, lines: Iterator[str]) -> None:
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def cameras(pictures: list[Picture], parameters: Tensor) -> Iterator[str]:
    """parameters: (s, 4) focal lengths and principal point in px of the picture."""
    yield "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"
    for number, (one, values) in enumerate(zip(pictures, parameters.tolist(), strict=True), 1):
        said = " ".join(f"{value:.6f}" for value in values)
        yield f"{number} PINHOLE {one.width_px} {one.height_px} {said}"


def images(pictures: list[Picture], cam_from_world: Tensor, seen: Iterable[tuple[Tensor, Tensor]]) -> Iterator[str]:
    """seen: each view's keypoints (n, 2) in px of its picture and their tracks (n,)."""
    yield "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; then X, Y, POINT3D_ID of its keypoints"
    quaternions = geometry.quaternion_from_rotation(cam_from_world[..., :3]).tolist()
    for number, (one, (keypoints, track)) in enumerate(zip(pictures, seen, strict=True), 1):
        x, y, z, w = quaternions[number - 1]
        pose = (number, w, x, y, z, *cam_from_world[number - 1, :, 3].tolist(), number, one.name)
        yield " ".join(map(str, pose))
        both = zip(keypoints.tolist(), (track + 1).tolist(), strict=True)
        yield " ".join(f"{x:.3f} {y:.3f} {point}" for (x, y), point in both)


def points(tracks: Tracks, number: Tensor, scale: float) -> Iterator[str]:
    """number: each observation's place among the keypoints of its image. scale: px of the picture per network px."""
    yield "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"
    each = torch.bincount(tracks.track, minlength=len(tracks.points)).tolist()
    seen = torch.stack([tracks.view + 1, number], 1).split(each)
    for point, pairs in enumerate(seen):
        x, y, z = tracks.points[point].tolist()
        colour, error = " ".join(map(str, tracks.colours[point].tolist())), float(tracks.errors_px[point]) * scale
        track = " ".join(map(str, pairs.flatten().tolist()))
        yield f"{point + 1} {x:.9g} {y:.9g} {z:.9g} {colour} {error:.4f} {track}"


def numbers_in_view(order: Tensor, counts: Tensor) -> Tensor:
    """(m,): the how-manieth observation of its view each one is, from 0. order: sorts them by view."""
    found = torch.empty_like(order)
    found[order] = torch.cat([torch.arange(count) for count in counts.tolist()])
    return found
