"""Depth at network resolution: from a depth map where there is one, else from laser scans, else from sparse points.

Depth is z-depth in the unit of the scene (metres in ETH3D), 0 where nothing is known.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.data import arrays
from lib.scenes import lens, scans
from lib.scenes.colmap import Scene, View
from lib.scenes.crop import Crop, rays, resample, seen
from lib.scenes.depth_files import GEOMETRIC, TRUTH, DepthMap, distorted_camera, is_scaled
from lib.scenes.reach import reach_px, within_reach
from lib.scenes.surfaces import Samples, nearest_surface, splat

# Values of ETH3D's masks: right geometry with an unsuited appearance; the photograph shows what the scan lacks.
UNSUITED, NOT_IN_SCAN = 1, 2
OUTSIDE_PX = -1e6  # where a ray is put that the map's lens does not show
LAYER = 0.05  # relative depth within which two sparse points of one pixel count as one surface
NEAR = 1e-6  # times the median depth: a point on the camera's own plane is seen nowhere
# The same for dense measurements, beside three times their spacing; scans of one scene agree to about 1 cm.
SURFACE = 0.005
MOST_16_BIT = 65535  # too far for the file, or, as Kinects write it, not measured
BEYOND, OFTEN = 10, 0.001  # so many times beyond all others, in such a share of the pixels: a mark and no depth
LOOKED_AT = 200_000  # pixels, of which all are looked at before a mark is looked for in the others
SCANS, POINTS = "scans", "points"  # of Record.columns["depth"]
METRES = "m"  # of Record.columns["unit"], "" where the unit is not known


def dropped_values(drop_obs_masks: bool) -> tuple[int, ...]:
    """The values of ETH3D's masks whose depth is not used."""
    return (UNSUITED, NOT_IN_SCAN) if drop_obs_masks else (NOT_IN_SCAN,)


def without_map(scene: Scene) -> str:
    """Where depth comes from when there is no map of it."""
    return SCANS if (scene.folder / scans.FOLDER).is_dir() else POINTS


def unit(scene: Scene, stated: str, is_known_data: bool) -> str:
    """METRES where the depth of a scene is known to be in metres, else "".

    Lasers and 16-bit maps with a scale measure metres; COLMAP's own scale is free. stated: data.unit. is_known_data:
    ETH3D as step 2 brings it, whose points are in the lasers' unit, or the stand-in.
    """
    if stated != "auto":
        return METRES if stated == METRES else ""
    laser = (scene.folder / TRUTH).is_dir() or without_map(scene) == SCANS
    return METRES if is_known_data or laser or is_scaled(scene) else ""


def known_depth(
    scene: Scene, view: View, crop: Crop, depth_map: DepthMap | None, dropped: tuple[int, ...]
) -> np.ndarray:
    """(h, w) float32: the best depth of a view, as its crop sees it, without what ETH3D's mask drops.

    Stop: a depth map, scan or mask that is missing, truncated or of another size.
    """
    shown = seen(view.camera, crop)
    if depth_map:
        found = from_map(depth_map, crop)
    elif without_map(scene) == SCANS:
        found = scans.depth(scans.read(scene.folder), view.cam_from_world, crop)
    else:
        return np.where(shown, from_points(scene.points[view.seen], view.cam_from_world, crop), 0)
    return np.where(shown & ~dropped_region(scene, view, crop, dropped), found, 0)


