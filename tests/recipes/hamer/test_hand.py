"""The stand-in hand has MANO's format, and is a hand."""

import numpy as np

from lib.recipes.hamer import render
from lib.recipes.hamer.hand import WRIST_IDS
from lib.recipes.hamer.mano_file import PARENTS, SHAPES, TIPS


def edges(faces):
    return np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)


def test_shapes_are_those_of_the_licensed_file(hand):
    for name, shape in SHAPES.items():
        if name != "kintree_table":
            assert getattr(hand, name).shape == shape


def test_mesh_is_one_disk_with_the_wrist_loop_as_border(hand):
    unique, counts = np.unique(edges(hand.f), axis=0, return_counts=True)
    assert counts.max() == 2
    assert set(unique[counts == 1].ravel()) == set(WRIST_IDS)
    assert 778 - len(unique) + len(hand.f) == 1  # Euler characteristic of a disk


def test_closed_mesh_has_1552_faces_that_look_outwards(hand):
    faces = render.closed(hand.f)
    a, b, c = (hand.v_template[faces[:, i]] for i in range(3))
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(faces) == 1552 and len(np.unique(directed, axis=0)) == len(directed)
    assert 1.5e-4 < (np.cross(a, b) * c).sum() / 6 < 4e-4  # m3, positive


def test_fingers_thumb_and_palm_point_as_in_mano(hand):
    joints = hand.J_regressor @ hand.v_template
    thumb, index, middle, ring, pinky = hand.v_template[list(TIPS)]
    assert middle[0] == hand.v_template[:, 0].min() and 0.16 < joints[0, 0] - middle[0] < 0.21
    assert thumb[2] > index[2] > middle[2] > ring[2] > pinky[2]
    assert joints[7, 2] < joints[10, 2]  # MANO stores the pinky (7-9) before the ring finger (10-12)


def test_joints_lie_between_their_parent_and_the_tip(hand):
    joints = hand.J_regressor @ hand.v_template
    for first, tip in zip((13, 1, 4, 10, 7), TIPS, strict=True):
        chain = np.vstack([joints[[0, first, first + 1, first + 2]], hand.v_template[tip]])
        lengths = np.linalg.norm(np.diff(chain, axis=0), axis=1)
        assert (lengths > 0.01).all() and (lengths < 0.11).all()
        assert PARENTS[first] == 0 and PARENTS[first + 2] == first + 1


def test_weights_and_regressor_are_shares(hand):
    for rows in (hand.weights, hand.J_regressor):
        assert rows.min() >= 0
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-12)


def test_tips_follow_their_last_joint_alone(hand):
    for joint, tip in zip((15, 3, 6, 12, 9), TIPS, strict=True):
        assert hand.weights[tip, joint] == 1


def test_shape_parameters_are_independent_and_small(hand):
    modes = hand.shapedirs.reshape(-1, 10)
    assert np.linalg.matrix_rank(modes, tol=1e-4) == 10
    assert np.abs(modes).max() < 0.01  # a shape parameter of 3 moves no vertex by more than 3 cm
