"""Cameras, rotations and points, batched. Cameras are OpenCV (x right, y down, z forward), `cam_from_world` = [R | t].

Depth is along z, not along the ray. Pixels count from 0 at the centre of the first one (u = 0..w-1), as the checkpoint
was trained with; quaternions are x, y, z, w with w >= 0.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Scene(NamedTuple):
    """Ground truth of samples in the units in which the network answers.

    Camera 0 is the world, and the mean distance of the points from it is 1.
    """

    cam_from_world: Tensor  # (b, s, 3, 4)
    world_points: Tensor  # (b, s, h, w, 3)
    cam_points: Tensor  # (b, s, h, w, 3)
    depths: Tensor  # (b, s, h, w)
    scale: Tensor  # (b,): metres (or whatever the input was in, of any size) per unit


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> unit quaternions x, y, z, w (..., 4) with w >= 0, stable for every angle.

    Each row of `products` is the quaternion times four times one of its components; the row of the largest component is
    divided (Shepperd 1978). The sign is free where w = 0.
    """
    r = rotation
    x, y, z = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]  # 4wx, 4wy, 4wz
    xy, xz, yz = r[..., 1, 0] + r[..., 0, 1], r[..., 0, 2] + r[..., 2, 0], r[..., 2, 1] + r[..., 1, 2]
    a, b, c = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    rows = (
        (1 + a - b - c, xy, xz, x),
        (xy, 1 - a + b - c, yz, y),
        (xz, yz, 1 - a - b + c, z),
        (x, y, z, 1 + a + b + c),
    )
    products = torch.stack([torch.stack(row, -1) for row in rows], -2)  # (..., 4, 4)
    largest = products.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = products.take_along_dim(largest[..., None, None], -2).squeeze(-2)
    quaternion = row / row.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Quaternions x, y, z, w (..., 4) of any length but 0 -> rotation matrices (..., 3, 3)."""
    x, y, z, w = quaternion.unbind(-1)
    s = 2 / quaternion.square().sum(-1)
    rows = (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def encode_cameras(cam_from_world: Tensor, intrinsics: Tensor, height_px: int, width_px: int) -> Tensor:
    """Cameras (..., 3, 4) and intrinsics (..., 3, 3) in px -> VGGT's pose code (..., 9).

    The code is translation, quaternion, vertical and horizontal field of view in radians. It holds no principal point,
    which is taken to be the image's centre.
    """
    rotation, translation = cam_from_world[..., :3], cam_from_world[..., 3]
    focal_px = torch.stack([intrinsics[..., 1, 1], intrinsics[..., 0, 0]], -1)
    half_px = focal_px.new_tensor([height_px / 2, width_px / 2])
    return torch.cat([translation, quaternion_from_rotation(rotation), 2 * torch.atan(half_px / focal_px)], -1)


def decode_cameras(code: Tensor, height_px: int, width_px: int) -> tuple[Tensor, Tensor]:
    """Pose codes (..., 9) -> cam_from_world (..., 3, 4) and intrinsics (..., 3, 3) in px.

    The quaternion may have any length but 0.
    """
    cam_from_world = torch.cat([rotation_from_quaternion(code[..., 3:7]), code[..., :3, None]], -1)
    focal_y, focal_x = (code.new_tensor([height_px / 2, width_px / 2]) / torch.tan(code[..., 7:] / 2)).unbind(-1)
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    rows = ((focal_x, zero, one * width_px / 2), (zero, focal_y, one * height_px / 2), (zero, zero, one))
    return cam_from_world, torch.stack([torch.stack(row, -1) for row in rows], -2)


def inverse(cam_from_world: Tensor) -> Tensor:
    """Rigid [R | t] (..., 3, 4) -> its inverse (..., 3, 4)."""
    back = cam_from_world[..., :3].mT
    return torch.cat([back, -back @ cam_from_world[..., 3:]], -1)


def transform(rigid: Tensor, points: Tensor) -> Tensor:
    """[R | t] (..., 3, 4) applied to points (..., n, 3)."""
    return points @ rigid[..., :3].mT + rigid[..., None, :, 3]


def known(depth: Tensor) -> Tensor:
    """Where there is a depth at all, bool, for depth of any shape.

    0, negative numbers, NaN and infinity are the data sets' ways to say that there is none.
    """
    return depth.isfinite() & (depth > 1e-8)


def cam_points_from_depth(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth (..., h, w) and intrinsics (..., 3, 3) in px without skew -> points in the camera (..., h, w, 3).

    The points have the unit of the depth.
    """
    v, u = (torch.arange(count, dtype=depth.dtype, device=depth.device) for count in depth.shape[-2:])
    focal_x, focal_y, centre_x, centre_y = (
        intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))
    )
    x, y = (u - centre_x) / focal_x, (v[:, None] - centre_y) / focal_y
    return torch.stack([x * depth, y * depth, depth], -1)


