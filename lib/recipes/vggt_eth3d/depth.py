"""Depth at network resolution, from a depth map where there is one, else from the sparse points.

Depth is z-depth in the unit of the scene (metres in ETH3D), 0 where nothing is known.
"""
import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib.errors import Stop
from lib.recipes.vggt_eth3d.colmap import Scene, View, read_model
from lib.recipes.vggt_eth3d.crop import Crop
from lib.run import read_json

NOT_IN_SCAN = 2  # value of ETH3D's masks: the image shows what the scan lacks (1: the geometry is right, the appearance unsuited)
LAYER = 0.05  # relative depth within which two points of one pixel count as one surface


@dataclass(frozen=True)
class DepthMap:
    """A file of z-depth, its camera (the image's own, or ETH3D's distorted one), and what turns its values into metres."""

    path: Path
    camera: Any
    scale: float = 1.0  # metres = value / scale
    mask: Path | None = None


def find_depth_map(scene: Scene, view: View, depth_scale: float) -> DepthMap | None:
    """The depth file of a view, or None: ETH3D's, which belongs to the distorted photograph, or the plain layout's in depth/."""
    truth = scene.folder / "ground_truth_depth" / "dslr_images" / view.image.name
    if truth.parent.is_dir():
        mask = scene.folder / "masks_for_images" / "dslr_images" / f"{truth.stem}.png"
        return DepthMap(truth, distorted_camera(scene.folder, view.image.name), 1.0, mask if mask.exists() else None)
    beside = scene.folder / "depth" / view.image.relative_to(scene.folder / "images")
    found = [path for path in map(beside.with_suffix, (".npy", ".png", ".bin", ".raw")) if path.exists()]
    if not found:
        return None
    scale = (depth_scale or stated_scale(scene)) if found[0].suffix == ".png" else 1.0
    return DepthMap(found[0], view.camera, scale)


def stated_scale(scene: Scene) -> float:
    summary = scene.folder.parent / "summary.json"
    scale = (read_json(summary) or {}).get(scene.name, {}).get("depth_scale", 0)
    if not scale > 0:
        raise Stop(f"the 16-bit depth of {scene.folder} needs a scale: {summary} states no depth_scale for it", "set data.depth_scale")
    return float(scale)


def distorted_camera(folder: Path, name: str) -> Any:
    cameras = distorted_cameras(folder)
    if name not in cameras:
        raise Stop(f"{folder / 'dslr_calibration_jpg'} does not list dslr_images/{name}, whose depth is there")
    return cameras[name]


@lru_cache(maxsize=1)
def distorted_cameras(folder: Path) -> dict[str, Any]:
    """The cameras of the photographs as taken, by file name."""
    reconstruction = read_model(folder / "dslr_calibration_jpg")
    return {Path(image.name).name: copy.copy(image.camera) for image in reconstruction.images.values()}


def read_depth(depth_map: DepthMap) -> Any:
    """(h, w) float32 metres, 0 where nothing was measured. Stop names a file that is truncated or of another size."""
    import numpy

    path, camera = depth_map.path, depth_map.camera
    depth = decode(path)
    if path.suffix not in (".npy", ".png"):
        due = camera.width * camera.height * 4
        if depth.nbytes != due:
            raise Stop(f"{path} holds {depth.nbytes} bytes, but {camera.width} x {camera.height} x 4 = {due} are due")
        depth = depth.reshape(camera.height, camera.width)
    if depth.ndim != 2 or abs(depth.shape[1] / depth.shape[0] * camera.height / camera.width - 1) > 0.01:
        raise Stop(f"{path} has the shape {depth.shape}, which is not that of a {camera.width} x {camera.height} image")
    usable = numpy.isfinite(depth) & (depth > 0) & ~masked(depth_map, depth.shape)
    return numpy.where(usable, depth / depth_map.scale, 0).astype(numpy.float32)


