"""Camera codes of Depth Anything 3, and the same cameras in the code that the scenes' geometry knows.

Both codes are translation, quaternion x, y, z, w, and the vertical and horizontal field of view in radians. The
published code of this network holds the camera's pose in the world (camera to world); `lib.scenes.geometry` has the
world in the camera. Neither holds a principal point.
"""

import torch
from torch import Tensor

from lib.scenes import geometry

LEAST_TANGENT = 1e-6  # of half a field of view, as published: a field of 0 or beyond 180 degrees has a focal length


def published_code(cam_from_world: Tensor, intrinsics: Tensor, height_px: int, width_px: int) -> Tensor:
    """Cameras (..., 3, 4) and intrinsics (..., 3, 3) in px -> the published code (..., 9), quaternions with w >= 0."""
    return geometry.encode_cameras(geometry.inverse(cam_from_world), intrinsics, height_px, width_px)


def scenes_code(code: Tensor) -> Tensor:
    """The published code (..., 9) -> the code of `geometry.decode_cameras`, which then needs no guard.

    The quaternion keeps its length, so a loss on either code sees the same numbers.
    """
    world_from_cam = geometry.rotation_from_quaternion(code[..., 3:7])
    translation = -(world_from_cam.mT @ code[..., :3, None]).squeeze(-1)
    field = code[..., 7:]
    narrow = torch.tan(field / 2) < LEAST_TANGENT
    field = torch.where(narrow, 2 * LEAST_TANGENT, field)
    return torch.cat([translation, -code[..., 3:6], code[..., 6:7], field], -1)
