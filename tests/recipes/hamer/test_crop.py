"""Placement, mirror and rotation against formulas; OpenCV's own pixels are in tests/golden."""

import numpy as np
import torch

from lib.recipes.hamer import crop
from lib.recipes.hamer.geometry import rotation_from_axis_angle


def test_centre_of_the_box_is_the_centre_of_the_crop():
    for right in (True, False):
        place = crop.placement([30.5, 20.25], 50.0, right, 100, crop.Change(1.2, 33.0), 256)
        centre = [30.5 if right else 99 - 30.5, 20.25, 1]
        np.testing.assert_allclose(place @ centre, [128, 128])


def test_box_side_fills_the_crop():
    place = crop.placement([50, 50], 40.0, True, 100, crop.Change(), 256)
    np.testing.assert_allclose(place @ [30, 70, 1], [0, 256])


def test_mirrored_pose_is_the_rotation_in_the_mirror():
    pose = np.random.default_rng(0).normal(size=48)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    one = rotation_from_axis_angle(torch.from_numpy(pose.reshape(16, 3)))
    other = rotation_from_axis_angle(torch.from_numpy(crop.mirrored(pose).reshape(16, 3)))
    torch.testing.assert_close(other, mirror @ one @ mirror, atol=1e-6, rtol=0)


def test_mirrored_twice_is_unchanged():
    labels = crop.Labels(np.random.default_rng(1).uniform(5, 60, (21, 3)).astype(np.float32), has_pose=True)
    image = np.random.default_rng(2).integers(0, 255, (64, 80, 3), np.uint8)
    right = crop.placement([40, 30], 30.0, True, 80, crop.Change(), 64)
    left = crop.placement([79 - 40, 30], 30.0, False, 80, crop.Change(), 64)
    np.testing.assert_array_equal(crop.warp(image, right, True, 64), crop.warp(image[:, ::-1], left, False, 64))
    turned = crop.Labels(labels.keypoints_2d * [-1, 1, 1] + [79, 0, 0])
    one, other = crop.move_labels(labels, right, True, 80, 0.0, 64), crop.move_labels(turned, left, False, 80, 0.0, 64)
    np.testing.assert_allclose(one.keypoints_2d, other.keypoints_2d, atol=1e-6)


def test_pixels_outside_the_photograph_are_black():
    image = np.full((40, 40, 3), 200, np.uint8)
    out = crop.warp(image, crop.placement([0, 20], 20.0, True, 40, crop.Change(), 64), True, 64)
    assert (out[:, :, :28] == 0).all() and (out[:, :, 33:] == 200).all()
