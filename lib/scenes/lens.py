"""Cameras of COLMAP: which models there are, and which rays of a camera its photograph shows.

Points on rays are given on the plane at depth 1. A lens that pycolmap can project is used as far as it goes: what lies
beyond the point where its distortion folds back, or behind the camera, is NaN here and masked by the callers.
"""

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

BEFORE_PYCOLMAP = ("zlib", "PIL.Image")
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
ROUND_TRIP = 1e-3  # relative; a lens that folds back misses by far more, the iteration by far less
BORDER_PX = 1.0  # beyond the photograph; resampling repeats its edge


def pycolmap() -> Any:
    """The module, and the only place that imports it.

    Its wheel brings a zlib of its own. Loaded before the system's and Pillow's, it takes their place, and the first PNG
    that Pillow saves ends the process ("free(): invalid pointer").
    """
    for name in BEFORE_PYCOLMAP:
        import_module(name)
    return import_module("pycolmap")


@cache
def parameter_counts() -> dict[str, int]:
    """The camera models of the installed pycolmap, by COLMAP's number of them, and how many parameters each has."""
    models = {name: model for name, model in pycolmap().CameraModelId.__members__.items() if name != "INVALID"}
    make = getattr(pycolmap().Camera, "create_from_model_id", None) or pycolmap().Camera.create
    return {name: len(make(0, models[name], 1.0, 2, 2).params) for name in sorted(models, key=lambda n: int(models[n]))}


def model_name(number: int) -> str:
    """What COLMAP's files call a camera model by number; "" where the installed pycolmap does not know it."""
    return next((n for n, model in pycolmap().CameraModelId.__members__.items() if int(model) == number), "")


def camera(model: str, width_px: int, height_px: int, parameters: Any) -> Any:
    """A pycolmap.Camera."""
    return pycolmap().Camera(model=model, width=width_px, height=height_px, params=parameters)


def is_panorama(camera: Any) -> bool:
    """A camera without focal lengths; pycolmap ends the process when it is asked for one."""
    return bool(camera.is_spherical()) if hasattr(camera, "is_spherical") else False


def centre_px(camera: Any) -> tuple[float, float]:
    """Where the axis meets the photograph, in COLMAP's pixels."""
    if is_panorama(camera):
        x, y = camera.img_from_cam(np.array([[0.0, 0.0, 1.0]]))[0]
        return float(x), float(y)
    return camera.principal_point_x, camera.principal_point_y


def focal_px(camera: Any) -> tuple[float, float]:
    """Pixels per unit on the plane at depth 1, in x and y; of a panorama, near its axis."""
    if is_panorama(camera):
        small = 1e-4
        axis, right, down = camera.img_from_cam(np.array([[0.0, 0, 1], [small, 0, 1], [0, small, 1]]))
        return float((right - axis)[0] / small), float((down - axis)[1] / small)
    return camera.focal_length_x, camera.focal_length_y


def on_plane(camera: Any, pixels: np.ndarray) -> np.ndarray:
    """Where the rays of pixels (n, 2) meet the plane at depth 1, (n, 2); NaN where a pixel has no ray in front.

    pycolmap leaves some rays behind the camera as they were; they do not come back to their pixel.
    """
    found = undistorted(camera, pixels)
    if camera.model_name in PINHOLES:
        return found
    back = np.asarray(camera.img_from_cam(with_depth(np.nan_to_num(found))))
    miss = np.abs(back - pixels).max(axis=1, keepdims=True) / max(camera.width, camera.height)
    return np.where(miss < ROUND_TRIP, found, np.nan)


def undistorted(camera: Any, pixels: np.ndarray) -> np.ndarray:
    if not is_panorama(camera):
        return np.asarray(camera.cam_from_img(pixels))
    rays = np.asarray(camera.cam_ray_from_img(pixels))
    depth = rays[:, 2:]
    return np.where(depth > 1e-6, rays[:, :2] / np.where(depth > 1e-6, depth, 1), np.nan)


def in_photograph(camera: Any, plane: np.ndarray) -> np.ndarray:
    """Pixels (n, 2) in which the photograph shows points of the plane at depth 1 (n, 2); NaN where it does not.

    A point is shown where it falls inside, and where the pixel's own ray leads back to it: a lens that folds back shows
    something else there.
    """
    pixels = np.asarray(camera.img_from_cam(with_depth(plane)))
    inside = np.all((pixels > -BORDER_PX) & (pixels < np.array([camera.width, camera.height]) + BORDER_PX), axis=1)
    if camera.model_name not in PINHOLES:
        there = undistorted(camera, np.where(inside[:, None], pixels, np.array(centre_px(camera))))
        miss = np.abs(there - plane).max(1) / (1 + np.abs(plane).max(1))
        inside &= miss < ROUND_TRIP  # NaN is not
    return np.where(inside[:, None], pixels, np.nan)


def with_depth(plane: np.ndarray) -> np.ndarray:
    """Points (n, 2) on the plane at depth 1 as (n, 3)."""
    return np.concatenate([plane, np.ones((len(plane), 1))], 1)
