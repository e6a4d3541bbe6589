"""Samples: equal to crops of the whole photograph, consistent with themselves, a function of their key."""
import numpy
import torch
from PIL import Image

from lib.order import Key
from lib.recipes import Manifest
from lib.recipes.hamer import crop, data, formats, sampling
from lib.recipes.hamer.hand import stand_in
from lib.recipes.hamer.losses import matrices
from lib.recipes.hamer.mano import Mano
from tests.hamer.conftest import flat_only, records_of


def test_sample_equals_the_crop_of_the_whole_photograph(manifest, made):
    config, prepared = manifest
    whole = {hand.name: hand for hand in formats.hands(config.data, made, stand_in().hands_mean)}
    sampler, size = sampling.sampler(config, prepared, "train"), config.model.crop_px
    seen_left = False
    for index, record in enumerate(prepared.side("train")):
        key, hand = Key(1, 2, index), whole[record.sample_id]
        picture = numpy.asarray(Image.open(hand.image))
        change = crop.draw(config.data, key.generator())
        place = crop.placement(hand.centre, hand.side_px, hand.right, picture.shape[1], change, size)
        expected = crop.normalise(crop.warp(picture, place, hand.right, size), change.gain)
        sample = sampler.draw(index, key)
        assert numpy.abs(sample["image"] - expected).max() < 0.021  # one grey level, where a position rounds to the other side
        assert numpy.abs(sample["image"] - expected).mean() < 1e-4
        moved = crop.move_labels(hand.labels, place, hand.right, picture.shape[1], change.rotation_deg, size)
        numpy.testing.assert_allclose(sample["keypoints_2d"], moved.keypoints_2d, atol=1e-5)
        numpy.testing.assert_allclose(sample["pose"], moved.hand_pose, atol=1e-6)
        seen_left |= not hand.right
    assert seen_left


def test_labels_of_a_sample_agree_with_each_other(manifest, hand):
    """The mesh of the labelled pose has the labelled keypoints, after mirror, rotation and crop."""
    config, prepared = manifest
    for index in range(6):
        sample = sampling.sampler(config, prepared, "train").draw(index, Key(5, 0, index))
        joints = Mano(hand)(*matrices(torch.from_numpy(sample["pose"])[None]), torch.from_numpy(sample["betas"])[None])[1][0].numpy()
        labelled = sample["keypoints_3d"][:, :3]
        numpy.testing.assert_allclose(joints - joints[0], labelled - labelled[0], atol=2e-6)
        flat = sample["keypoints_2d"][:, :2] - sample["keypoints_2d"][0, :2]
        scale = (flat * (joints - joints[0])[:, :2]).sum() / ((joints - joints[0])[:, :2] ** 2).sum()
        assert numpy.abs(flat - scale * (joints - joints[0])[:, :2]).max() < 0.06  # perspective of a hand 3 m away: a few per cent


def test_same_key_same_sample_other_epoch_other_crop(manifest):
    config, prepared = manifest
    one, again, other = (sampling.sampler(config, prepared, "train").draw(1, Key(1, epoch, 1))["image"] for epoch in (0, 0, 1))
    assert (one == again).all() and (one != other).any()


def test_first_held_out_samples_are_of_different_people(configure, made, tmp_path):
    records = records_of(configure(), made, tmp_path / "prepared")
    assert [record.group for record in sampling.by_turns(records)] == ["subject-00", "subject-01", "subject-02"] * 3
    assert {record.sample_id for record in sampling.by_turns(records[:-2])} == {record.sample_id for record in records[:-2]}


def test_held_out_samples_are_not_augmented(manifest):
    config, prepared = manifest
    one, other = (sampling.sampler(config, prepared, "val").draw(1, Key(1, epoch, 1))["image"] for epoch in (0, 1))
    assert (one == other).all()


def test_hands_with_2d_labels_alone_are_held_out_when_the_settings_say_so(folder, tmp_path):
    config, records = folder(flat_only, data__truth="2d", data__val_groups=["p3"])
    assert data.split(config, records).val_groups == ("p3",)
    for record in records:
        record.split = "val" if record.group == "p3" else "train"
    sampler = sampling.sampler(config, Manifest(records, tmp_path / "prepared"), "val")
    found = sampler.draw(0, None)
    assert sampler.length == 1 and not found["vertices"] and numpy.isfinite(found["mean_2d"]).all()


def test_collate_stacks_arrays_and_lists_texts():
    batch = sampling.collate(
        [{"a": numpy.zeros(2), "prefix": torch.ones(1, 3), "name": "x"}, {"a": numpy.ones(2), "prefix": torch.ones(1, 3), "name": "y"}]
    )
    assert batch["a"].shape == (2, 2) and batch["prefix"].shape == (2, 1, 3) and batch["name"] == ["x", "y"]
