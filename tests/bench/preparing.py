"""Step 3 on one core: 24-megapixel photos and depth maps, hands cut out, simulated spectrograms; seconds of one."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lib.recipes.hamer import crop as hands
from lib.recipes.vavae_microdoppler.stand_in import Walks, images
from lib.scenes import crop, depth, depth_files
from tests.bench import turns, vggt

NETWORK_PX = (518, 392)


def measure(turns_each: int) -> dict[str, Any]:
    """Of one photo, depth map, hand or spectrogram; beside them how many a second that is."""
    with tempfile.TemporaryDirectory() as name:
        work = photo_and_depth(Path(name)) | {"spectrogram": spectrograms(), "hand": hand()}
        found = turns.in_turns(work, turns_each)
    one = {"spectrogram": Walks().windows}
    rates = {f"{name} / s": round(one.get(name, 1) / found[name]["cpu"], 2) for name in found}
    return {"seconds": found, "rates": rates, "spectrograms in one call": Walks().windows}


def photo_and_depth(folder: Path) -> dict[str, Any]:
    import pycolmap

    width, height = vggt.PHOTO_PX
    photo = folder / "photo.jpg"
    vggt.photograph(np.random.default_rng(0)).save(photo, quality=92)
    camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[5000, 5000, width / 2, height / 2])
    frame = crop.crop(camera, *NETWORK_PX)
    np.full((height, width), 2, "<f4").tofile(folder / "depth.JPG")
    depth_map = depth_files.DepthMap(folder / "depth.JPG", camera)
    return {
        "photo": lambda: crop.resample(crop.read_image(photo, camera, frame), camera, frame),
        "depth map": lambda: depth.from_map(depth_map, frame),
    }


def spectrograms() -> Any:
    number = itertools.count()
    return lambda: images(Walks(), 0, next(number))


def hand() -> Any:
    """What a training step does for each hand: a crop of 256 px out of a stored picture of 512 px, turned."""
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    place = hands.placement(np.array([256.0, 256.0]), 380.0, True, 512, hands.Change(rotation_deg=20.0), 256)
    return lambda: hands.normalise(hands.warp(picture, place, True, 256))
