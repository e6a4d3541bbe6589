"""What is dropped or noted of a hand's labels."""

import dataclasses

import numpy as np

from lib.recipes.hamer import checks, crop, labelled, stand_in
from lib.recipes.hamer.hand import stand_in_hand


def hand_of(pose=None, betas=None, right=True, joints=None):
    labels = crop.Labels(
        hand_pose=pose if pose is not None else np.zeros(48),
        betas=betas if betas is not None else np.zeros(10),
        has_pose=True,
        has_betas=True,
    )
    if joints is not None:
        labels.keypoints_3d = np.hstack([joints, np.ones((21, 1))])
    return labelled.Hand("a", "g", b"", "a", right, np.zeros(2), 10.0, labels, labels)


def test_impossible_pose_or_shape_is_dropped_with_a_note():
    degrees = np.zeros(48)
    degrees[5] = 40.0
    for hand, note in ((hand_of(pose=degrees), "radians"), (hand_of(betas=np.full(10, 3.1)), "beyond 3")):
        labels, notes = checks.checked(hand, trusted=True)
        assert not labels.has_pose and not labels.has_betas and note in notes[0]
    wrist = np.zeros(48)
    wrist[0] = 4.0  # a wrist may turn by more than pi: matrices are compared
    assert checks.checked(hand_of(pose=wrist), trusted=True)[0].has_pose


def test_parameters_of_another_hand_model_are_not_used(configure):
    labels, notes = checks.checked(hand_of(), *checks.doubt(configure(data__format="hamer_npz"), stand_in_hand()))
    assert not labels.has_pose and not labels.has_betas and "another hand model" in notes[0]
    assert checks.doubt(configure(), stand_in_hand()) == (True, "")


def test_freihand_labels_of_another_mano_version_are_used_with_a_note(configure):
    mano = dataclasses.replace(stand_in_hand(), name="MANO", of_freihand=False)
    labels, notes = checks.checked(
        hand_of(), *checks.doubt(configure(data__format="freihand", model__mano="licensed"), mano)
    )
    assert labels.has_pose and labels.has_betas and "another version of MANO" in notes[0]


def test_left_hand_called_right_is_noticed():
    generator = np.random.default_rng(0)
    studio, noticed = stand_in.Studio(), []
    for _ in range(20):
        pose = np.concatenate([stand_in.orientation(generator), stand_in.fingers(generator)])
        pose[5::3] = np.abs(pose[5::3]).clip(0.5) + 0.3  # clearly bent fingers
        joints = studio.pose(pose, np.zeros(10))[2]
        assert checks.facing(hand_of(joints=joints, right=True)) >= 0
        noticed.append(checks.facing(hand_of(joints=joints * [-1, 1, 1], right=True)))
        assert checks.facing(hand_of(joints=joints * [-1, 1, 1], right=False)) >= 0
    assert noticed == [-1] * 20
