"""Scenes as COLMAP describes them: cameras, poses, sparse points, and which image sees which point.

Two layouts are read, text or binary: ETH3D's undistorted scenes (`dslr_calibration_undistorted/`) and the plain
`images/ + sparse/[0/]` of COLMAP itself. Poses are camera-from-world with OpenCV axes, in the unit of the scene.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop, nearest

# Folders of a COLMAP model inside a scene, in order of preference.
MODELS = ("dslr_calibration_undistorted", "sparse/0", "sparse")
CAMERA_MODELS = (
    "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE",
    "THIN_PRISM_FISHEYE",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """One photograph: `camera` is a pycolmap.Camera, `seen` are rows of Scene.points, `image` may not exist."""

    name: str  # unique in the scene, without suffix; the file names of its arrays
    image: Path
    camera: Any
    cam_from_world: np.ndarray  # (3, 4) float64
    seen: np.ndarray  # (points seen,) int64


@dataclass(frozen=True)
class Scene:
    name: str
    folder: Path
    views: tuple[View, ...]  # in the order of their file names
    points: np.ndarray  # (points, 3) float64, in the world; may be empty


def read(folder: Path) -> Scene:
    """The scene in `folder`. Stop names the file that is missing, unknown or damaged."""
    model = model_folder(folder)
    reconstruction = read_model(model)
    points, row_of = read_points(reconstruction, model)
    images = sorted(reconstruction.images.values(), key=lambda image: image.name)
    views = tuple(read_view(folder, image, row_of) for image in images)
    if len({view.name for view in views}) < len(views):
        raise Stop(f"{model} lists two images whose names differ only in the suffix or in '/' against '-'")
    return Scene(folder.name, folder, views, points)


def model_folder(folder: Path) -> Path:
    """The folder of the scene's COLMAP model. Stop: there is no such scene, or no model in it."""
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        known = nearest(folder.name, beside) if beside else "the folder above it is missing or empty"
        raise Stop(f"there is no scene {folder}: {known}", "set data.root, data.scenes and data.val_scenes")
    for name in MODELS:
        if any((folder / name / f"cameras.{kind}").exists() for kind in ("bin", "txt")):
            return folder / name
    raise Stop(f"{folder} holds no COLMAP model: none of {', '.join(MODELS)} has a cameras.txt or cameras.bin")


def read_model(model: Path) -> Any:
    """A pycolmap.Reconstruction. Its exceptions name no file, so the damaged one is found from their text."""
    import pycolmap

    kind = "bin" if (model / "cameras.bin").exists() else "txt"
    for name in ("cameras", "images", "points3D"):
        if not (model / f"{name}.{kind}").exists():
            raise Stop(f"{model / name}.{kind} is missing: a COLMAP model is cameras, images and points3D")
    check_camera_models(model / "cameras.txt")
    level, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, pycolmap.logging.FATAL.value
    try:
        return pycolmap.Reconstruction(model)
    except (ValueError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        why = "a value is missing, impossible or not a number" if "Check failed" in reason else reason
        raise Stop(f"{model / damaged_file(reason)}.{kind} cannot be read: {why}") from error
    finally:
        pycolmap.logging.minloglevel = level


def damaged_file(reason: str) -> str:
    """Which part of a model pycolmap's message is about."""
    if "point3D" in reason:
        return "points3D"
    return "cameras" if "amera" in reason and "cam_from" not in reason else "images"


def check_camera_models(cameras: Path) -> None:
    """pycolmap says only 'does not exist' of an unknown camera model."""
    if not cameras.exists():
        return
    for line in cameras.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if len(words) > 1 and not line.startswith("#") and words[1] not in CAMERA_MODELS:
            known = nearest(words[1], CAMERA_MODELS)
            raise Stop(f"{cameras} has a camera model {words[1]!r} that is not supported: {known}")


def read_points(reconstruction: Any, model: Path) -> tuple[np.ndarray, dict[int, int]]:
    """The points (n, 3) float64, and the row of each point id."""
    ids = sorted(reconstruction.points3D)
    points = np.array([reconstruction.points3D[i].xyz for i in ids], dtype=np.float64).reshape(-1, 3)
    if bad := int((~np.isfinite(points)).any(1).sum()):
        raise Stop(f"points3D in {model} has {bad} points that are not finite numbers")
    return points, {point: row for row, point in enumerate(ids)}


def read_view(folder: Path, image: Any, row_of: dict[int, int]) -> View:
    """One view of a pycolmap.Image. Stop: its camera model is not supported, or its pose is not finite."""
    model = image.camera.model_name
    if model not in CAMERA_MODELS:
        known = nearest(model, CAMERA_MODELS)
        raise Stop(f"the camera of {image.name} in {folder} is of the unsupported model {model}: {known}")
    pose = image.cam_from_world().matrix()
    if not np.isfinite(pose).all():
        raise Stop(f"the pose of {image.name} in {folder} is not finite")
    seen = np.array(sorted({row_of[p.point3D_id] for p in image.points2D if p.has_point3D()}), dtype=np.int64)
    name = Path(image.name.removeprefix("dslr_images_undistorted/")).with_suffix("").as_posix().replace("/", "-")
    camera = copy.copy(image.camera)  # the original belongs to the reconstruction and is freed with it
    return View(name, folder / "images" / image.name, camera, pose, seen)


def shared_points(scene: Scene) -> np.ndarray:
    """(views, views) float32: points that two views share, as a share of what the view with fewer points sees."""
    from scipy.sparse import csr_array

    rows = np.concatenate([np.full(len(view.seen), i) for i, view in enumerate(scene.views)])
    columns = np.concatenate([view.seen for view in scene.views])
    sees = csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(scene.views), len(scene.points)))
    shared = (sees @ sees.T).toarray()
    counts = shared.diagonal()
    return (shared / np.maximum(np.minimum.outer(counts, counts), 1)).astype(np.float32)
