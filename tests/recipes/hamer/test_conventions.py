"""Conversions against formulas: joint orders, axes, poses, confidences, missing points, boxes."""

import dataclasses

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.recipes.hamer import conventions
from lib.recipes.hamer.conventions import BadLabel, Conventions
from lib.recipes.hamer.crop import Labels, mirrored
from lib.recipes.hamer.mano import OPENPOSE_FROM_MANO

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
OURS = ["wrist", *(f"{finger}{bone}" for finger in FINGERS for bone in range(1, 5))]
FILES = {  # the joints as files name them
    "openpose": OURS,
    "mano": [
        "wrist", *(f"{finger}{bone}" for finger in ("index", "middle", "pinky", "ring", "thumb") for bone in (1, 2, 3)),
        *(f"{finger}4" for finger in FINGERS),
    ],
    "interhand": [*(f"{finger}{bone}" for finger in FINGERS for bone in (4, 3, 2, 1)), "wrist"],
    "rhd": ["wrist", *(f"{finger}{bone}" for finger in FINGERS for bone in (4, 3, 2, 1))],
    "fphab": ["wrist", *(f"{finger}1" for finger in FINGERS), *(f"{f}{b}" for f in FINGERS for b in (2, 3, 4))],
}  # fmt: skip


@pytest.mark.parametrize("name", conventions.ORDER)
def test_joint_orders_are_those_of_the_data_sets(name):
    assert [FILES[name][place] for place in conventions.order_of(name)] == OURS


def test_manos_order_is_the_one_that_the_layer_uses():
    assert conventions.ORDER["mano"] == OPENPOSE_FROM_MANO


@pytest.fixture
def mano(hand):
    components = np.linalg.qr(np.random.default_rng(0).normal(size=(45, 45)))[0]
    return dataclasses.replace(hand, hands_components=components)


def converted(mano, right=True, pose=None, betas=None, joints=None, **said):
    given = Labels()
    if pose is not None:
        given.hand_pose, given.has_pose = np.asarray(pose, np.float32), True
    if betas is not None:
        given.betas, given.has_betas = np.asarray(betas, np.float32), True
    if joints is not None:
        given.keypoints_3d = np.asarray(joints, np.float32)
    return conventions.ours(given, Conventions(**said), mano, right)


def test_opengl_axes_turn_points_and_the_wrist_about_x(mano):
    joints = np.arange(84.0).reshape(21, 4)
    found = converted(mano, pose=[0.3, -0.2, 0.5, *[0.1] * 45], joints=joints, axes="opengl")
    np.testing.assert_allclose(found.keypoints_3d, joints * [1, -1, -1, 1])
    from scipy.spatial.transform import Rotation

    expected = np.diag([1, -1, -1]) @ Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    np.testing.assert_allclose(Rotation.from_rotvec(found.hand_pose[:3]).as_matrix(), expected, atol=1e-6)
    np.testing.assert_allclose(found.hand_pose[3:], 0.1)


@pytest.mark.parametrize("right", [True, False])
def test_poses_without_the_mean_and_in_components(mano, right):
    numbers = np.random.default_rng(1).normal(0, 0.3, 45)
    side = (lambda pose: pose) if right else mirrored
    wrist = [0.1, 0.2, 0.3]
    expected = {
        "axis_angle": numbers,
        "without_mean": numbers + side(mano.hands_mean),
        "pca": side(mano.hands_components.T @ numbers + mano.hands_mean),
        "pca_without_mean": side(mano.hands_components.T @ numbers),
    }
    for form, fingers in expected.items():
        found = converted(mano, right, pose=[*wrist, *numbers], pose_format=form).hand_pose
        np.testing.assert_allclose(found, [*wrist, *fingers], atol=1e-6)
    few = converted(mano, right, pose=[*wrist, *numbers[:6]], pose_format="pca").hand_pose
    np.testing.assert_allclose(few[3:], side(mano.hands_components[:6].T @ numbers[:6] + mano.hands_mean), atol=1e-6)
    with pytest.raises(BadLabel, match=r"hand_pose holds 9 numbers instead of 48.*pca"):
        converted(mano, right, pose=[*wrist, *numbers[:6]])


