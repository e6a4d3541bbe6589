"""The adapted network on a folder of photos, or on a COLMAP scene whose cameras it is told.

What it writes: lib/scenes/predict.py. Of a scene with known cameras, these are the ones that are written, in their own
world, and depth has their unit.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.core.records import Parts, Stage
from lib.data import pictures
from lib.recipes.da3_eth3d import assemble, costs
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.evaluate import code_of_rays
from lib.recipes.da3_eth3d.known_cameras import refuse_some
from lib.scenes import chunks, colmap
from lib.scenes import predict as scenes
from lib.scenes import scale as scales
from lib.scenes.crop import KEPT, Crop, kept_share, read_image, resample, seen
from lib.scenes.data import frame_of
from lib.scenes.photos import Photo, Window, photographs

MOST_VIEWS = 18  # the published training had 2 to 18, and memory stays flat beyond them


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """inputs: a folder of photos, or of a COLMAP scene (`images/`, `sparse/`), whose cameras are known then.

    Stop: nothing in it can be used, cameras are known for some of the photos only, or their unit cannot be told.
    """
    predict_scaled(config, stage, parts, inputs, out, [])


def predict_scaled(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path, scale: Sequence[str]) -> None:
    """As `predict`, in the unit that `scale` says (lib/scenes/scale.py). Stop: it cannot be, or does not agree."""
    folder = Path(inputs)
    is_scene = (folder / "images").is_dir()
    if is_scene and scale:
        raise Stop(
            f"--scale says the unit of a prediction, and the cameras of {folder} say it already",
            f"leave --scale out, or predict {folder / 'images'} without its cameras",
        )
    photos = scene(config, folder) if is_scene else photographs(config, folder, out)
    scenes.predict(photos, forward(config, parts), MOST_VIEWS, out, scales.read(list(scale), photos))


def scene(config: Config, folder: Path) -> list[Photo]:
    """The pictures and cameras of a COLMAP scene, cut as step 3 cuts them."""
    read = colmap.read(folder)
    listed = {view.image.resolve() for view in read.views}
    there = [path for path in sorted((folder / "images").rglob("*")) if path.suffix.lower() in pictures.PHOTOS]
    refuse_some(sum(path.resolve() in listed for path in there), len(there))
    views = [view for view in read.views if view.image.is_file()]
    if not views:
        raise Stop(f"{folder} has no photograph that its COLMAP model lists", "give a folder of photos to --predict")
    cuts = [frame_of(config, read, view) for view in views]
    say_what_is_cut(views, cuts)
    return [photo(view, cut) for view, cut in zip(views, cuts, strict=True)]


def photo(view: colmap.View, cut: Crop) -> Photo:
    camera = (view.cam_from_world, cut.intrinsics)
    window, shown = Window(0, 0, cut.width, cut.height), partial(seen, view.camera, cut)
    return Photo(view.name, partial(pixels, view, cut), window, shown=shown, camera=camera)


def pixels(view: colmap.View, cut: Crop) -> np.ndarray:
    """(h, w, 3) uint8. Stop: the photograph cannot be used; with known cameras none is left out."""
    return resample(read_image(view.image, view.camera, cut), view.camera, cut)


def say_what_is_cut(views: list[colmap.View], cuts: list[Crop]) -> None:
    """Each camera has a crop of its own: photos of another shape than the network's lose more."""
    for view, cut in zip(views, cuts, strict=True):
        if (kept := kept_share(view.camera, cut)) < KEPT:
            said = (
                f"{kept:.0%} of it is seen, the rest is cut off: it has {view.camera.width} x {view.camera.height} px"
            )
            print(f"  {view.image.name}: {said}, the network sees {cut.width} x {cut.height}", flush=True)


def forward(config: Config, parts: Parts) -> chunks.Forward:
    network, by_rays = parts.modules[costs.MODULE], config.eval.cameras == "rays"

    def of_views(views: Tensor, photos: list[Photo]) -> dict[str, Tensor]:
        found = network(views.to(network.device), known=told(photos, network.device), rays=by_rays)
        return found | {"pose_enc": code_of_rays(found)} if by_rays else found

    return of_views


def told(photos: list[Photo], device: Any) -> tuple[Tensor, Tensor] | None:
    """The known cameras of photos as the camera encoder wants them, None where they are not known."""
    cameras = [photo.camera for photo in photos if photo.camera]
    if not cameras:
        return None
    extrinsics, intrinsics = (torch.from_numpy(np.stack(part))[None].float() for part in zip(*cameras, strict=True))
    return assemble.known({"extrinsics": extrinsics.to(device), "intrinsics": intrinsics.to(device)})
