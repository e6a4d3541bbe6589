"""Depth at network resolution: from a depth map where there is one, else from laser scans, else from sparse points.

Depth is z-depth in the unit of the scene (metres in ETH3D), 0 where nothing is known.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.scenes import colmap_files, lens, nerfstudio, scans
from lib.scenes.colmap import Scene, View
from lib.scenes.crop import Crop, rays, resample, seen
from lib.scenes.reach import reach_px, within_reach
from lib.scenes.surfaces import Samples, nearest_surface, splat

# Values of ETH3D's masks: right geometry with an unsuited appearance; the photograph shows what the scan lacks.
UNSUITED, NOT_IN_SCAN = 1, 2
# ETH3D's depth of the distorted photographs, and their cameras.
TRUTH, LENS = "ground_truth_depth/dslr_images", "dslr_calibration_jpg"
STEREO, GEOMETRIC = "stereo/depth_maps", ".geometric.bin"  # of a COLMAP workspace; beside it lies .photometric.bin
OUTSIDE_PX = -1e6  # where a ray is put that the map's lens does not show
LAYER = 0.05  # relative depth within which two sparse points of one pixel count as one surface
NEAR = 1e-6  # times the median depth: a point on the camera's own plane is seen nowhere
# The same for dense measurements, beside three times their spacing; scans of one scene agree to about 1 cm.
SURFACE = 0.005
METRES = "m"  # of Record.columns["unit"], "" where the unit is not known
MATCHES = 20  # pixels with a depth from both sources, at least, before their factor is believed
FACTOR, SPREAD = 1.25, 1.15  # another unit: the median ratio is beyond FACTOR, its quartiles within SPREAD of it


@dataclass(frozen=True)
class DepthMap:
    """A file of z-depth, its camera (the photograph's own, or ETH3D's distorted one), and the unit of its values."""

    path: Path
    camera: Any  # pycolmap.Camera
    scale: float = 1.0  # metres = value / scale


def dropped_values(drop_obs_masks: bool) -> tuple[int, ...]:
    """The values of ETH3D's masks whose depth is not used."""
    return (UNSUITED, NOT_IN_SCAN) if drop_obs_masks else (NOT_IN_SCAN,)


def without_map(scene: Scene) -> str:
    """Where depth comes from when there is no map of it: "scans" or "points"."""
    return "scans" if (scene.folder / scans.FOLDER).is_dir() else "points"


def unit(scene: Scene, stated: str, is_known_data: bool) -> str:
    """METRES where the depth of a scene is known to be in metres, else "".

    Lasers and 16-bit maps with a scale measure metres; COLMAP's own scale is free. stated: data.unit. is_known_data:
    ETH3D as step 2 brings it, whose points are in the lasers' unit, or the stand-in.
    """
    if stated != "auto":
        return METRES if stated == METRES else ""
    laser = (scene.folder / TRUTH).is_dir() or without_map(scene) == "scans"
    return METRES if is_known_data or laser or is_scaled(scene) else ""


def is_scaled(scene: Scene) -> bool:
    """Does depth come from 16-bit maps, whose values a scale divides?"""
    beside = () if (scene.folder / TRUTH).is_dir() else (depth_beside(scene, view) for view in scene.views)
    return any(path.suffix == ".png" for path in beside if path)


def known_depth(
    scene: Scene, view: View, crop: Crop, depth_map: DepthMap | None, dropped: tuple[int, ...]
) -> np.ndarray:
    """(h, w) float32: the best depth of a view, as its crop sees it, without what ETH3D's mask drops.

    Stop: a depth map, scan or mask that is missing, truncated or of another size.
    """
    shown = seen(view.camera, crop)
    if depth_map:
        found = from_map(depth_map, crop)
    elif without_map(scene) == "scans":
        found = scans.depth(scans.read(scene.folder), view.cam_from_world, crop)
    else:
        return np.where(shown, from_points(scene.points[view.seen], view.cam_from_world, crop), 0)
    return np.where(shown & ~dropped_region(scene, view, crop, dropped), found, 0)


def factor_to_points(known: np.ndarray, scene: Scene, view: View, crop: Crop) -> float:
    """How many times a view's depth (h, w) is what the model's points say, where it is clearly another unit; else 1.

    Poses and depth in two units would be trained on without a word: each view's depth is right, and no two agree.
    """
    points = from_points(scene.points[view.seen], view.cam_from_world, crop)
    both = (points > 0) & (known > 0)
    if both.sum() < MATCHES:
        return 1.0
    low, middle, high = np.percentile(known[both] / points[both], (25, 50, 75))
    alike = high < middle * SPREAD and low > middle / SPREAD
    return float(middle) if alike and not 1 / FACTOR < middle < FACTOR else 1.0


def find_depth_map(scene: Scene, view: View, depth_scale: float) -> DepthMap | None:
    """The depth file of a view, or None.

    ETH3D's belongs to the distorted photograph, the plain layout's lies in depth/, COLMAP's dense one in stereo/, and
    nerfstudio's where its transforms.json says. Stop: ETH3D's depth without the cameras of the distorted photographs,
    or a 16-bit PNG without a scale.
    """
    if (scene.folder / TRUTH).is_dir():
        truth, camera = scene.folder / TRUTH / view.image.name, distorted_camera(scene.folder, view.image.name)
        return DepthMap(truth, camera)
    found = depth_beside(scene, view)
    if not found:
        return None
    scale = (depth_scale or stated_scale(scene, view, found)) if found.suffix == ".png" else 1.0
    return DepthMap(found, view.camera, scale)