def test_betas_of_left_hands(mano):
    betas = np.arange(10.0)
    for right, said, expected in (
        (False, "negated", -betas), (True, "negated", betas), (False, "mirrored", betas), (False, "unused", None),
    ):  # fmt: skip
        found = converted(mano, right, betas=betas, left_betas=said)
        assert found.has_betas == (expected is not None)
        if expected is not None:
            np.testing.assert_array_equal(found.betas, expected)


def test_own_joint_order_is_the_place_of_each_of_our_joints(mano):
    joints = np.arange(84.0).reshape(21, 4)
    order = [20, *range(20)]
    found = converted(mano, joints=joints, joint_order_3d=",".join(map(str, order)))
    np.testing.assert_array_equal(found.keypoints_3d, joints[order])


@pytest.mark.parametrize(("values", "asked", "top"), [
    ([0, 1, 0.3], "auto", 1), ([0, 1, 1.05], "auto", 1), ([0, 0, -1], "auto", 1), ([], "auto", 1),
    ([0, 1, 2], "auto", 2), ([0, 2, -1], "auto", 2), ([3, 97.5], "auto", 100), ([0, 100], "auto", 100),
    ([0, 255], "auto", 255), ([0, 1, 1], "visibility", 2), ([0.5, 7], "percent", 100), ([4], "byte", 255),
])  # fmt: skip
def test_known_confidences_are_told_apart(values, asked, top):
    assert conventions.certain(np.array(values, float), asked, "keypoints_2d") == top


@pytest.mark.parametrize(("values", "asked"), [
    ([0, 1, 3], "auto"), ([1.5], "auto"), ([120], "auto"), ([1000], "auto"), ([2], "unit"), ([101], "percent"),
])  # fmt: skip
def test_unknown_confidences_are_refused_with_the_setting(values, asked):
    with pytest.raises(Stop, match=f"the confidences of keypoints_2d go up to {max(values):g}") as stopped:
        conventions.certain(np.array(values, float), asked, "keypoints_2d")
    assert "data.confidence=unit|visibility|percent|byte" in stopped.value.command


def test_weights_lie_between_0_and_1_and_a_point_without_weight_has_no_place():
    points = np.array([[5.0, 6, 2], [5, 6, 1], [-1, -1, -1], [np.nan, 3, 0], [7, 8, 2.1]])
    found = conventions.weighted(points, 2)
    np.testing.assert_allclose(found, [[5, 6, 1], [5, 6, 0.5], [0, 0, 0], [0, 0, 0], [7, 8, 1]])
    assert np.isnan(conventions.weighted(np.array([[1.0, 2, np.nan]]), 1)).any()  # for the checks to refuse


def test_zeros_and_minus_ones_are_no_points_but_a_root_is_one():
    flat = np.array([[4.0, 5], [0, 0], [-1, -1], [0, 3]])
    np.testing.assert_array_equal(conventions.confident(flat)[:, 2], [1, 0, 0, 1])
    hand = np.full((21, 3), 0.1)
    hand[[9, 12]] = 0  # relative to joint 9; joint 12 is not known
    assert np.flatnonzero(conventions.confident(hand)[:, 3] == 0).tolist() == [12]
    assert np.flatnonzero(conventions.confident(hand + [0, 0, 0.6] * (hand != 0))[:, 3] == 0).tolist() == [9, 12]


def test_boxes_become_corners():
    for form, box in (("corners", [10, 20, 40, 60]), ("xywh", [10, 20, 30, 40]), ("centre", [25, 40, 30, 40])):
        np.testing.assert_array_equal(conventions.corners(np.array(box, float), form), [10, 20, 40, 60])


def test_another_box_is_likelier_only_where_it_lies_clearly_better_over_the_points():
    points = np.ones((21, 3))
    points[:, :2] = np.random.default_rng(0).uniform([110, 120], [140, 160], (21, 2))
    inner = np.array([108.0, 118, 142, 162])
    xywh = np.array([108.0, 118, 34, 44])
    assert conventions.likelier_box(inner, points, "corners") == ""
    assert conventions.likelier_box(np.array([0.0, 0, 500, 500]), points, "corners") == ""  # a person's box
    assert conventions.likelier_box(xywh, points, "corners") == "xywh"
    assert conventions.likelier_box(inner, points, "xywh") == "corners"
    nothing = np.zeros((21, 3))
    assert conventions.likelier_box(xywh, nothing, "corners") == "xywh"
    assert conventions.likelier_box(inner, nothing, "corners") == ""
