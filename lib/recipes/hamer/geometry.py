"""Rotations and cameras of HaMeR (Pavlakos et al., CVPR 2024). Camera axes: x right, y down, z forward; metres.

Everything here runs in float32: in half precision the 6D code and the division by a depth of 10-20 m lose the fingers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """(n, 4) wxyz of any length -> (n, 3, 3)."""
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rotation_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """(..., 3) radians -> (..., 3, 3). The 1e-8 keeps the gradient at the zero rotation finite."""
    angle = (axis_angle + 1e-8).norm(dim=-1, keepdim=True)
    axis = axis_angle / angle
    return rotation_from_quaternion(torch.cat([torch.cos(angle / 2), torch.sin(angle / 2) * axis], -1))


def rotation_from_6d(code: Tensor) -> Tensor:
    """(..., 6) -> (..., 3, 3): two contiguous vectors, made orthonormal, are the first two COLUMNS.

    pytorch3d puts them in rows and SPIN interleaves them; with HaMeR's weights both give wrong hands.
    """
    first, second = code[..., :3], code[..., 3:]
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y, dim=-1)], -1)


def hand_rotations(axis_angle: Tensor) -> tuple[Tensor, Tensor]:
    """Pose (b, 48) radians, wrist first -> global_orient (b, 1, 3, 3), hand_pose (b, 15, 3, 3)."""
    rotations = rotation_from_axis_angle(axis_angle.unflatten(-1, (-1, 3)))
    return rotations[:, :1], rotations[:, 1:]


def project(
    points: Tensor, translation: Tensor, focal: Tensor, centre: Tensor | None = None, rotation: Tensor | None = None
) -> Tensor:
    """Pinhole projection.

    points (b, n, 3) m, translation (b, 3) m, focal (b, 2), centre (b, 2), rotation (b, 3, 3) -> (b, n, 2) in the units
    of `focal`.
    """
    if rotation is not None:
        points = points @ rotation.mT
    points = points + translation[:, None]
    image = points[..., :2] / points[..., 2:] * focal[:, None]
    return image if centre is None else image + centre[:, None]


def crop_translation(camera: Tensor, focal_px: float, crop_px: int) -> Tensor:
    """HaMeR's camera (b, 3) = [scale, tx, ty] -> translation (b, 3) m in front of a camera that sees the square crop.

    The scale is that of the square crop, not of the narrower image that the backbone sees.
    """
    scale, x, y = camera.unbind(-1)
    return torch.stack([x, y, 2 * focal_px / (crop_px * scale + 1e-9)], -1)


def full_translation(
    camera: Tensor, box_centre: Tensor, box_size: Tensor, image_size: Tensor, focal_px: float
) -> Tensor:
    """The same camera for the whole image.

    camera (b, 3), box_centre (b, 2) px, box_size (b,) px, image_size (b, 2) px = width, height -> (b, 3) m. The
    principal point is the middle of the image. Only this translation depends on `focal_px`: the network was trained
    close to orthographic, so a short real focal length shifts the mesh against the photograph.
    """
    scale, x, y = camera.unbind(-1)
    size = box_size * scale + 1e-9
    offset = 2 * (box_centre - image_size / 2) / size[:, None]
    return torch.stack([offset[:, 0] + x, offset[:, 1] + y, 2 * focal_px / size], -1)
