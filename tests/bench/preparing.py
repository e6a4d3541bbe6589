"""Step 3 on one core: 24-megapixel photos and depth maps, hands cut out, simulated spectrograms; seconds of one."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lib.recipes.hamer import crop as hands
from lib.recipes.vavae_microdoppler.stand_in import Walks, images
from lib.scenes import crop, depth, depth_files, lens
from tests.bench import turns, vggt

NETWORK_PX = (518, 392)
LENS = [3400, 3400, 3000, 2000, 0.2, 0.12, -3e-4, 2e-4, -0.05, 0.02, 2e-4, -1e-4]  # near those of ETH3D


def measure(turns_each: int) -> dict[str, Any]:
    """Of one photo, depth map, hand or spectrogram; beside them how many a second that is."""
    with tempfile.TemporaryDirectory() as name:
        work = photo_and_depth(Path(name)) | {"spectrogram": spectrograms(), "hand": hand()}
        found = turns.in_turns(work, turns_each)
    one = {"spectrogram": Walks().windows}
    rates = {f"{name} / s": round(one.get(name, 1) / found[name]["cpu"], 2) for name in found}
    return {"seconds": found, "rates": rates, "spectrograms in one call": Walks().windows}


def photo_and_depth(folder: Path) -> dict[str, Any]:
    width, height = vggt.PHOTO_PX
    photo = folder / "photo.jpg"
    vggt.photograph(np.random.default_rng(0)).save(photo, quality=92)
    camera = lens.camera("PINHOLE", width, height, [3400, 3400, width / 2, height / 2])
    frame = crop.crop(camera, *NETWORK_PX)
    scanned(width, height).tofile(folder / "depth.JPG")
    depth_map = depth_files.DepthMap(folder / "depth.JPG", lens.camera("THIN_PRISM_FISHEYE", width, height, LENS))
    return {
        "photo": lambda: crop.resample(crop.read_image(photo, camera, frame), camera, frame),
        "depth map": lambda: depth.from_map(depth_map, frame),
    }


def scanned(width: int, height: int) -> np.ndarray:
    """(h, w) float32 m, inf without a measurement: as a laser leaves it, one pixel for each of its points, from 1 % of
    the pixels at one side to 40 % at the other, and next to none in the sky.
    """
    generator, share = np.random.default_rng(0), np.linspace(0.01, 0.4, width)
    known = generator.random((height, width)) < np.where(np.arange(height)[:, None] < height / 4, 1e-5, share)
    return np.where(known, np.linspace(3, 30, width), np.inf).astype("<f4")


def spectrograms() -> Any:
    number = itertools.count()
    return lambda: images(Walks(), 0, next(number))


def hand() -> Any:
    """What a training step does for each hand: a crop of 256 px out of a stored picture of 512 px, turned."""
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    place = hands.placement(np.array([256.0, 256.0]), 380.0, True, 512, hands.Change(rotation_deg=20.0), 256)
    return lambda: hands.normalise(hands.warp(picture, place, True, 256))
