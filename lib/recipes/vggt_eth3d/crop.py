"""Photographs at network resolution: an isotropic crop around the principal point, free of lens distortion.

Pixel coordinates: COLMAP puts the centre of the first pixel at (0.5, 0.5), the network's geometry at (0, 0).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop

PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")


@dataclass(frozen=True)
class Crop:
    """A pinhole camera at network resolution that looks along the axis of a source camera, wholly inside its image."""

    width: int  # px
    height: int  # px
    scale: float  # network pixels per source pixel at the principal point
    intrinsics: np.ndarray  # (3, 3) float64 in px, pixel centres at integers


def crop(camera: Any, width: int, height: int) -> Crop:
    """The largest view of `width` x `height` that is centred on the principal point and needs no padding.

    camera: a pycolmap.Camera. The scale is the same in x and y, as in the published training. The principal point lies
    at exactly (width / 2, height / 2), which is what the pose code assumes when it decodes (the original is up to a
    pixel off, because it crops whole pixels). Stop: the principal point lies too near the edge.
    """
    reach_x, reach_y = reach(camera)
    half_x, half_y = (width + 1) / 2, (height + 1) / 2  # from the principal point to the far edge of the last pixel
    scale = max(half_x / (camera.focal_length_x * reach_x), half_y / (camera.focal_length_y * reach_y))
    scale *= 1 + 1e-9  # rounding must not lead outside
    if scale > 2 * max(width / camera.width, height / camera.height):
        where = f"the principal point of camera {camera.camera_id} lies so near the edge"
        raise Stop(f"{where} that a crop around it loses most of the image")
    focal_x, focal_y = camera.focal_length_x * scale, camera.focal_length_y * scale
    return Crop(width, height, scale, np.array([[focal_x, 0, width / 2], [0, focal_y, height / 2], [0, 0, 1]]))


def reach(camera: Any) -> tuple[float, float]:
    """How far the image reaches from the axis on its nearer side, in x and y, on the plane at distance 1."""
    along_x, along_y = np.linspace(0, camera.width, 65), np.linspace(0, camera.height, 65)

    def edge(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        return np.abs(camera.cam_from_img(np.stack(np.broadcast_arrays(x, y), 1).astype(float)))

    reach_x = min(edge(0.0, along_y)[:, 0].min(), edge(float(camera.width), along_y)[:, 0].min())
    reach_y = min(edge(along_x, 0.0)[:, 1].min(), edge(along_x, float(camera.height))[:, 1].min())
    return float(reach_x), float(reach_y)


def read_image(path: Path, camera: Any) -> Any:
    """The decoded photograph (PIL, RGB). Stop says why it cannot be used."""
    from PIL import Image

    if not path.exists():
        raise Stop(f"{path} is listed but absent")
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise Stop(f"{path} cannot be decoded: {error}") from error
    if image.size != (camera.width, camera.height):
        raise Stop(f"{path} is {image.width} x {image.height} pixels, its camera {camera.width} x {camera.height}")
    return image


def resample(image: Any, camera: Any, crop: Crop) -> np.ndarray:
    """(h, w, 3) uint8: the photograph (PIL, RGB) of a pycolmap.Camera as the crop's camera sees it.

    Lens distortion is removed by looking up each pixel's ray.
    """
    from PIL import Image
    from scipy.ndimage import map_coordinates

    if camera.model_name in PINHOLES:  # then the crop is a rectangle of the photograph
        left = camera.principal_point_x - (crop.width + 1) / 2 / crop.scale
        top = camera.principal_point_y - (crop.height + 1) / 2 / crop.scale
        box = (left, top, left + crop.width / crop.scale, top + crop.height / crop.scale)
        return np.asarray(image.resize((crop.width, crop.height), Image.Resampling.LANCZOS, box=box))
    small = image.resize((round(image.width * crop.scale), round(image.height * crop.scale)), Image.Resampling.LANCZOS)
    pixels = camera.img_from_cam(rays(crop).reshape(-1, 3))  # (h * w, 2)
    at = [pixels[:, 1] * small.height / image.height - 0.5, pixels[:, 0] * small.width / image.width - 0.5]
    colours = np.asarray(small, np.float32).transpose(2, 0, 1)
    channels = [map_coordinates(channel, at, order=1, mode="nearest") for channel in colours]
    return np.rint(np.stack(channels, 1)).astype(np.uint8).reshape(crop.height, crop.width, 3)


def rays(crop: Crop) -> np.ndarray:
    """(h, w, 3): the point at depth 1 that each pixel of the crop sees."""
    column, row = np.meshgrid(np.arange(crop.width), np.arange(crop.height))
    k = crop.intrinsics
    return np.stack([(column - k[0, 2]) / k[0, 0], (row - k[1, 2]) / k[1, 1], np.ones_like(column, float)], -1)
