"""Samples of the loop: what a mirror image is, and what of a sample depends on its key."""

import numpy as np
import pytest
import torch

from lib.core.order import Key
from lib.core.records import Stage
from lib.core.run import Damaged
from lib.recipes.llava_map import geometry, samples
from lib.recipes.llava_map.tables import CAMERAS

STAGE2 = Stage("stage2", 1)


def drawn(manifest, config, side: str, wanted_flip: bool) -> dict:
    """A sample with the wanted mirror state: keys are tried until one has it."""
    sampler = samples.sampler(config, STAGE2, manifest, side)
    return next(s for s in (sampler.draw(0, Key(1, 0, i)) for i in range(50)) if s["flip"] == wanted_flip)


def pixels_of(sample: dict, config, view: int) -> list[np.ndarray]:
    found = []
    for line in sample["lines"]:
        cam = geometry.transform(
            geometry.inverse(sample["bev_from_cam"][view].astype(np.float64)), geometry.on_ground(line)
        )
        pixels, _, seen = geometry.project(cam, sample["intrinsics"][view], config.data.width_px, config.data.height_px)
        found.append(pixels[seen])
    return found


def test_mirrored_sample_shows_the_mirrored_world_in_the_exchanged_camera(manifest, config):
    plain, mirrored = (drawn(manifest, config, "train", flip) for flip in (False, True))
    right, left = CAMERAS.index("CAM_FRONT_RIGHT"), CAMERAS.index("CAM_FRONT_LEFT")
    for one, other in zip(pixels_of(plain, config, right), pixels_of(mirrored, config, left), strict=True):
        assert np.allclose(other, np.stack([config.data.width_px - one[:, 0], one[:, 1]], axis=1), atol=1e-2)
    assert np.array_equal(samples.pictures_of(mirrored)[left], samples.pictures_of(plain)[right][..., ::-1])


def test_mirroring_twice_gives_the_cameras_back(manifest, config):
    plain = drawn(manifest, config, "train", False)
    once = samples.mirrored_cameras(plain["intrinsics"], plain["bev_from_cam"], config.data.width_px)
    twice = samples.mirrored_cameras(*once, config.data.width_px)
    assert np.allclose(twice[0], plain["intrinsics"]) and np.allclose(twice[1], plain["bev_from_cam"])


def test_held_out_samples_are_never_augmented(manifest, config):
    config.data.colour_jitter = 0.5
    for side in ("test", "select"):
        sampler = samples.sampler(config, STAGE2, manifest, side)
        assert all(not s["flip"] and s["colour"] is None for s in (sampler.draw(0, Key(1, 0, i)) for i in range(20)))


def test_each_side_draws_its_own_frames(manifest, config):
    """Few frames choose, spread over their side; a test frame never does."""
    for count, most in ((2, 16), (1, 1)):
        config.eval.select_samples = most
        for side in ("train", "select", "test"):
            sampler = samples.sampler(config, STAGE2, manifest, side)
            drawn_ids = {sampler.draw(i, Key(0, 0, i))["sample_id"] for i in range(sampler.length)}
            wanted = {record.sample_id for record in manifest.side(side)}
            assert drawn_ids <= wanted
            assert len(drawn_ids) == (min(count, len(wanted)) if side == "select" else len(wanted)) > 0


def test_colour_depends_on_the_key_alone(manifest, config):
    config.data.colour_jitter = 0.5
    sampler = samples.sampler(config, STAGE2, manifest, "train")
    first, again, other = (samples.pictures_of(sampler.draw(0, Key(1, epoch, 0))) for epoch in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_cached_tokens_take_the_place_of_pictures(manifest, config):
    sampler = samples.sampler(config, STAGE2, manifest, "test")
    drawn_samples = [
        sampler.draw(i, Key(0, 0, i)) | {"frozen_features": torch.full((1, 6, 5, 8), float(i))} for i in range(2)
    ]
    batch = samples.collate(config, STAGE2, drawn_samples)
    assert batch["frozen_features"].shape == (2, 6, 5, 8) and "pictures" not in batch
    assert samples.collate(config, STAGE2, [sampler.draw(0, Key(0, 0, 0))])["pictures"].dtype == torch.uint8


@pytest.mark.parametrize("pattern", ["*.npz", "*.jpg"])
def test_a_frame_or_picture_that_is_another_than_step_3_wrote_is_refused(manifest, config, changed_since, pattern):
    changed_since(manifest.arrays, pattern)
    with pytest.raises(Damaged, match="does not hold what was written"):
        samples.pictures_of(samples.sampler(config, STAGE2, manifest, "test").draw(0, Key(0, 0, 0)))
