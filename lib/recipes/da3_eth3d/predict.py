"""The adapted network on a folder of photos, or on a COLMAP scene whose cameras it is told.

What it writes: lib/scenes/predict.py. Of a scene with known cameras, these are the ones that are written, in their own
world, and depth has their unit; `scale.json` says by how much the network's own unit was larger.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.core.records import Parts, Stage
from lib.core.run import write_json
from lib.recipes.da3_eth3d import assemble, costs
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.evaluate import code_of_rays
from lib.recipes.da3_eth3d.known_cameras import refuse_some, similarity
from lib.scenes import colmap, geometry
from lib.scenes import predict as scenes
from lib.scenes.crop import Crop, crop, kept_share, read_image, resample

MOST_VIEWS = 18  # the published training had 2 to 18, and memory stays flat beyond them
Known = tuple[Tensor, Tensor]  # cameras from world (s, 3, 4) and intrinsics (s, 3, 3) in px


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """inputs: a folder of photos, or of a COLMAP scene (`images/`, `sparse/`), whose cameras are known then.

    Stop: nothing in it can be used, cameras are known for some of the photos only, or their unit cannot be told.
    """
    folder = Path(inputs)
    is_scene = (folder / "images").is_dir()
    photos, known = scene(config, folder) if is_scene else (scenes.photographs(config, folder), None)
    found = run(config, parts, photos.images, known)
    if known:
        found = in_given_world(found, known, out)
    scenes.write(out, photos, found)


def scene(config: Config, folder: Path) -> tuple[scenes.Photos, Known]:
    """The pictures and cameras of a COLMAP scene, cut as step 3 cuts them."""
    read = colmap.read(folder)
    listed = {view.image.name for view in read.views}
    there = [path for path in sorted((folder / "images").rglob("*")) if path.suffix.lower() in scenes.PHOTOS]
    refuse_some(sum(path.name in listed for path in there), len(there))
    views = [view for view in read.views if view.image.is_file()]
    if not views:
        raise Stop(f"{folder} has no photograph that its COLMAP model lists", "give a folder of photos to --predict")
    cuts = [crop(view.camera, config.model.image_width_px, config.model.image_height_px) for view in views]
    say_what_is_cut(views, cuts)
    pixels = [
        resample(read_image(view.image, view.camera, cut), view.camera, cut)
        for view, cut in zip(views, cuts, strict=True)
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    poses, intrinsics = np.stack([view.cam_from_world for view in views]), np.stack([cut.intrinsics for cut in cuts])
    photos = scenes.Photos([view.name for view in views], images, [])
    return photos, (torch.tensor(poses).float(), torch.tensor(intrinsics).float())


def say_what_is_cut(views: list[colmap.View], cuts: list[Crop]) -> None:
    """Each camera has a crop of its own: photos of another shape than the network's lose more."""
    for view, cut in zip(views, cuts, strict=True):
        if (kept := kept_share(view.camera, cut)) < scenes.KEPT:
            said = (
                f"{kept:.0%} of it is seen, the rest is cut off: it has {view.camera.width} x {view.camera.height} px"
            )
            print(f"  {view.image.name}: {said}, the network sees {cut.width} x {cut.height}", flush=True)


def run(config: Config, parts: Parts, images: Tensor, known: Known | None) -> dict[str, Tensor]:
    """As `lib.scenes.predict.run`, at most MOST_VIEWS at once."""
    network, by_rays = parts.modules[costs.MODULE], config.eval.cameras == "rays"

    def forward(views: Tensor, chunk: list[int]) -> dict[str, Tensor]:
        views = views.to(network.device)
        told = None
        if known:
            cameras = {"extrinsics": known[0][chunk][None], "intrinsics": known[1][chunk][None]}
            told = assemble.known({name: value.to(network.device) for name, value in cameras.items()})
        found = network(views, known=told, rays=by_rays)
        return found | {"pose_enc": code_of_rays(found)} if by_rays else found

    return scenes.run(forward, images, MOST_VIEWS)


def in_given_world(found: dict[str, Tensor], known: Known, out: Path) -> dict[str, Tensor]:
    """Depth in the unit of the given cameras, and these cameras instead of the predicted ones.

    Stop: the given cameras are one, or lie in one place.
    """
    height_px, width_px = found["depth"].shape[1:3]
    predicted, _ = geometry.decode_cameras(found["pose_enc"], height_px, width_px)
    scale = float(similarity(known[0], predicted).scale)
    write_json(out / "scale.json", {"network_units_per_given_unit": scale})
    code = geometry.encode_cameras(*known, height_px, width_px)
    return found | {"depth": found["depth"] / scale, "pose_enc": code}
