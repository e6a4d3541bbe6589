"""Scenes as COLMAP describes them: cameras, poses, sparse points, and which image sees which point.

Read are ETH3D's undistorted scenes (`dslr_calibration_undistorted/`), the plain `images/ + sparse/[0/]` of COLMAP, and
nerfstudio's `images/ + colmap/sparse/0`, text or binary; where there is none of them, nerfstudio's transforms.json.
Poses are camera-from-world with OpenCV axes, in the unit of the scene.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop, nearest
from lib.scenes import colmap_files, nerfstudio, rigs
from lib.scenes.sections import OF_MODEL

ETH3D = "dslr_calibration_undistorted"
# Where COLMAP models lie inside a scene. COLMAP begins a new one wherever it loses the thread: of several the largest
# is read, or each is a scene of its own (`read_all`).
MODELS = (ETH3D, "sparse/*", "sparse", "colmap/sparse/*", "colmap/sparse", ".")


@dataclass(frozen=True)
class View:
    """One photograph: `camera` is a pycolmap.Camera, `seen` are rows of Scene.points, `image` may not exist."""

    name: str  # unique in the scene; the file names of its arrays
    image: Path
    camera: Any
    cam_from_world: np.ndarray  # (3, 4) float64
    seen: np.ndarray  # (points seen,) int64


@dataclass(frozen=True)
class Scene:
    name: str  # its folder's, or folder#model where each model of a folder is a scene
    folder: Path
    views: tuple[View, ...]  # in the order of their file names
    points: np.ndarray  # (points, 3) float64, in the world; may be empty

    @cached_property
    def namesakes(self) -> Counter[Path]:
        """How many photographs have each path, suffix apart."""
        return Counter(view.image.with_suffix("") for view in self.views)

    @cached_property
    def is_mixed(self) -> bool:
        """Whether some photographs stand and others lie."""
        return len({view.camera.width >= view.camera.height for view in self.views}) > 1


def read(folder: Path, otherwise: str = "") -> Scene:
    """The scene in `folder`. Stop names the file that is missing, unknown or damaged.

    otherwise: what is said beside the choice of the largest of several models.
    """
    found = model_folders(folder)
    return of_model(folder, found[0] if len(found) == 1 else largest(folder, found, otherwise), folder.name)


def read_all(folder: Path) -> list[Scene]:
    """Each model in `folder` as a scene; they show one place, but have no world and no unit in common. Stop as `read`.

    Where there is one model, the scene is called like the folder.
    """
    found = model_folders(folder)
    if len(found) == 1:
        return [of_model(folder, found[0], folder.name)]
    return [of_model(folder, place, f"{folder.name}{OF_MODEL}{model_name(folder, place)}") for place in found]


def model_name(folder: Path, place: Path) -> str:
    """sparse-1 for sparse/1: part of a path."""
    return place.relative_to(folder).as_posix().replace("/", "-") if place != folder else "folder"


def of_model(folder: Path, place: Path, name: str) -> Scene:
    model = nerfstudio.read(folder) if place.name == nerfstudio.FILE else colmap_files.read(place)
    if place.is_dir():
        rigs.refuse_other_poses(place, model.images)
    images = sorted(model.images, key=lambda image: image.name)
    if outside := next((image.name for image in images if Path(image.name).is_absolute()), ""):
        raise Stop(f"{place} lists the image {outside}, but names are relative to {folder / 'images'}")
    called = view_names([image.name for image in images])
    if len(set(called)) < len(called):
        raise Stop(f"{place} lists two images of one name: {Counter(called).most_common(1)[0][0]}")
    views = tuple(
        View(
            view,
            folder / "images" / image.name,
            model.cameras[image.camera],
            image.cam_from_world,
            model.rows(image),
        )
        for view, image in zip(called, images, strict=True)
    )
    return Scene(name, folder, views, model.points)


def view_names(names: list[str]) -> list[str]:
    """File names without suffix, "/" of subfolders as "-"; the suffix stays where two would be called the same."""
    whole = [name.removeprefix("dslr_images_undistorted/") for name in names]
    short = [Path(name).with_suffix("").as_posix() for name in whole]
    count = Counter(name.replace("/", "-") for name in short)
    return [
        (name if count[stem.replace("/", "-")] > 1 else stem).replace("/", "-")
        for name, stem in zip(whole, short, strict=True)
    ]


def model_folders(folder: Path) -> list[Path]:
    """The folders of the scene's COLMAP models, or its transforms.json. ETH3D's has no other beside it.

    Stop: there is no such scene, or nothing that says where its cameras are.
    """
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        known = nearest(folder.name, beside) if beside else "the folder above it is missing or empty"
        raise Stop(f"there is no scene {folder}: {known}", "set data.root, data.scenes and data.val_scenes")
    found = [place for pattern in MODELS for place in places(folder, pattern) if colmap_files.kind(place)]
    if not found and (folder / nerfstudio.FILE).is_file():
        return [folder / nerfstudio.FILE]
    if not found:
        raise Stop(
            f"{folder} holds no COLMAP model: none of {', '.join(MODELS)} has a cameras.txt or cameras.bin, and there "
            f"is no {nerfstudio.FILE}",
            "let COLMAP write its model into sparse/0, or nerfstudio into colmap/sparse/0",
        )
    return found[:1] if found[0].name == ETH3D else found


def places(folder: Path, pattern: str) -> list[Path]:
    return [folder] if pattern == "." else sorted(folder.glob(pattern))


def largest(folder: Path, found: list[Path], otherwise: str) -> Path:
    """Of several models the one with the most images; says which it is."""
    images = {place: len(colmap_files.read_images(place)) for place in found}
    chosen = max(found, key=lambda place: images[place])  # the first of equals
    named = {place: place.relative_to(folder).as_posix() for place in found}
    sizes = ", ".join(f"{named[place]} has {count}" for place, count in images.items())
    said = f"of {len(found)} COLMAP models the largest is read, {named[chosen]} (images: {sizes}){otherwise}"
    print(f"  {folder.name}: {said}", flush=True)
    return chosen


def shared_points(scene: Scene) -> np.ndarray:
    """(views, views) float32: points that two views share, as a share of what the view with fewer points sees."""
    from scipy.sparse import csr_array

    rows = np.concatenate([np.full(len(view.seen), i) for i, view in enumerate(scene.views)])
    columns = np.concatenate([view.seen for view in scene.views])
    sees = csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(scene.views), len(scene.points)))
    shared = (sees @ sees.T).toarray()
    counts = shared.diagonal()
    return (shared / np.maximum(np.minimum.outer(counts, counts), 1)).astype(np.float32)
