"""Photographs at network resolution: an isotropic crop around the principal point, free of lens distortion.

All pictures of a sample have one size. Of a photograph that stands among lying ones a crop would keep half; it is taken
whole instead, with BACKGROUND beside it and no depth there (VGGT's published "pad"). Samples by orientation would lose
the pairs that see the same from both, which are what the network learns views from.

Pixel coordinates: COLMAP puts the centre of the first pixel at (0.5, 0.5), the network's geometry at (0, 0).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.data import pictures
from lib.scenes import lens

# How far from the axis a crop of a lens reaches, on the plane at depth 1 (63 degrees): farther out a flat picture
# stretches what the lens shows to many times its size.
MOST_REACH = 2.0
KEPT = 0.8  # a photograph of which the network would see a smaller share is not cut, or it is said
FINER = 2  # times the crop's resolution: what LANCZOS is given, at least; a JPEG is decoded no finer
RAYS = 128  # along each side, where shares of a photograph are counted


@dataclass(frozen=True)
class Crop:
    """A pinhole camera at network resolution that looks along the axis of a source camera."""

    width: int  # px
    height: int  # px
    scale: float  # network pixels per source pixel at the principal point
    intrinsics: np.ndarray  # (3, 3) float64 in px, pixel centres at integers
    filled: bool = True  # by the photograph of a pinhole camera


def crop(camera: Any, width: int, height: int, whole: bool = False) -> Crop:
    """The largest view of `width` x `height` that is centred on the principal point and needs no padding.

    camera: a pycolmap.Camera. The scale is the same in x and y, as in the published training. The principal point lies
    at exactly (width / 2, height / 2), which is what the pose code assumes when it decodes (the original is up to a
    pixel off, because it crops whole pixels). Of a wide lens the corners may show nothing (`seen`). whole: the smallest
    view that leaves nothing of the photograph out. Stop: the principal point lies too near the edge.
    """
    (left, right, top, bottom), complete = reach(camera)
    focal_x, focal_y = lens.focal_px(camera)
    if whole:
        near_x, near_y = (
            (width - 1) / 2,
            (height - 1) / 2,
        )  # from the principal point to the near edge of the first pixel
        scale = min(near_x / (focal_x * max(left, right)), near_y / (focal_y * max(top, bottom)))
        return around_axis(camera, width, height, scale, filled=False)
    half_x, half_y = (width + 1) / 2, (height + 1) / 2  # from the principal point to the far edge of the last pixel
    scale = max(half_x / (focal_x * min(left, right)), half_y / (focal_y * min(top, bottom)))
    scale *= 1 + 1e-9  # rounding must not lead outside
    if complete and scale > 2 * max(width / camera.width, height / camera.height):
        where = f"the principal point of camera {camera.camera_id} lies so near the edge"
        raise Stop(f"{where} that a crop around it loses most of the image")
    return around_axis(camera, width, height, scale, filled=True)


def around_axis(camera: Any, width: int, height: int, scale: float, filled: bool) -> Crop:
    focal_x, focal_y = lens.focal_px(camera)
    intrinsics = np.array([[focal_x * scale, 0, width / 2], [0, focal_y * scale, height / 2], [0, 0, 1]])
    return Crop(width, height, scale, intrinsics, filled)


def reach(camera: Any) -> tuple[list[float], bool]:
    """How far the image reaches from the axis to the left, right, top and bottom, on the plane at distance 1.

    And whether that is as far as the photograph goes: a wide lens ends before, where it folds back or where MOST_REACH
    is.
    """
    centre, size = np.array(lens.centre_px(camera)), np.array([camera.width, camera.height], float)
    far, whole = [], True
    for axis in (0, 1):
        for edge in (0.0, size[axis]):
            along = np.linspace(0, size[1 - axis], 65)
            distances = np.abs(lens.on_plane(camera, on_line(axis, edge, along))[:, axis])
            if not np.isfinite(distances).all():
                whole = False
                distances = np.append(distances, farthest(camera, axis, np.linspace(centre[axis], edge, 257)))
            far.append(float(np.nanmin(distances)))
    if camera.model_name not in lens.PINHOLES and max(far) > MOST_REACH:
        far, whole = [min(value, MOST_REACH) for value in far], False
    return far, whole


def on_line(axis: int, at: float | np.ndarray, across: float | np.ndarray) -> np.ndarray:
    """Pixels (n, 2) with `at` in the coordinate `axis` and `across` in the other one."""
    both = np.broadcast_arrays(np.asarray(at, float), np.asarray(across, float))
    return np.stack(both if axis == 0 else both[::-1], 1)


def farthest(camera: Any, axis: int, places: np.ndarray) -> float:
    """The distance of the last ray on the way from the axis to an edge, before the lens ends."""
    across = lens.centre_px(camera)[1 - axis]
    distances = np.abs(lens.on_plane(camera, on_line(axis, places, across))[:, axis])
    ends = np.flatnonzero(~np.isfinite(distances))
    return float(distances[: ends[0] if len(ends) else None].max(initial=1e-6))


def kept_share(camera: Any, crop: Crop) -> float:
    """The share of the photograph's area that lies in the crop."""
    across, down = ((np.arange(RAYS) + 0.5) / RAYS * size for size in (camera.width, camera.height))
    grid = np.stack(np.meshgrid(across, down), -1).reshape(-1, 2)
    half = np.array([crop.width + 1, crop.height + 1]) / 2 / crop.intrinsics[[0, 1], [0, 1]]
    return float((np.abs(lens.on_plane(camera, grid)) <= half).all(1).mean())


