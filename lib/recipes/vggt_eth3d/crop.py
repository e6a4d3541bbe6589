"""Photographs at network resolution: an isotropic crop around the principal point, free of lens distortion.

Pixel coordinates: COLMAP puts the centre of the first pixel at (0.5, 0.5), the network's geometry at (0, 0).
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import Stop

PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")


@dataclass(frozen=True)
class Crop:
    """A pinhole camera at network resolution that looks along the axis of a source camera, wholly inside its image."""

    width: int
    height: int
    scale: float  # network pixels per source pixel at the principal point
    intrinsics: Any  # (3, 3) float64, pixel centres at integers


def crop(camera: Any, width: int, height: int) -> Crop:
    """The largest view of `width` x `height` that is centred on the principal point and needs no padding.

    The scale is the same in x and y, as in the published training; the principal point lies at exactly (width / 2, height / 2),
    which is what the pose code assumes when it decodes (the original is up to a pixel off, because it crops whole pixels).
    """
    import numpy

    reach_x, reach_y = reach(camera)
    half_x, half_y = (width + 1) / 2, (height + 1) / 2  # from the principal point to the far edge of the last pixel
    scale = max(half_x / (camera.focal_length_x * reach_x), half_y / (camera.focal_length_y * reach_y))
    scale *= 1 + 1e-9  # rounding must not lead outside
    if scale > 2 * max(width / camera.width, height / camera.height):
        raise Stop(f"the principal point of camera {camera.camera_id} lies so near the edge that a crop around it loses most of the image")
    focal_x, focal_y = camera.focal_length_x * scale, camera.focal_length_y * scale
    return Crop(width, height, scale, numpy.array([[focal_x, 0, width / 2], [0, focal_y, height / 2], [0, 0, 1]]))


def reach(camera: Any) -> tuple[float, float]:
    """How far the image reaches from the axis on its nearer side, in x and y, on the plane at distance 1."""
    import numpy

    along_x, along_y = numpy.linspace(0, camera.width, 65), numpy.linspace(0, camera.height, 65)

    def edge(x, y):
        return numpy.abs(camera.cam_from_img(numpy.stack(numpy.broadcast_arrays(x, y), 1).astype(float)))

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


def resample(image: Any, camera: Any, crop: Crop) -> Any:
    """(h, w, 3) uint8: the photograph as the crop's camera sees it. Lens distortion is removed by looking up each pixel's ray."""
    import numpy
    from PIL import Image
    from scipy.ndimage import map_coordinates

    if camera.model_name in PINHOLES:  # then the crop is a rectangle of the photograph
        left = camera.principal_point_x - (crop.width + 1) / 2 / crop.scale
        top = camera.principal_point_y - (crop.height + 1) / 2 / crop.scale
        box = (left, top, left + crop.width / crop.scale, top + crop.height / crop.scale)
        return numpy.asarray(image.resize((crop.width, crop.height), Image.Resampling.LANCZOS, box=box))
    small = image.resize((round(image.width * crop.scale), round(image.height * crop.scale)), Image.Resampling.LANCZOS)
    pixels = camera.img_from_cam(rays(crop).reshape(-1, 3))  # (h * w, 2)
    at = [pixels[:, 1] * small.height / image.height - 0.5, pixels[:, 0] * small.width / image.width - 0.5]
    channels = [map_coordinates(channel, at, order=1, mode="nearest") for channel in numpy.asarray(small, numpy.float32).transpose(2, 0, 1)]
    return numpy.rint(numpy.stack(channels, 1)).astype(numpy.uint8).reshape(crop.height, crop.width, 3)


def rays(crop: Crop) -> Any:
    """(h, w, 3): the point at depth 1 that each pixel of the crop sees."""
    import numpy

    column, row = numpy.meshgrid(numpy.arange(crop.width), numpy.arange(crop.height))
    k = crop.intrinsics
    return numpy.stack([(column - k[0, 2]) / k[0, 0], (row - k[1, 2]) / k[1, 1], numpy.ones_like(column, float)], -1)
