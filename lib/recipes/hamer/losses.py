"""HaMeR's losses (paper §4; weights of its release): sums over joints and coordinates of one sample, then the mean over
samples.

The original sums over the batch as well, so its gradient clip and its adversarial weight depend on the batch size; here
nothing does.
"""

import torch
from torch import Tensor

from lib.recipes.hamer.config import LossConfig

ROOT = 0  # the wrist


def terms(prediction: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each loss of each sample, (b,). `prediction` as HaMeR.decode gives it; labels:

    keypoints_2d (b, 21, 3) crop fractions and confidence; keypoints_3d (b, 21, 4) m and confidence; global_orient (b,
    1, 3, 3), hand_pose (b, 15, 3, 3), betas (b, 10); has_pose, has_betas (b,) weights, 0 where there is no such label.
    """
    has_pose, has_betas = labels["has_pose"], labels["has_betas"]
    return {
        "keypoints_3d": keypoints(rooted(prediction["pred_keypoints_3d"]), rooted(labels["keypoints_3d"])),
        "keypoints_2d": keypoints(prediction["pred_keypoints_2d"], labels["keypoints_2d"]),
        "global_orient": has_pose * squared(prediction["global_orient"], labels["global_orient"]),
        "hand_pose": has_pose * squared(prediction["hand_pose"], labels["hand_pose"]),
        "betas": has_betas * squared(prediction["betas"], labels["betas"]),
    }


def rooted(joints: Tensor) -> Tensor:
    """Coordinates (b, n, 3 or 4) relative to the wrist; a fourth column (confidence) stays."""
    return torch.cat([joints[..., :3] - joints[:, ROOT : ROOT + 1, :3], joints[..., 3:]], -1)


def keypoints(predicted: Tensor, labelled: Tensor) -> Tensor:
    """L1, weighted with the confidence in the last column: (b, n, d), (b, n, d + 1) -> (b,)."""
    return ((predicted - labelled[..., :-1]).abs() * labelled[..., -1:]).sum((1, 2))


def squared(predicted: Tensor, labelled: Tensor) -> Tensor:
    """The sum of squared differences of each sample: (b, …), (b, …) -> (b,)."""
    return (predicted - labelled).square().flatten(1).sum(1)


def total(parts: dict[str, Tensor], weights: LossConfig) -> Tensor:
    """The weighted sum of `terms` (and of "adversarial", where there is a critic): (b,)."""
    weighted = [vars(weights)[name] * value for name, value in parts.items()]
    return sum(weighted[1:], start=weighted[0])


def generator_loss(scores: Tensor) -> Tensor:
    """What the critic's scores (b, 17) of predicted hands cost the generator, (b,)."""
    return (scores - 1).square().sum(1)


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """The critic's own loss per predicted hand, a scalar: fake (b, 17), real (n, 17).

    HaMeR has n = 2 b, so real hands count twice there.
    """
    return (fake.square().sum() + (real - 1).square().sum()) / len(fake)
