"""Regions of the photographs that weigh differently (windows, say): a mask for each, `<folder>/<scene>/<view>.png`.

What is not black is the region. A mask has its photograph's size and is cropped and straightened like it. <view> is the
photograph's file name without its suffix; "/" of subfolders becomes "-".
"""

from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.core.records import Record
from lib.scenes import depth
from lib.scenes.colmap import Scene, View
from lib.scenes.crop import Crop


def name(scene: Scene, view: View) -> str:
    """Of a mask without its suffix, below the folder of masks; views of two models of a scene have one photograph."""
    return f"{scene.folder.name}/{view.name}"


def find(masks: Path | None, scene: Scene, view: View) -> Path | None:
    """The mask of a view, None where it has none."""
    path = masks and masks / f"{name(scene, view)}.png"
    return path if path and path.exists() else None


def read(path: Path | None, camera: Any, crop: Crop) -> np.ndarray:
    """(h, w) bool: the region as the crop sees it; empty without a mask. Stop: a mask is broken or of another size."""
    if path is None:
        return np.zeros((crop.height, crop.width), bool)
    values = depth.decode(path, palette=True)  # all 16 bits of a grey one count
    channels = values.reshape(*values.shape[:2], -1)
    colours = channels[..., : {2: 1, 4: 3}.get(channels.shape[-1])]  # without alpha
    return depth.resample_mask(colours.max(-1) > 0, path, camera, crop)


def report(masks: Path, records: list[Record], masks_of: dict[str, str]) -> None:
    """Says which photographs have no mask and which masks no photograph; Stop when nothing fits together.

    masks_of: sample id -> `name` of its mask, of all views.
    """
    usable = [record for record in records if record.status == "ok"]
    without = [record.sample_id for record in usable if record.columns["region"] == "none"]
    named = {path.relative_to(masks).with_suffix("").as_posix() for path in masks.glob("*/*.png")}
    strange = sorted(named - set(masks_of.values()))
    if usable and len(without) == len(usable):
        instead = f", but {strange[0]}.png" if strange else ""
        cause = f"no mask in {masks} belongs to a photograph: there is no {masks_of[without[0]]}.png{instead}"
        raise Stop(cause, "name the masks <scene>/<photograph>.png, or leave data.region_masks out")
    if without:
        counts = f"{len(without)} of {len(usable)} photographs have no region mask"
        print(f"  {counts}, and count as outside: {', '.join(without[:5])}", flush=True)
    if strange:
        print(f"  {len(strange)} region masks belong to no photograph: {', '.join(strange[:5])}", flush=True)