def world_points_from_depth(depth: Tensor, cam_from_world: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth (..., h, w), cameras (..., 3, 4), intrinsics (..., 3, 3) in px -> points in the world (..., h, w, 3)."""
    cam_points = cam_points_from_depth(depth, intrinsics)
    return transform(inverse(cam_from_world), cam_points.flatten(-3, -2)).view(cam_points.shape)


def project(world_points: Tensor, cam_from_world: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Points (..., n, 3) in the world -> pixels (..., n, 2) and points in the camera (..., n, 3), whose z is the depth.

    cam_from_world: (..., 3, 4); intrinsics: (..., 3, 3) in px.
    """
    cam_points = transform(cam_from_world, world_points)
    pixels = cam_points @ intrinsics.mT
    return pixels[..., :2] / pixels[..., 2:], cam_points


def normalise_scene(
    cam_from_world: Tensor, world_points: Tensor, cam_points: Tensor, depths: Tensor, valid: Tensor
) -> Scene:
    """Ground truth in the units that the network was trained to answer in (paper, section 3.4).

    Cameras (b, s, 3, 4), points (b, s, h, w, 3), depths and valid (b, s, h, w). Everything is seen from camera 0 and
    divided by the mean distance of the valid points of all frames from it. A sample without valid points keeps its
    scale. Values at invalid pixels mean nothing.
    """
    points = transform(cam_from_world[:, 0], world_points.flatten(1, 3)).view(world_points.shape)
    total = torch.where(valid, points.norm(dim=-1), 0).sum((1, 2, 3))
    count = valid.sum((1, 2, 3))
    scale = torch.where(total > 0, total / count.clamp(min=1), 1)
    cameras, per_point = relative_cameras(cam_from_world, scale), over(scale, points)
    return Scene(cameras, points / per_point, cam_points / per_point, depths / over(scale, depths), scale)


def relative_cameras(cam_from_world: Tensor, scale: Tensor) -> Tensor:
    """Cameras (b, s, 3, 4) with camera 0 as the world, and translations divided by the scale (b,)."""
    world_from_first = inverse(cam_from_world[:, :1])
    rotation = cam_from_world[..., :3] @ world_from_first[..., :3]
    translation = cam_from_world[..., :3] @ world_from_first[..., 3:] + cam_from_world[..., 3:]
    return torch.cat([rotation, translation / over(scale, translation)], -1)


def over(scale: Tensor, like: Tensor) -> Tensor:
    """A number per sample (b,) in a shape that divides `like` (b, ...)."""
    return scale.view(-1, *[1] * (like.dim() - 1))


def umeyama(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The similarity with the least squared error from points (..., n, 3) to points (..., n, 3).

    Returns scale (...), rotation (..., 3, 3) and translation (..., 3): target = scale * rotation @ source +
    translation; reflections are excluded (Umeyama 1991, equations 40-43). ValueError: the source points coincide.
    """
    source_mean, target_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    source_centred, target_centred = source - source_mean, target - target_mean
    variance = source_centred.square().sum((-2, -1)) / source.shape[-2]
    if not (variance > 0).all():
        raise ValueError("umeyama: the source points coincide, so no scale maps them onto the target")
    u, spread, vh = torch.linalg.svd(target_centred.mT @ source_centred / source.shape[-2])
    sign = torch.ones_like(spread)
    sign[..., 2] = torch.linalg.det(u @ vh).sign()
    rotation = (u * sign[..., None, :]) @ vh
    scale = (spread * sign).sum(-1) / variance
    translation = target_mean.squeeze(-2) - scale[..., None] * (rotation @ source_mean.mT).squeeze(-1)
    return scale, rotation, translation