def dropped_region(scene: Scene, view: View, crop: Crop, dropped: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool: what ETH3D's mask of the distorted photograph drops, as the crop's camera sees it."""
    path = scene.folder / "masks_for_images" / "dslr_images" / f"{view.image.stem}.png"
    if not path.exists():  # most photographs have none
        return np.zeros((crop.height, crop.width), bool)
    mask, camera = decode(path), distorted_camera(scene.folder, view.image.name)
    return resample_mask(np.isin(mask, dropped), path, camera, crop)


def resample_mask(mask: np.ndarray, path: Path, camera: Any, crop: Crop) -> np.ndarray:
    """(h, w) bool: a mask of a whole photograph as the crop sees it. Stop: it has another size than the photograph."""
    from PIL import Image

    if mask.shape != (camera.height, camera.width):
        raise Stop(f"{path} has the shape {mask.shape}, its photograph is {camera.width} x {camera.height}")
    white = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert("RGB")
    return resample(white, camera, crop)[..., 0] >= 128


def read_depth(depth_map: DepthMap) -> np.ndarray:
    """(h, w) float32 in the unit of the scene, 0 where nothing was measured.

    Stop names a file that is truncated, of another size, or no depth.
    """
    path, camera = depth_map.path, depth_map.camera
    depth = decode(path)
    if path.suffix not in (".npy", ".png") and not path.name.endswith(GEOMETRIC):
        due = camera.width * camera.height * 4
        if depth.nbytes != due:
            raise Stop(f"{path} holds {depth.nbytes} bytes, but {camera.width} x {camera.height} x 4 = {due} are due")
        depth = depth.reshape(camera.height, camera.width)
    if depth.ndim != 2 or not depth.size or not alike(depth.shape, camera):
        raise Stop(f"{path} has the shape {depth.shape}, which is not that of a {camera.width} x {camera.height} image")
    if depth.dtype.kind not in "fiu" or depth.dtype.itemsize < 2:  # 8 bits: a picture of depth
        raise Stop(f"{path} holds values of the type {depth.dtype}, which are not depths")
    with np.errstate(over="ignore", invalid="ignore"):  # too large for float32 is not a depth either
        metres = (depth / depth_map.scale).astype(np.float32, copy=False)
    measured = np.isfinite(metres) & (metres > 0)
    if (depth.dtype.kind, depth.dtype.itemsize) == ("u", 2):
        measured &= depth != MOST_16_BIT
    metres[~measured] = 0
    return without_marks(metres)


def without_marks(depth: np.ndarray) -> np.ndarray:
    """depth (h, w), changed in place: 0 where one number stands for what was not measured, as 9999 and 1e-4 may."""
    every = max(1, int((depth.size / LOOKED_AT) ** 0.5))
    for mark in marks(depth) if marks(depth[::every, ::every]) else ():
        depth[depth == mark] = 0
    return depth


def marks(depth: np.ndarray) -> list[float]:
    known = depth[depth > 0]
    low, high = known.min(initial=np.inf), known.max(initial=0)
    others = known[(known > low) & (known < high)]
    if not others.size:
        return []
    far = [high] if high > BEYOND * others.max() else []
    near = [low] if low < others.min() / BEYOND else []
    return [float(mark) for mark in far + near if (known == mark).sum() >= OFTEN * depth.size]


def alike(shape: tuple[int, ...], camera: Any) -> bool:
    """Whether a map (h, w) has the aspect of a camera's photograph."""
    return abs(shape[1] / shape[0] * camera.height / camera.width - 1) <= 0.01


def decode(path: Path, palette: bool = False) -> np.ndarray:
    """The values in a .npy, a .png, COLMAP's dense depth, or any other file as raw little-endian float32.

    palette: a .png with one gives its colours, and not their numbers. ETH3D names the raw files .JPG. Stop: the file is
    absent or damaged.
    """
    from PIL import Image

    try:
        if path.suffix == ".npy":
            return arrays.mapped(path)
        if path.suffix == ".png":
            with Image.open(path, formats=["PNG"]) as file:
                return np.asarray(file.convert("RGB") if palette and file.mode == "P" else file)
        return dense(path) if path.name.endswith(GEOMETRIC) else np.fromfile(path, dtype="<f4")
    except FileNotFoundError as error:
        raise Stop(f"{path} is absent, though its folder has the depth of other images") from error
    except Exception as error:  # numpy and Pillow raise almost anything on damaged files
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise Stop(f"{path} cannot be read, it may be truncated: {why}") from error


def dense(path: Path) -> np.ndarray:
    """(h, w): COLMAP's matrix file: "width&height&channels&" in ASCII, then float32 row by row, 0 = nothing found.

    ValueError: the sizes are no numbers, or the file does not hold so many values (src/colmap/mvs/mat.h).
    """
    content = path.read_bytes()
    width, height, channels, values = content.split(b"&", 3)
    if int(channels) != 1 or int(width) * int(height) * 4 != len(values):
        sizes = f"{int(width)} x {int(height)} x {int(channels)}"
        raise ValueError(f"it says {sizes} values of 4 bytes and holds {len(values)} bytes")
    return np.frombuffer(values, "<f4").reshape(int(height), int(width))


def from_map(depth_map: DepthMap, crop: Crop) -> np.ndarray:
    """(h, w) float32: a depth map of the same viewpoint, seen by the crop's camera.

    Each network pixel looks up the measurements around the place where its ray meets the file (nothing hides anything
    else from the same viewpoint, so the ray's direction decides). So a sparse map loses nothing, edges stay sharp, and
    slanted surfaces keep their depth, which a minimum or a median would not do.
    """
    depth, camera = read_depth(depth_map), depth_map.camera
    stretch = np.array([camera.width / depth.shape[1], camera.height / depth.shape[0]])
    # In pixels of the map, whose centres lie at + 0.5.
    pixels = lens.in_photograph(camera, rays(crop)[..., :2].reshape(-1, 2)) / stretch
    cell, distance, reach, place = within_reach(np.where(np.isnan(pixels), OUTSIDE_PX, pixels), reach_px(depth > 0))
    depth = depth.ravel()[place]
    focal = crop.intrinsics[0, 0]
    pitch = focal * stretch[0] / lens.focal_px(camera)[0]  # network pixels per pixel of the map
    slack = 3 * reach * pitch * depth / focal + SURFACE * depth
    return nearest_surface(Samples(cell, distance * pitch, reach * pitch, depth, slack), crop)


def from_points(points: np.ndarray, cam_from_world: np.ndarray, crop: Crop) -> np.ndarray:
    """(h, w) float32: sparse points (n, 3) in the world, projected by a camera (3, 4) at network resolution.

    Of two surfaces in one pixel the nearer one stays.
    """
    cam = points @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    ahead = cam[cam[:, 2] > 0]
    cam = ahead[ahead[:, 2] > NEAR * np.median(ahead[:, 2])] if len(ahead) else ahead
    return nearest_surface(splat(cam, np.full(len(cam), 0.5), LAYER * cam[:, 2], crop), crop)
