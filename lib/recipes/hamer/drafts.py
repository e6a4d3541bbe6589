"""What the current model says of hands in boxes: keypoints, pose, shape, and how sure it is of them.

A hand is looked at twice, in crops of two sizes. Where both answers agree, the model is sure: a keypoint's confidence
is 1 / (1 + (d / (UNSURE * size))^2) of the distance d between them and the hand's size, a hand's is the median of its
21. It says how stable an answer is, not how right.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lib.recipes.hamer import crop
from lib.recipes.hamer.config import Config

LARGER = 1.15  # the second crop, relative to the first
UNSURE = 0.1  # of the hand's size: answers so far apart have a confidence of one half
LOST = 0.25  # below this confidence a box is carried on as it was
LEAST_SIDE = 0.5  # of a carried box, relative to the one before: a hand does not shrink faster from frame to frame
MIRROR = np.array([-1.0, 1, 1])


class Wanted(NamedTuple):
    """A hand to draft: picture (h, w, 3) uint8, tight box x0, y0, x1, y1 px, is it a right hand?"""

    picture: np.ndarray
    box: np.ndarray
    right: bool


class Draft(NamedTuple):
    """A model's answer in pixels of the picture and metres from the wrist, of the hand itself and not its mirror."""

    keypoints_2d: np.ndarray  # (21, 3) px, confidence
    keypoints_3d: np.ndarray  # (21, 3) m
    hand_pose: np.ndarray  # (48,) rad
    betas: np.ndarray  # (10,)
    confidence: float


def draft(config: Config, network: Any, wanted: Sequence[Wanted]) -> list[Draft]:
    """A draft for each wanted hand, all of them in one forward of 2 n crops."""
    factors = (config.data.box_factor, LARGER * config.data.box_factor)
    looks = [
        crop.detection(hand.picture, hand.box, hand.right, factor, config.model.crop_px)
        for hand in wanted
        for factor in factors
    ]
    images = torch.from_numpy(np.stack([image for image, _, _ in looks])).to(network.backbone.pos_embed.device)
    with torch.no_grad():
        answer = {name: value.float().cpu().numpy() for name, value in network(images).items()}
    found = []
    for i, hand in enumerate(wanted):
        points = [in_picture(answer["pred_keypoints_2d"][k], hand.right, *looks[k][1:]) for k in (2 * i, 2 * i + 1)]
        found.append(made(answer, 2 * i, hand.right, points[0], agreement(*points)))
    return found


def in_picture(fractions: np.ndarray, right: bool, centre: np.ndarray, side_px: float) -> np.ndarray:
    """Keypoints (21, 2) as fractions of a crop, of a left hand in the mirror -> pixels of the picture."""
    return np.asarray(centre + fractions * side_px * (1 if right else MIRROR[:2]))


def agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Confidence (21,) of keypoints (21, 2) that were found twice."""
    size = max(float((one.max(0) - one.min(0)).max()), 1e-6)
    apart = np.linalg.norm(one - other, axis=1) / (UNSURE * size)
    return np.asarray(1 / (1 + apart**2))


def made(answer: dict[str, np.ndarray], k: int, right: bool, points: np.ndarray, sure: np.ndarray) -> Draft:
    from scipy.spatial.transform import Rotation

    turns = np.concatenate([answer["global_orient"][k].reshape(-1, 3, 3), answer["hand_pose"][k].reshape(-1, 3, 3)])
    pose = Rotation.from_matrix(turns.astype(float)).as_rotvec().ravel()
    joints = answer["pred_keypoints_3d"][k] - answer["pred_keypoints_3d"][k][:1]
    return Draft(
        np.hstack([points, sure[:, None]]),
        joints if right else joints * MIRROR,
        pose if right else crop.mirrored(pose),
        answer["betas"][k],
        float(np.median(sure)),
    )


def carried(box: np.ndarray, found: Draft, width: int, height: int) -> np.ndarray:
    """The box of the next frame from the keypoints of this one; as it was where the model is not sure of them."""
    if found.confidence < LOST:
        return box
    points = found.keypoints_2d[:, :2]
    centre, half = (points.max(0) + points.min(0)) / 2, (points.max(0) - points.min(0)) / 2
    half = np.maximum(half, LEAST_SIDE * (box[2:] - box[:2]) / 2)
    following = np.concatenate([centre - half, centre + half])
    limits = np.array([width, height, width, height]) - 1.0
    inside = following.clip(0, limits)
    return inside if (inside[2:] - inside[:2] >= 2).all() else box