def read_image(path: Path, camera: Any, crop: Crop) -> Any:
    """The photograph (PIL, RGB) as it is stored, which is what COLMAP measured. Stop says why it cannot be used.

    A JPEG that is more than FINER times finer than the crop comes at 1/2, 1/4 or 1/8 of its size.
    """
    if not path.exists():
        raise Stop(f"{path} is listed but absent")
    at_least = (round(FINER * crop.scale * camera.width), round(FINER * crop.scale * camera.height))
    try:
        stored = pictures.header(path, upright=False)
        if (stored.width_px, stored.height_px) != (camera.width, camera.height):
            size = f"{stored.width_px} x {stored.height_px}"
            raise Stop(f"{path} is {size} pixels, its camera {camera.width} x {camera.height}")
        image = pictures.read(path, upright=False, at_least=at_least)
        pictures.refuse_one_colour(image)
    except pictures.Unreadable as reason:
        raise Stop(f"{path}: {reason}") from reason
    return image


def resample(image: Any, camera: Any, crop: Crop) -> np.ndarray:
    """(h, w, 3) uint8: the photograph (PIL, RGB) of a pycolmap.Camera as the crop's camera sees it.

    image: as `read_image` gives it; a pixel of it is `coarser` pixels of the camera wide, and so is the last one, where
    the size is no multiple of it.

    Lens distortion is removed by looking up each pixel's ray; a ray that the lens does not show is BACKGROUND.
    """
    from PIL import Image
    from scipy.ndimage import map_coordinates

    coarser = round(camera.width / image.width)
    if camera.model_name in lens.PINHOLES and crop.filled:  # then the crop is a rectangle of the photograph
        left = camera.principal_point_x - (crop.width + 1) / 2 / crop.scale
        top = camera.principal_point_y - (crop.height + 1) / 2 / crop.scale
        box = (left, top, left + crop.width / crop.scale, top + crop.height / crop.scale)
        box = tuple(edge / coarser for edge in box)
        return np.asarray(image.resize((crop.width, crop.height), Image.Resampling.LANCZOS, box=box))
    whole = (0, 0, camera.width / coarser, camera.height / coarser)
    size = (round(camera.width * crop.scale), round(camera.height * crop.scale))
    small = image.resize(size, Image.Resampling.LANCZOS, box=whole)
    pixels = lens.in_photograph(camera, rays(crop)[..., :2].reshape(-1, 2))
    known = np.isfinite(pixels).all(1)
    pixels = np.where(known[:, None], pixels, 0)
    at = [pixels[:, 1] * small.height / camera.height - 0.5, pixels[:, 0] * small.width / camera.width - 0.5]
    colours = np.asarray(small, np.float32).transpose(2, 0, 1)
    channels = [map_coordinates(channel, at, order=1, mode="nearest") for channel in colours]
    found = np.where(known[:, None], np.rint(np.stack(channels, 1)), pictures.BACKGROUND)
    return found.astype(np.uint8).reshape(crop.height, crop.width, 3)


def seen(camera: Any, crop: Crop) -> np.ndarray:
    """(h, w) bool: which pixels of the crop the photograph shows; of a pinhole camera that fills it all."""
    if camera.model_name in lens.PINHOLES and crop.filled:
        return np.ones((crop.height, crop.width), bool)
    pixels = lens.in_photograph(camera, rays(crop)[..., :2].reshape(-1, 2))
    return np.isfinite(pixels).all(1).reshape(crop.height, crop.width)


def rays(crop: Crop) -> np.ndarray:
    """(h, w, 3): the point at depth 1 that each pixel of the crop sees."""
    column, row = np.meshgrid(np.arange(crop.width), np.arange(crop.height))
    k = crop.intrinsics
    return np.stack([(column - k[0, 2]) / k[0, 0], (row - k[1, 2]) / k[1, 1], np.ones_like(column, float)], -1)
