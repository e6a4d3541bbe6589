"""What is refused, dropped or noted of a labelled hand before it is prepared."""

import dataclasses

import numpy as np

from lib.recipes.hamer.config import Config
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano_file import ManoModel

BONES = [(0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21)]  # OpenPose order
BONE_M = (0.01, 0.10)


def unusable(hand: Hand, width_px: int, height_px: int) -> str:
    """Why a hand in an image of this size cannot be used at all: nothing to see, or labels in other units; or ""."""
    labels = hand.labels
    arrays = [hand.centre, labels.keypoints_2d, labels.keypoints_3d, labels.hand_pose, labels.betas]
    if not all(np.isfinite(array).all() for array in arrays) or not np.isfinite(hand.side_px):
        return "a label is not finite"
    if hand.side_px < 1:
        return "the box has no area"
    low, high = hand.centre - hand.side_px / 2, hand.centre + hand.side_px / 2
    if (high <= 0).any() or (low >= [width_px, height_px]).any():
        return f"the box lies outside the image of {width_px} x {height_px} px"
    points = labels.keypoints_2d[labels.keypoints_2d[:, 2] > 0, :2]
    outside = ~((points >= low) & (points <= high)).all(1)
    expected = "pixels of the whole image are expected"
    if len(points) and outside.mean() > 0.5:
        return f"{outside.sum()} of {len(points)} 2D keypoints lie outside the crop: {expected}"
    if len(points) > 1 and (points.max(0) - points.min(0)).max() < 0.05 * hand.side_px:
        return f"the 2D keypoints lie within 5 % of the crop of {hand.side_px:.0f} px: {expected}"
    bones = bone_lengths(labels)
    if len(bones) and not BONE_M[0] <= np.median(bones) <= BONE_M[1]:
        return f"the median bone is {np.median(bones):.3g} long: 3D keypoints are expected in metres"
    return ""


def bone_lengths(labels: Labels) -> np.ndarray:
    """Of the bones whose two joints are annotated, (n,) m."""
    pairs = [(a, b) for a, b in BONES if labels.keypoints_3d[a, 3] > 0 and labels.keypoints_3d[b, 3] > 0]
    return np.array([np.linalg.norm(labels.keypoints_3d[a, :3] - labels.keypoints_3d[b, :3]) for a, b in pairs])


def doubt(config: Config, mano: ManoModel) -> tuple[bool, str]:
    """Pose and shape are parameters of one hand model: do those of the data fit this one, and what is to be noted?"""
    if (config.data.format == "made") != mano.stand_in:
        return False, "pose and shape are parameters of another hand model and are not used"
    if config.data.format == "freihand" and not mano.of_freihand:
        return True, "FreiHAND's labels were made with another version of MANO: meshes differ by up to 6 mm"
    return True, ""


def checked(hand: Hand, trusted: bool, note: str = "") -> tuple[Labels, list[str]]:
    """The labels without what cannot be right, and a note on each. `trusted` and `note` are what `doubt` says."""
    labels, notes = dataclasses.replace(hand.labels), []
    if note and (labels.has_pose or labels.has_betas):
        notes.append(note)
        labels.has_pose, labels.has_betas = labels.has_pose and trusted, labels.has_betas and trusted
    if labels.has_betas and np.abs(labels.betas).max() > 3:
        labels.has_pose = labels.has_betas = False
        notes.append("a shape parameter is beyond 3")
    if labels.has_pose and np.linalg.norm(labels.hand_pose.reshape(16, 3)[1:], axis=1).max() > np.pi + 1e-3:
        labels.has_pose = labels.has_betas = False
        notes.append("a joint is turned by more than pi: radians are expected")
    if looks_like_the_other_hand(hand):
        notes.append(f"the 3D keypoints look like a {'left' if hand.right else 'right'} hand")
    return labels, notes


def looks_like_the_other_hand(hand: Hand) -> bool:
    """Fingers bend towards the palm.

    Only a clear case counts: tips at least 2 cm on the wrong side of the palm's plane.
    """
    joints = hand.labels.keypoints_3d
    if not (joints[[0, 5, 17, 4, 8, 12, 16, 20], 3] > 0).all():
        return False
    palm = np.cross(joints[5, :3] - joints[0, :3], joints[17, :3] - joints[0, :3])  # out of the palm of a right hand
    palm = palm / max(float(np.linalg.norm(palm)), 1e-12) * (1 if hand.right else -1)
    return float(((joints[[4, 8, 12, 16, 20], :3] - joints[0, :3]) @ palm).mean()) < -0.02
