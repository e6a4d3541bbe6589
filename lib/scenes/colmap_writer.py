"""A COLMAP model in its text format (colmap.github.io/format.html): cameras, images with keypoints, points with tracks.

Its quaternions have the scalar first, and its pixel centres lie at +0.5, where ours are whole.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.core.run import write_text
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
    """cam_from_world (s, 3, 4), intrinsics (s, 3, 3) and the tracks' pixels are those of the network's pictures."""
    scale = torch.tensor([[one.scale_x, one.scale_y] for one in pictures], dtype=torch.float64)
    corner = torch.tensor([[one.left, one.top] for one in pictures], dtype=torch.float64)
    keypoints = corner[tracks.view] + (tracks.pixel + 0.5) * scale[tracks.view]
    focal = intrinsics.diagonal(dim1=-2, dim2=-1)[:, :2].double() * scale
    centre = corner + (intrinsics[:, :2, 2].double() + 0.5) * scale
    write_text(folder / "cameras.txt", cameras(pictures, torch.cat([focal, centre], 1)))
    number = numbers_in_view(tracks.view)
    write_text(folder / "images.txt", images(pictures, cam_from_world, tracks, keypoints))
    write_text(folder / "points3D.txt", points(tracks, number, float(scale.mean())))


def cameras(pictures: list[Picture], parameters: Tensor) -> str:
    """parameters: (s, 4) focal lengths and principal point in px of the picture."""
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for number, (one, values) in enumerate(zip(pictures, parameters.tolist(), strict=True), 1):
        said = " ".join(f"{value:.6f}" for value in values)
        lines.append(f"{number} PINHOLE {one.width_px} {one.height_px} {said}")
    return "\n".join(lines) + "\n"


def images(pictures: list[Picture], cam_from_world: Tensor, tracks: Tracks, keypoints: Tensor) -> str:
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; then X, Y, POINT3D_ID of its keypoints"]
    quaternions = geometry.quaternion_from_rotation(cam_from_world[..., :3]).tolist()
    for number, one in enumerate(pictures, 1):
        x, y, z, w = quaternions[number - 1]
        pose = (number, w, x, y, z, *cam_from_world[number - 1, :, 3].tolist(), number, one.name)
        mine = tracks.view == number - 1
        seen = zip(keypoints[mine].tolist(), (tracks.track[mine] + 1).tolist(), strict=True)
        lines += [" ".join(map(str, pose)), " ".join(f"{x:.3f} {y:.3f} {point}" for (x, y), point in seen)]
    return "\n".join(lines) + "\n"


def points(tracks: Tracks, number: Tensor, scale: float) -> str:
    """number: each observation's place among the keypoints of its image. scale: px of the picture per network px."""
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    said: list[list[str]] = [[] for _ in range(len(tracks.points))]
    for track, view, place in zip(tracks.track.tolist(), tracks.view.tolist(), number.tolist(), strict=True):
        said[track].append(f"{view + 1} {place}")
    values = zip(tracks.points.tolist(), tracks.colours.tolist(), (tracks.errors_px * scale).tolist(), strict=True)
    for point, ((x, y, z), colour, error) in enumerate(values):
        seen = " ".join(said[point])
        lines.append(f"{point + 1} {x:.9g} {y:.9g} {z:.9g} {' '.join(map(str, colour))} {error:.4f} {seen}")
    return "\n".join(lines) + "\n"


def numbers_in_view(view: Tensor) -> Tensor:
    """(m,): the how-manieth observation of its view each one is, from 0."""
    found = torch.empty_like(view)
    for one in view.unique():
        mine = (view == one).nonzero()[:, 0]
        found[mine] = torch.arange(len(mine))
    return found
