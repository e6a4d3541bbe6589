"""Rigid transforms, the bird's-eye frame and the camera model, in float64 numpy.

Frames (nuScenes): world (metres, z up); ego (x forward, y left, on the ground below the rear axle); lidar (x right,
y forward, z up); camera (x right, y down, z forward). Map vectors live in `bev`, the frame of MapTR's protocol: the
lidar's position and heading, but level and with z = 0 on the ground under the car. Matrices are 4x4 and named
`target_from_source`: `world_from_ego @ ego_from_lidar` is `world_from_lidar`.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

MIN_DEPTH_M = 0.1  # nearer points are behind the image plane or on the lens


def rigid(translation: Sequence[float], rotation_wxyz: Sequence[float]) -> np.ndarray:
    """4x4 matrix of a nuScenes pose: translation in metres and a quaternion (w, x, y, z).

    ValueError where the quaternion is 0; any other length will do.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(rotation_wxyz, scalar_first=True).as_matrix()
    matrix[:3, 3] = translation
    return matrix


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of rigid matrices (..., 4, 4) by the transpose, which is exact where a general inverse is not."""
    rotation_t = np.swapaxes(matrix[..., :3, :3], -1, -2)
    result = np.zeros_like(matrix)
    result[..., :3, :3] = rotation_t
    result[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, matrix[..., :3, 3])
    result[..., 3, 3] = 1
    return result


def yaw_rad(matrix: np.ndarray) -> float:
    """Heading of the frame's x axis in the target's ground plane, radians, counter-clockwise. matrix (4, 4)."""
    return float(np.arctan2(matrix[1, 0], matrix[0, 0]))


def level(x_m: float, y_m: float, z_m: float, yaw: float) -> np.ndarray:
    """world_from_bev: upright, at a ground point, turned by `yaw` (radians)."""
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    matrix[:3, 3] = x_m, y_m, z_m
    return matrix


def bev_frame(world_from_ego: np.ndarray, world_from_lidar: np.ndarray) -> np.ndarray:
    """world_from_bev: under the lidar, with the heading of its x axis, on the ground that the ego frame stands on."""
    x_m, y_m = world_from_lidar[:2, 3]
    return level(x_m, y_m, world_from_ego[2, 3], yaw_rad(world_from_lidar))


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) moved by a 4x4 matrix."""
    moved: np.ndarray = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def on_ground(points: np.ndarray) -> np.ndarray:
    """Map vectors are flat: (..., 2) -> (..., 3) with z = 0."""
    return np.concatenate([points, np.zeros_like(points[..., :1])], axis=-1)


def project(
    points_cam: np.ndarray, intrinsics: np.ndarray, width_px: int, height_px: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Camera points (n, 3) in metres -> pixels (n, 2), depth (n,) in metres and whether they are seen (n,) bool.

    Pixels of points that are not in front of the camera are -1.
    """
    depth_m = points_cam[:, 2]
    front = depth_m > MIN_DEPTH_M
    homogeneous = points_cam @ intrinsics.T
    pixels = np.where(front[:, None], homogeneous[:, :2] / np.where(front, depth_m, 1)[:, None], -1.0)
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < width_px) & (pixels[:, 1] < height_px)
    return pixels, depth_m, front & inside


def scaled(intrinsics: np.ndarray, x_scale: float, y_scale: float) -> np.ndarray:
    """Intrinsics (3, 3) of a resized image; the two factors differ where the size is rounded (900 rows to 448)."""
    resized: np.ndarray = np.diag([x_scale, y_scale, 1.0]) @ intrinsics
    return resized


MIRROR_X = np.diag([-1.0, 1.0, 1.0, 1.0])
MIRRORED_CAMERA = {
    "CAM_FRONT": "CAM_FRONT",
    "CAM_FRONT_RIGHT": "CAM_FRONT_LEFT",
    "CAM_FRONT_LEFT": "CAM_FRONT_RIGHT",
    "CAM_BACK": "CAM_BACK",
    "CAM_BACK_LEFT": "CAM_BACK_RIGHT",
    "CAM_BACK_RIGHT": "CAM_BACK_LEFT",
}


def mirrored_camera(bev_from_cam: np.ndarray, intrinsics: np.ndarray, width_px: int) -> tuple[np.ndarray, np.ndarray]:
    """The camera that sees the left-right mirrored world: x of `bev` and x of the camera change sign together.

    M R M with M = diag(-1, 1, 1) on both sides is right here because x is lateral in both frames; in the ego frame
    (x forward) the same formula turns the cameras round. Pixel u becomes width - u: pixel edges, not centres.
    """
    mirrored = intrinsics.copy()
    mirrored[0, 2] = width_px - intrinsics[0, 2]
    return MIRROR_X @ bev_from_cam @ MIRROR_X, mirrored


def mirrored_points(points: np.ndarray) -> np.ndarray:
    """Map vectors (..., 2) of the mirrored world."""
    mirrored: np.ndarray = points * np.array([-1.0, 1.0], points.dtype)
    return mirrored