def decode(path: Path) -> Any:
    """The numbers in a .npy, a .png, or any other file as raw little-endian float32 without a header (ETH3D names these .JPG)."""
    import numpy
    from PIL import Image

    try:
        if path.suffix == ".npy":
            return numpy.load(path)
        if path.suffix == ".png":
            with Image.open(path) as file:
                return numpy.asarray(file)
        return numpy.fromfile(path, dtype="<f4")
    except FileNotFoundError as error:
        raise Stop(f"{path} is absent, though its folder has the depth of other images") from error
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise Stop(f"{path} cannot be read, it may be truncated: {error}") from error


def masked(depth_map: DepthMap, shape: tuple[int, int]) -> Any:
    """(h, w) bool: where the photograph shows what the scan does not have."""
    import numpy

    if depth_map.mask is None:
        return numpy.zeros(shape, bool)
    mask = decode(depth_map.mask)
    if mask.shape != shape:
        raise Stop(f"{depth_map.mask} has the shape {mask.shape}, the depth of its image {shape}")
    return mask == NOT_IN_SCAN


def from_map(depth_map: DepthMap, crop: Crop) -> Any:
    """(h, w) float32: a depth map of the same viewpoint, seen by the crop's camera.

    Every measured pixel goes to the network pixel that its ray meets, and the one nearest to the centre of that pixel stays. So a
    sparse map loses nothing, edges stay sharp, and slanted surfaces keep their depth, which a minimum or a median would not do.
    """
    import numpy

    depth = read_depth(depth_map)
    row, column = numpy.nonzero(depth)
    stretch = numpy.array([depth_map.camera.width / depth.shape[1], depth_map.camera.height / depth.shape[0]])
    seen = depth_map.camera.cam_from_img((numpy.stack([column, row], 1) + 0.5) * stretch)  # (n, 2)
    k = crop.intrinsics
    return splat(seen[:, 0] * k[0, 0] + k[0, 2], seen[:, 1] * k[1, 1] + k[1, 2], depth[row, column], crop)


def from_points(points: Any, cam_from_world: Any, crop: Crop) -> Any:
    """(h, w) float32: sparse points projected straight at network resolution; of two surfaces in one pixel the nearer one stays."""
    import numpy

    cam = points @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    cam = cam[cam[:, 2] > 1e-6]
    k = crop.intrinsics
    column, row = cam[:, 0] / cam[:, 2] * k[0, 0] + k[0, 2], cam[:, 1] / cam[:, 2] * k[1, 1] + k[1, 2]
    return splat(column, row, cam[:, 2].astype(numpy.float32), crop, layer=LAYER)


def splat(column: Any, row: Any, depth: Any, crop: Crop, layer: float | None = None) -> Any:
    """(h, w) float32: per pixel the sample nearest to its centre; with `layer`, among those as near to the camera as the nearest."""
    import numpy

    near_column, near_row = numpy.rint(column), numpy.rint(row)
    inside = (near_column >= 0) & (near_column < crop.width) & (near_row >= 0) & (near_row < crop.height)
    column, row, depth, near_column, near_row = (values[inside] for values in (column, row, depth, near_column, near_row))
    cell = near_row.astype(numpy.int64) * crop.width + near_column.astype(numpy.int64)
    offset = (column - near_column) ** 2 + (row - near_row) ** 2
    if layer is not None:
        nearest = numpy.full(crop.height * crop.width, numpy.inf)
        numpy.minimum.at(nearest, cell, depth)
        offset = numpy.where(depth <= nearest[cell] * (1 + layer), offset, numpy.inf)
    closest = numpy.full(crop.height * crop.width, numpy.inf)
    numpy.minimum.at(closest, cell, offset)
    chosen = (offset == closest[cell]) & numpy.isfinite(offset)
    pooled = numpy.zeros(crop.height * crop.width, numpy.float32)
    pooled[cell[chosen]] = depth[chosen]
    return pooled.reshape(crop.height, crop.width)
