"""Which file has the depth of a photograph, and what its values are divided by to get the unit of the scene.

ETH3D's belongs to the distorted photograph, the plain layout's lies in depth/, COLMAP's dense one in stereo/, and
nerfstudio's where its transforms.json says.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.words import counted
from lib.data import arrays
from lib.scenes import colmap_files, lens, nerfstudio
from lib.scenes.colmap import Scene, View
from lib.scenes.sections import SUMMARY

# ETH3D's depth of the distorted photographs, and their cameras.
TRUTH, LENS = "ground_truth_depth/dslr_images", "dslr_calibration_jpg"
STEREO, GEOMETRIC = "stereo/depth_maps", ".geometric.bin"  # of a COLMAP workspace; beside it lies .photometric.bin
PLAIN = "depth"
SUFFIXES = (".npy", ".png", ".bin", ".raw")


@dataclass(frozen=True)
class DepthMap:
    """A file of z-depth, its camera (the photograph's own, or ETH3D's distorted one), and the unit of its values."""

    path: Path
    camera: Any  # pycolmap.Camera
    scale: float = 1.0  # metres = value / scale


def find_depth_map(scene: Scene, view: View, depth_scale: float) -> DepthMap | None:
    """The depth file of a view, or None.

    Stop: ETH3D's depth without the cameras of the distorted photographs, COLMAP's beside distorted photographs, or
    values that need a scale and have none.
    """
    if (scene.folder / TRUTH).is_dir():
        truth, camera = scene.folder / TRUTH / view.image.name, distorted_camera(scene.folder, view.image.name)
        return DepthMap(truth, camera)
    found = depth_beside(scene, view)
    if not found:
        return None
    refuse_distorted(found, view)
    scale = (depth_scale or stated_scale(scene, view, found)) if needs_scale(scene, view, found) else 1.0
    return DepthMap(found, view.camera, scale)


def refuse_distorted(path: Path, view: View) -> None:
    """Stop: COLMAP's dense depth, which is of undistorted photographs, and a photograph that is not."""
    if path.name.endswith(GEOMETRIC) and view.camera.model_name not in lens.PINHOLES:
        cause = f"{path} is of COLMAP's undistorted photograph, and {view.image} has a {view.camera.model_name} camera"
        raise Stop(cause, "take images/ and sparse/ of the folder that image_undistorter wrote")


def needs_scale(scene: Scene, view: View, path: Path) -> bool:
    """Whole numbers are no lengths yet, and neither is what a frame of transforms.json names: nerfstudio scales its
    float files too.
    """
    return holds_whole_numbers(path) or (
        (scene.folder / nerfstudio.FILE).is_file() and nerfstudio.depth_of(scene.folder, name_in(scene, view)) == path
    )


def holds_whole_numbers(path: Path) -> bool:
    if path.suffix != ".npy":
        return path.suffix == ".png"
    with suppress(Exception):  # whoever reads the values says what is wrong with the file
        return arrays.mapped(path).dtype.kind in "iu"
    return False


def depth_beside(scene: Scene, view: View) -> Path | None:
    """The plain layout's depth file: depth/ mirrors images/, a.npy or a.jpg.npy for a.jpg; else another program's.

    Stop: a.npy, where there is a.png as well.
    """
    beside = scene.folder / PLAIN / view.image.relative_to(scene.folder / "images")
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
    files = (base.with_name(base.name + suffix) for suffix in SUFFIXES)
    return next((path for path in files if path.exists()), None)


def is_scaled(scene: Scene) -> bool:
    """Does depth come from maps whose values a scale divides?"""
    views = () if (scene.folder / TRUTH).is_dir() else scene.views
    return any((found := depth_beside(scene, view)) and needs_scale(scene, view, found) for view in views)


def refuse_strange(scenes: list[Scene]) -> None:
    """Says which files of depth/ belong to no photograph of a folder's scenes.

    Stop: there is depth, and none of it does. Without a word depth would come from the sparse points.
    """
    folder, views = scenes[0].folder, [(scene, view) for scene in scenes for view in scene.views]
    if (folder / TRUTH).is_dir() or not views:
        return
    used = {depth_beside(*view) for view in views} - {None}
    parts = (PLAIN,) if used else (PLAIN, STEREO)  # in stereo/ lie the photometric ones, too
    files = [path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file()]
    others = [path.relative_to(folder).as_posix() for path in files if path not in used]
    strange = [name for name in others if not Path(name).name.startswith(".")]
    if strange and not used:
        due = f"{PLAIN}/{Path(name_in(*views[0])).with_suffix(SUFFIXES[0])}"
        cause = f"no depth of {folder} belongs to a photograph: there is {strange[0]}, but no {due}"
        named = f"call them like their photographs, as {', '.join(SUFFIXES)}, or {STEREO}/<photograph>{GEOMETRIC}"
        raise Stop(cause, f"{named}; or move them away")
    if strange:
        said = f"{counted(len(strange), 'file')} of {PLAIN}/ belong to no photograph: {', '.join(strange[:5])}"
        print(f"  {folder.name}: {said}", flush=True)


def stated_scale(scene: Scene, view: View, path: Path) -> float:
    """What the scene's transforms.json, or summary.json beside the scenes, divides values by to get metres.

    Stop: neither states it for this depth, or the file is damaged.
    """
    if (scene.folder / nerfstudio.FILE).is_file():
        of_frames = nerfstudio.scale(scene.folder, name_in(scene, view), path)
        if of_frames:
            return of_frames
    summary = scene.folder.parent / SUMMARY
    stated = nerfstudio.table_in(summary)
    of_scene = stated.get(scene.folder.name) if isinstance(stated, dict) else None
    scale = of_scene.get("depth_scale") if isinstance(of_scene, dict) else None
    if not nerfstudio.is_scale(scale):
        lacking = f"{summary} states no depth_scale for {scene.folder.name}"
        raise Stop(f"{path} holds whole numbers and needs a scale: {lacking}", "set data.depth_scale")
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
