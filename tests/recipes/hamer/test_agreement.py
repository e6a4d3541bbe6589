"""Fit of 3D onto 2D, anatomy, joints of a pose: exact where they must be, and on real hands within what is stated."""

import json

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from lib.recipes.hamer import agreement, checks, conventions, diagnosis, looks
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano import Mano
from tests.recipes.hamer import real_hands


def labels_of(entry):
    flat, joints = (conventions.confident(np.array(entry[name])) for name in ("keypoints_2d", "keypoints_3d"))
    pose, betas = (np.array(entry[name], np.float32) for name in ("hand_pose", "betas"))
    return Labels(flat, joints, pose, betas, True, True)


def test_weak_perspective_is_fitted_by_the_formula():
    """Scale 300 and shift (40, 9); one point is 20 px off, of a hand that is 100 px long."""
    joints = np.zeros((21, 4))
    joints[:, :2], joints[:, 3] = np.random.default_rng(0).uniform(-0.1, 0.1, (21, 2)), 1
    flat = np.ones((21, 3))
    flat[:, :2] = 300 * joints[:, :2] + [40, 9]
    assert agreement.fit(flat, joints) < 1e-12
    size = np.ptp(flat[:, :2], 0).max()
    flat[4, :2] += [20, 0]
    centred, solid = flat[:, :2] - flat[:, :2].mean(0), joints[:, :2] - joints[:, :2].mean(0)
    scale = (centred * solid).sum() / (solid**2).sum()
    expected = np.linalg.norm(centred - scale * solid, axis=1).mean() / max(size, np.ptp(flat[:, :2], 0).max())
    assert agreement.fit(flat, joints) == pytest.approx(expected)
    flat[4] = 0  # not known: it counts for nothing
    assert agreement.fit(flat, joints) < 1e-12
    assert np.isnan(agreement.fit(flat * (np.arange(21) < 7)[:, None], joints))  # too few


def test_close_hand_is_fitted_in_perspective(posed):
    """At 20 cm, where the weak perspective alone is off by up to 4 % of the hand."""
    weak = []
    for entry in posed:
        joints = np.array(entry["keypoints_3d"]) - [0, 0, 0.5]
        flat = conventions.confident(joints[:, :2] / joints[:, 2:] * 400 + 80)
        assert agreement.fit(flat, conventions.confident(joints)) < 1e-6
        weak.append(agreement.distance(joints[:, :2], flat[:, :2], np.ones(21, bool)) / np.ptp(flat[:, :2], 0).max())
    assert max(weak) > 0.03


def test_joints_of_pose_and_shape_are_the_labelled_ones_on_both_sides(posed, hand):
    found = [labels_of(entry) for entry in posed]
    sides = [entry["hand"] == "right" for entry in posed]
    assert max(agreement.pose_errors(Mano(hand), found, sides)) < 2e-5
    found[1].keypoints_3d[:, 3] = 0
    assert np.isnan(agreement.pose_errors(Mano(hand), found, sides)[1])


def test_the_mesh_of_pose_and_shape_lies_over_the_hand(posed, hand):
    """On the right of a look; it covers the keypoints that its joints are, of right and left hands alike."""
    for entry in posed[:4]:
        labels = labels_of(entry)
        one = Hand("h", "g", b"", "h", entry["hand"] == "right", labels=labels)
        row = {"pixels": np.zeros((160, 160, 3), np.uint8), "centre": np.full(2, 80.0), "side_px": 90.0} | {
            name: getattr(labels, name) for name in ("keypoints_2d", "keypoints_3d")}  # fmt: skip
        [surface] = looks.meshes([0], [one], hand).values()
        both = np.asarray(looks.look(row, surface), int)
        scale = both.shape[0] // 160
        mesh = both[:, both.shape[1] // 2 :].max(2) > 0
        column, line = (scale * labels.keypoints_2d[:, :2].round().astype(int)).T
        assert both.shape[1] == 2 * both.shape[0] and 0.02 < mesh.mean() < 0.5
        assert distance_transform_edt(~mesh)[line, column].max() < 4 * scale  # of 160 px; finger tips lie on its edge
        assert np.asarray(looks.look(row)).shape[1] == both.shape[0]


def test_anatomy_knows_openpose_order_from_every_other(posed):
    for entry in posed:
        joints = np.array(entry["keypoints_3d"])
        shortest = agreement.shortest_bones(joints)
        assert agreement.anatomy(joints, shortest) <= 1
        others = np.array([order for order in agreement.ALL_ORDERS if tuple(order) != tuple(range(21))])
        assert (agreement.anatomy(joints[others], shortest) > 1).mean() > 0.99


@pytest.mark.skipif(not real_hands.REAL.exists(), reason="real hands are not part of the repository")
def test_stated_limits_hold_on_real_hands():
    content = json.loads((real_hands.REAL / "sign_digits" / "labels.json").read_text())
    flat = np.stack([conventions.confident(np.array(item["keypoints2d"])) for item in content["items"]])
    solid = np.stack([conventions.confident(np.array(item["world3d_m"])) for item in content["items"]])
    right, mano = agreement.fit(flat, solid), agreement.fit(flat, solid[:, np.argsort(conventions.order_of("mano"))])
    opengl = agreement.fit(flat, solid * [1, -1, -1, 1])
    assert right.max() < 0.116 < agreement.MOST_FIT < 0.19 < min(mano.min(), opengl.min())
    verdicts = [diagnosis.measured(Labels(points, joints)) for points, joints in zip(flat, solid, strict=True)]
    assert np.mean([verdict.anatomy > 1 for verdict in verdicts]) < 0.02
    facing = [
        checks.facing(hand_of(item, points, joints))
        for item, points, joints in zip(content["items"], flat, solid, strict=True)
    ]
    assert -1 not in facing and facing.count(1) > 300


def hand_of(item, flat, solid):
    labels = Labels(flat, solid)
    return Hand("a", "g", b"", "a", item["hand"] == "right", given=labels, labels=labels)