def depth_beside(scene: Scene, view: View) -> Path | None:
    """The plain layout's depth file: depth/ mirrors images/, a.npy or a.jpg.npy for a.jpg; else another program's.

    Stop: a.npy, where there is a.png as well.
    """
    beside = scene.folder / "depth" / view.image.relative_to(scene.folder / "images")
    whole, short = (first_there(base) for base in (beside, beside.with_suffix("")))
    alike = scene.namesakes[view.image.with_suffix("")]
    if short and not whole and alike > 1:
        cause = f"{short} may belong to any of {alike} photographs called {view.image.stem}"
        raise Stop(cause, f"name it {view.image.name}{short.suffix}, or leave one of the photographs out")
    return whole or short or of_other_programs(scene, view)


def name_in(scene: Scene, view: View) -> str:
    """A photograph's name relative to images/, by which other programs' files know it."""
    return view.image.relative_to(scene.folder / "images").as_posix()


def of_other_programs(scene: Scene, view: View) -> Path | None:
    """COLMAP's dense depth that several views agree on (not the photometric one), or the file of a nerfstudio frame."""
    name = name_in(scene, view)
    dense = scene.folder / STEREO / f"{name}{GEOMETRIC}"
    if dense.is_file():
        return dense
    return nerfstudio.depth_of(scene.folder, name) if (scene.folder / nerfstudio.FILE).is_file() else None


def first_there(base: Path) -> Path | None:
    files = (base.with_name(base.name + suffix) for suffix in (".npy", ".png", ".bin", ".raw"))
    return next((path for path in files if path.exists()), None)


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


def stated_scale(scene: Scene, view: View, path: Path) -> float:
    """What the scene's transforms.json, or summary.json beside the scenes, divides 16-bit values by to get metres.

    Stop: neither states it for this depth, or the file is damaged.
    """
    if (scene.folder / nerfstudio.FILE).is_file():
        of_frames = nerfstudio.scale(scene.folder, name_in(scene, view), path)
        if of_frames:
            return of_frames
    summary = scene.folder.parent / "summary.json"
    stated = nerfstudio.table_in(summary)
    of_scene = stated.get(scene.folder.name) if isinstance(stated, dict) else None
    scale = of_scene.get("depth_scale") if isinstance(of_scene, dict) else None
    if not nerfstudio.is_scale(scale):
        cause = f"the 16-bit depth of {scene.folder} needs a scale: {summary} states no depth_scale for it"
        raise Stop(cause, "set data.depth_scale")
    return float(scale)


def distorted_camera(folder: Path, name: str) -> Any:
    """The pycolmap.Camera of a photograph as taken. Stop: its model is missing, or does not list the photograph."""
    if not (folder / LENS).is_dir():
        cause = f"{folder} has depth or masks of the distorted photographs, but not their cameras: {LENS} is missing"
        raise Stop(cause, f"place {folder.name}_dslr_jpg.7z and run step 2, or remove {TRUTH} to go on without")
    cameras = distorted_cameras(folder)
    if name not in cameras:
        raise Stop(f"{folder / LENS} does not list dslr_images/{name}, whose depth is there")
    return cameras[name]


@lru_cache(maxsize=1)
def distorted_cameras(folder: Path) -> dict[str, Any]:
    """The pycolmap.Camera of every photograph as taken, by file name."""
    model = colmap_files.read(folder / LENS)
    return {Path(image.name).name: model.cameras[image.camera] for image in model.images}


def read_depth(depth_map: DepthMap) -> np.ndarray:
    """(h, w) float32 metres, 0 where nothing was measured. Stop names a file that is truncated or of another size."""
    path, camera = depth_map.path, depth_map.camera
    depth = decode(path)
    if path.suffix not in (".npy", ".png") and not path.name.endswith(GEOMETRIC):
        due = camera.width * camera.height * 4
        if depth.nbytes != due:
            raise Stop(f"{path} holds {depth.nbytes} bytes, but {camera.width} x {camera.height} x 4 = {due} are due")
        depth = depth.reshape(camera.height, camera.width)
    if depth.ndim != 2 or not depth.size or not alike(depth.shape, camera):
        raise Stop(f"{path} has the shape {depth.shape}, which is not that of a {camera.width} x {camera.height} image")
    if depth.dtype.kind not in "fiu":
        raise Stop(f"{path} holds values of the type {depth.dtype}, which are not depths")
    with np.errstate(over="ignore", invalid="ignore"):  # too large for float32 is not a depth either
        metres = (depth / depth_map.scale).astype(np.float32, copy=False)
    metres[~(np.isfinite(metres) & (metres > 0))] = 0
    return metres


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
            return np.load(path, mmap_mode="r", allow_pickle=False)  # a header's shape takes no memory by itself
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
