"""Placement, mirror and rotation against formulas; OpenCV's own pixels are in tests/golden."""
import numpy
import torch

from lib.order import Key
from lib.recipes.hamer import crop
from lib.recipes.hamer.config import DataConfig
from lib.recipes.hamer.geometry import rotation_from_axis_angle


def test_centre_of_the_box_is_the_centre_of_the_crop():
    for right in (True, False):
        place = crop.placement([30.5, 20.25], 50.0, right, 100, crop.Change(1.2, 33.0), 256)
        centre = [30.5 if right else 99 - 30.5, 20.25, 1]
        numpy.testing.assert_allclose(place @ centre, [128, 128])


def test_box_side_fills_the_crop():
    place = crop.placement([50, 50], 40.0, True, 100, crop.Change(), 256)
    numpy.testing.assert_allclose(place @ [30, 70, 1], [0, 256])


def test_mirrored_pose_is_the_rotation_in_the_mirror():
    pose = numpy.random.default_rng(0).normal(size=48)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    one = rotation_from_axis_angle(torch.from_numpy(pose.reshape(16, 3)))
    other = rotation_from_axis_angle(torch.from_numpy(crop.mirrored(pose).reshape(16, 3)))
    torch.testing.assert_close(other, mirror @ one @ mirror, atol=1e-6, rtol=0)


def test_mirrored_twice_is_unchanged():
    labels = crop.Labels(numpy.random.default_rng(1).uniform(5, 60, (21, 3)).astype(numpy.float32), has_pose=True)
    image = numpy.random.default_rng(2).integers(0, 255, (64, 80, 3), numpy.uint8)
    right = crop.placement([40, 30], 30.0, True, 80, crop.Change(), 64)
    left = crop.placement([79 - 40, 30], 30.0, False, 80, crop.Change(), 64)
    numpy.testing.assert_array_equal(crop.warp(image, right, True, 64), crop.warp(image[:, ::-1], left, False, 64))
    turned = crop.Labels(labels.keypoints_2d * [-1, 1, 1] + [79, 0, 0])
    one, other = crop.move_labels(labels, right, True, 80, 0.0, 64), crop.move_labels(turned, left, False, 80, 0.0, 64)
    numpy.testing.assert_allclose(one.keypoints_2d, other.keypoints_2d, atol=1e-6)


def test_pixels_outside_the_photograph_are_black():
    image = numpy.full((40, 40, 3), 200, numpy.uint8)
    out = crop.warp(image, crop.placement([0, 20], 20.0, True, 40, crop.Change(), 64), True, 64)
    assert (out[:, :, :28] == 0).all() and (out[:, :, 33:] == 200).all()


def test_augmentation_stays_in_its_limits():
    data = DataConfig()
    drawn = [crop.draw(data, Key(0, 0, i).generator()) for i in range(400)]
    assert all(0.7 <= change.scale <= 1.3 and abs(change.rotation_deg) <= 60 for change in drawn)
    assert all(max(map(abs, change.shift)) <= 0.02 and all(0.8 <= gain <= 1.2 for gain in change.gain) for change in drawn)
    assert 0.5 < numpy.mean([change.rotation_deg != 0 for change in drawn]) < 0.7  # 60 % of the crops turn


def test_every_augmented_crop_fits_into_the_kept_pixels():
    """`data.REACH` box sides around the centre hold all that scale 1.3, a turned square and the shift can need."""
    from lib.recipes.hamer.data import REACH

    data = DataConfig()
    worst = (1 + data.augment_scale) / 2 * 2**0.5 + data.augment_shift * 2**0.5
    assert worst < REACH
