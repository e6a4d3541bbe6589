"""Sums over one sample, means over samples; the original's numbers are in tests/golden."""

import pytest
import torch

from lib.recipes.hamer import losses
from lib.recipes.hamer.config import LossConfig


def made(batch: int = 3, seed: int = 0):
    torch.manual_seed(seed)
    predicted = {
        "pred_keypoints_3d": torch.randn(batch, 21, 3),
        "pred_keypoints_2d": torch.randn(batch, 21, 2),
        "betas": torch.randn(batch, 10),
        "global_orient": torch.randn(batch, 1, 3, 3),
        "hand_pose": torch.randn(batch, 15, 3, 3),
    }
    labels = {
        "keypoints_3d": torch.rand(batch, 21, 4),
        "keypoints_2d": torch.rand(batch, 21, 3),
        "betas": torch.randn(batch, 10),
        "global_orient": torch.randn(batch, 1, 3, 3),
        "hand_pose": torch.randn(batch, 15, 3, 3),
        "has_pose": torch.ones(batch),
        "has_betas": torch.ones(batch),
    }
    return predicted, labels


def test_keypoint_loss_is_the_sum_of_weighted_distances():
    predicted, labels = made(1)
    by_hand = 0.0
    for joint in range(21):
        for axis in range(3):
            one = predicted["pred_keypoints_3d"][0, joint, axis] - predicted["pred_keypoints_3d"][0, 0, axis]
            other = labels["keypoints_3d"][0, joint, axis] - labels["keypoints_3d"][0, 0, axis]
            by_hand += (one - other).abs() * labels["keypoints_3d"][0, joint, 3]
    torch.testing.assert_close(losses.terms(predicted, labels)["keypoints_3d"][0], by_hand)


def test_total_does_not_depend_on_the_batch():
    predicted, labels = made(4)
    whole = losses.total(losses.terms(predicted, labels), LossConfig())
    for i in range(4):
        one = losses.terms(
            {k: v[i : i + 1] for k, v in predicted.items()}, {k: v[i : i + 1] for k, v in labels.items()}
        )
        torch.testing.assert_close(losses.total(one, LossConfig())[0], whole[i])


def test_unannotated_hands_cost_nothing():
    predicted, labels = made(2)
    labels |= {"has_pose": torch.tensor([0.0, 1]), "has_betas": torch.tensor([0.0, 1])}
    labels["keypoints_2d"][0, :, 2] = labels["keypoints_3d"][0, :, 3] = 0
    parts = losses.terms(predicted, labels)
    assert all(value[0] == 0 and value[1] > 0 for value in parts.values())


def test_critic_counts_real_hands_twice_when_there_are_twice_as_many():
    fake, real = torch.full((2, 17), 0.5), torch.zeros(4, 17)
    assert losses.discriminator_loss(fake, real).item() == pytest.approx((2 * 17 * 0.25 + 4 * 17) / 2)
    assert losses.generator_loss(fake).tolist() == [17 * 0.25] * 2
