"""Samples: equal to crops of the whole photograph, consistent with themselves, a function of their key."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.errors import Stop
from lib.core.order import Key
from lib.core.records import Manifest
from lib.core.run import Damaged
from lib.recipes.hamer import crop, data, formats, samples
from lib.recipes.hamer.data_config import REACH, DataConfig
from lib.recipes.hamer.geometry import hand_rotations
from lib.recipes.hamer.hand import stand_in_hand
from lib.recipes.hamer.mano import Mano
from tests.recipes.hamer.conftest import STAGE, flat_only, records_of


def test_sample_equals_the_crop_of_the_whole_photograph(manifest, made):
    config, prepared = manifest
    whole = {hand.name: hand for hand in formats.hands(config.data, made, stand_in_hand())}
    sampler, size = samples.sampler(config, STAGE, prepared, "train"), config.model.crop_px
    seen_left = False
    for index, record in enumerate(prepared.side("train")):
        key, hand = Key(1, 2, index), whole[record.sample_id]
        picture = np.asarray(Image.open(hand.image))
        change = samples.random_change(config.data, key.generator())
        place = crop.placement(hand.centre, hand.side_px, hand.right, picture.shape[1], change, size)
        expected = crop.normalise(crop.warp(picture, place, hand.right, size), change.gain)
        sample = sampler.draw(index, key)
        # one grey level, where a position rounds to the other side
        assert np.abs(sample["image"] - expected).max() < 0.021
        assert np.abs(sample["image"] - expected).mean() < 1e-4
        moved = crop.move_labels(hand.labels, place, hand.right, picture.shape[1], change.rotation_deg, size)
        np.testing.assert_allclose(sample["keypoints_2d"], moved.keypoints_2d, atol=1e-5)
        np.testing.assert_allclose(sample["pose"], moved.hand_pose, atol=1e-6)
        seen_left |= not hand.right
    assert seen_left


def test_labels_of_a_sample_agree_with_each_other(manifest, hand):
    """The mesh of the labelled pose has the labelled keypoints, after mirror, rotation and crop."""
    config, prepared = manifest
    for index in range(6):
        sample = samples.sampler(config, STAGE, prepared, "train").draw(index, Key(5, 0, index))
        pose, betas = (torch.from_numpy(sample[name])[None] for name in ("pose", "betas"))
        joints = Mano(hand)(*hand_rotations(pose), betas)[1][0].numpy()
        labelled = sample["keypoints_3d"][:, :3]
        np.testing.assert_allclose(joints - joints[0], labelled - labelled[0], atol=2e-6)
        flat = sample["keypoints_2d"][:, :2] - sample["keypoints_2d"][0, :2]
        scale = (flat * (joints - joints[0])[:, :2]).sum() / ((joints - joints[0])[:, :2] ** 2).sum()
        # perspective of a hand 3 m away: a few per cent
        assert np.abs(flat - scale * (joints - joints[0])[:, :2]).max() < 0.06


def test_same_key_same_sample_other_epoch_other_crop(manifest):
    config, prepared = manifest
    one, again, other = (
        samples.sampler(config, STAGE, prepared, "train").draw(1, Key(1, epoch, 1))["image"] for epoch in (0, 0, 1)
    )
    assert (one == again).all() and (one != other).any()


def test_first_held_out_samples_are_of_different_people(configure, made, tmp_path):
    records = records_of(configure(), made, tmp_path / "prepared")
    assert [record.group for record in samples.by_turns(records)] == ["subject-00", "subject-01", "subject-02"] * 3
    assert {record.sample_id for record in samples.by_turns(records[:-2])} == {
        record.sample_id for record in records[:-2]
    }


def test_held_out_samples_are_not_augmented(manifest):
    config, prepared = manifest
    sampler = samples.sampler(config, STAGE, prepared, "test")
    one, other = (sampler.draw(1, Key(1, epoch, 1))["image"] for epoch in (0, 1))
    assert (one == other).all()


def test_hands_with_2d_labels_alone_are_held_out_when_the_settings_say_so(folder, tmp_path):
    config, records = folder(flat_only, data__truth="2d", data__val_groups=["p3"])
    assert data.split(config, records, tmp_path).val_groups == ("p3",)
    for record in records:
        record.split = "test" if record.group == "p3" else "train"
    sampler = samples.sampler(config, STAGE, Manifest(records, tmp_path / "prepared"), "test")
    found = sampler.draw(0, None)
    assert sampler.length == 1 and not found["vertices"] and np.isfinite(found["mean_2d"]).all()


def test_augmentation_stays_in_its_limits():
    settings = DataConfig()
    drawn = [samples.random_change(settings, Key(0, 0, i).generator()) for i in range(400)]
    assert all(0.7 <= change.scale <= 1.3 and abs(change.rotation_deg) <= 60 for change in drawn)
    assert all(max(map(abs, change.shift)) <= 0.02 for change in drawn)
    assert all(0.8 <= gain <= 1.2 for change in drawn for gain in change.gain)
    assert 0.5 < np.mean([change.rotation_deg != 0 for change in drawn]) < 0.7  # 60 % of the crops turn


def test_every_augmented_crop_fits_into_the_kept_pixels():
    """`REACH` box sides around the centre hold all that scale 1.3, a turned square and the shift can need."""
    settings = DataConfig()
    worst = (1 + settings.augment_scale) / 2 * 2**0.5 + settings.augment_shift * 2**0.5
    assert worst < REACH


def test_collate_stacks_arrays_and_lists_texts(configure):
    one = {"a": np.zeros(2), "frozen_features": torch.ones(1, 3), "name": "x"}
    other = {"a": np.ones(2), "frozen_features": torch.ones(1, 3), "name": "y"}
    batch = samples.collate(configure(), STAGE, [one, other])
    assert batch["a"].shape == (2, 2) and batch["frozen_features"].shape == (2, 1, 3) and batch["name"] == ["x", "y"]


def test_each_side_draws_from_its_own_groups(manifest):
    config, prepared = manifest
    for record in prepared.records:
        record.split = {"subject-00": "train", "subject-01": "select", "subject-02": "test"}[record.group]
    for side, group in (("train", "subject-00"), ("select", "subject-01"), ("test", "subject-02")):
        sampler = samples.sampler(config, STAGE, prepared, side)
        assert {sampler.draw(i, Key(0, 0, i))["group"] for i in range(sampler.length)} == {group}


def test_select_is_limited_and_a_side_without_hands_is_named(manifest):
    config, prepared = manifest
    config.eval.select_samples = 2
    for record in prepared.records[:3]:
        record.split = "select"
    assert samples.sampler(config, STAGE, prepared, "select").length == 2
    for record in prepared.records[:3]:
        record.columns["3d"] = 0
    with pytest.raises(Stop, match="no hand of the select side has keypoints in 3d"):
        samples.sampler(config, STAGE, prepared, "select")
    for record in prepared.records:
        record.split = "test"
    with pytest.raises(Stop, match="the training side has no usable hand"):
        samples.sampler(config, STAGE, prepared, "train")


def test_only_hands_with_pose_and_shape_are_real_ones_and_have_a_mesh(manifest):
    config, prepared = manifest
    config.loss.adversarial = 0.1
    assert samples.sampler(config, STAGE, prepared, "test").draw(0, None)["vertices"] == 1
    for record in prepared.records:
        record.columns["mesh"] = 0
    assert samples.sampler(config, STAGE, prepared, "test").draw(0, None)["vertices"] == 0
    assert "real_pose" not in samples.sampler(config, STAGE, prepared, "train").draw(0, Key(0, 0, 0))


def test_a_shard_that_is_another_than_step_3_wrote_is_refused(manifest, changed_since):
    config, prepared = manifest
    changed_since(prepared.arrays, "*.safetensors")
    with pytest.raises(Damaged, match="does not hold what was written"):
        samples.sampler(config, STAGE, prepared, "test").draw(0, None)
