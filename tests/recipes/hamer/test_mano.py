"""Skinning: properties that hold for any hand; its numbers are under test in tests/golden."""

import torch

from lib.recipes.hamer.geometry import rotation_from_axis_angle
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.mano_file import TIPS


def posed(hand, seed: int = 0):
    torch.manual_seed(seed)
    rotations = rotation_from_axis_angle(0.4 * torch.randn(2, 16, 3))
    return Mano(hand), rotations[:, :1], rotations[:, 1:], torch.randn(2, 10)


def test_identity_pose_gives_the_template_and_its_tips(hand):
    layer, identity = Mano(hand), torch.eye(3).expand(1, 16, 3, 3)
    vertices, joints = layer(identity[:, :1], identity[:, 1:], torch.zeros(1, 10))
    torch.testing.assert_close(vertices[0], layer.v_template, atol=1e-6, rtol=0)
    torch.testing.assert_close(joints[0, [4, 8, 12, 16, 20]], layer.v_template[list(TIPS)], atol=1e-6, rtol=0)


def test_turning_the_wrist_turns_the_hand_about_it(hand):
    layer, wrist, fingers, betas = posed(hand)
    turn = rotation_from_axis_angle(torch.tensor([[0.3, -1.0, 0.5]]))
    vertices, joints = layer(wrist, fingers, betas)
    turned, turned_joints = layer(turn @ wrist, fingers, betas)
    root = joints[:, :1]
    torch.testing.assert_close(turned_joints[:, :1], root)
    torch.testing.assert_close(turned, (vertices - root) @ turn.mT + root, atol=1e-6, rtol=0)


def test_bending_a_finger_about_z_moves_it_towards_the_palm(hand):
    pose = torch.zeros(1, 16, 3)
    pose[0, 1, 2] = 0.5  # index, first joint
    rotations = rotation_from_axis_angle(pose)
    vertices, _ = Mano(hand)(rotations[:, :1], rotations[:, 1:], torch.zeros(1, 10))
    moved = vertices[0] - Mano(hand).v_template
    assert moved[TIPS[1], 1] < -0.02 and moved[TIPS[2]].norm() < 1e-6


def test_gradients_are_finite_at_the_zero_pose(hand):
    pose = torch.zeros(1, 16, 3, requires_grad=True)
    rotations = rotation_from_axis_angle(pose)
    Mano(hand)(rotations[:, :1], rotations[:, 1:], torch.zeros(1, 10))[0].square().sum().backward()
    assert pose.grad.isfinite().all()


def test_no_state_dict_holds_the_hand_model(hand):
    assert dict(Mano(hand).state_dict()) == {}
    assert {"v_template", "shapedirs", "posedirs", "J_regressor", "lbs_weights"} <= dict(
        Mano(hand).named_buffers()
    ).keys()
