"""What is refused, dropped or noted of a labelled hand before it is prepared."""

import dataclasses

import numpy as np

from lib.recipes.hamer.agreement import BONES, MOST_FIT, MOST_POSE_M
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.conventions import FRACTION_PX
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.diagnosis import Verdict
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano_file import ManoModel

BONE_M = (0.01, 0.10)
LARGEST_BOX = 20  # sides of the picture
FARTHEST = 3  # sides of the picture, within which what is cut off may lie; 9999 stands for a joint that is not known
DRAFT = "a draft that nobody accepted: its labels are not used"
BENT_M = 0.02  # finger tips so far from the palm's plane say which hand it is


def unusable(hand: Hand, width_px: int, height_px: int) -> str:
    """Why a hand in an image of this size cannot be used at all: nothing to see, or labels in other units; or ""."""
    labels = hand.labels
    arrays = [hand.centre, labels.keypoints_2d, labels.keypoints_3d, labels.hand_pose, labels.betas]
    if not all(np.isfinite(array).all() for array in arrays) or not np.isfinite(hand.side_px):
        return "a label is not finite"
    points = labels.keypoints_2d[labels.keypoints_2d[:, 2] > 0, :2]
    expected = "pixels of the whole image are expected"
    if len(points) > 1 and np.abs(points).max() < FRACTION_PX:
        return f"the 2D keypoints are shares of the image: {expected}"
    if (np.abs(points) > FARTHEST * np.array([width_px, height_px])).any():
        return f"a 2D keypoint lies over {FARTHEST} sides of the image away: {expected}, and 0, 0 where it is not known"
    if hand.side_px < 1:
        return "the box has no area"
    if hand.side_px > LARGEST_BOX * max(width_px, height_px):
        return f"the box of {hand.side_px:.3g} px is far larger than the image of {width_px} x {height_px} px"
    low, high = hand.centre - hand.side_px / 2, hand.centre + hand.side_px / 2
    if (high <= 0).any() or (low >= [width_px, height_px]).any():
        return f"the box lies outside the image of {width_px} x {height_px} px"
    outside = ~((points >= low) & (points <= high)).all(1)
    if len(points) and outside.mean() > 0.5:
        return f"most 2D keypoints lie outside the crop: {expected}"
    if len(points) > 1 and (points.max(0) - points.min(0)).max() < 0.05 * hand.side_px:
        return f"the 2D keypoints lie within 5 % of the crop: {expected}"
    bones = bone_lengths(labels)
    if len(bones) and not BONE_M[0] <= np.median(bones) <= BONE_M[1]:
        low_cm, high_cm = (100 * limit for limit in BONE_M)
        return f"the bones are not {low_cm:g} to {high_cm:g} cm long: 3D keypoints are expected in metres"
    return ""


def reach(hand: Hand, width_px: int, height_px: int, box_factor: float) -> dict[str, float | str]:
    """How far to the right and down a hand lies, as shares of its picture; of a box without keypoints its corner."""
    points = hand.labels.keypoints_2d[hand.labels.keypoints_2d[:, 2] > 0, :2]
    far = points.max(0) if len(points) else hand.centre + hand.side_px / (2 * box_factor)
    shares = {"reach_x": float(far[0]) / width_px, "reach_y": float(far[1]) / height_px}
    return {name: round(share, 4) if np.isfinite(share) else "" for name, share in shares.items()}


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


def contradictory(verdict: Verdict) -> str:
    """Why a hand's labels cannot all be right, or "". The manifest has the number."""
    if not verdict.fit > MOST_FIT:
        return ""
    return f"the 3D keypoints do not fit onto the 2D keypoints: over {MOST_FIT} of the hand's size beside them"


def checked(hand: Hand, trusted: bool, note: str = "", verdict: Verdict | None = None) -> tuple[Labels, list[str]]:
    """The labels without what cannot be right, and a note on each. `trusted` and `note` are what `doubt` says."""
    labels, notes = dataclasses.replace(hand.labels), [DRAFT] if hand.draft else []
    if note and (labels.has_pose or labels.has_betas):
        notes.append(note)
        labels.has_pose, labels.has_betas = labels.has_pose and trusted, labels.has_betas and trusted
    if labels.has_betas and np.abs(labels.betas).max() > 3:
        labels.has_pose = labels.has_betas = False
        notes.append("a shape parameter is beyond 3")
    if labels.has_pose and np.linalg.norm(labels.hand_pose.reshape(16, 3)[1:], axis=1).max() > np.pi + 1e-3:
        labels.has_pose = labels.has_betas = False
        notes.append("a joint is turned by more than pi: radians are expected")
    if labels.has_pose and verdict and verdict.pose_m > MOST_POSE_M:
        labels.has_pose = labels.has_betas = False
        notes.append(
            f"pose and shape are not used: their joints lie over {1000 * MOST_POSE_M:g} mm beside the 3D keypoints"
        )
    if facing(hand) < 0:
        notes.append(f"the 3D keypoints look like a {'left' if hand.right else 'right'} hand")
    return labels, notes


def facing(hand: Hand) -> int:
    """1: the fingers bend towards the palm of the hand that is named; -1: of the other hand; 0: not clear."""
    joints = hand.labels.keypoints_3d
    if not (joints[[0, 5, 17, 4, 8, 12, 16, 20], 3] > 0).all():
        return 0
    palm = np.cross(joints[5, :3] - joints[0, :3], joints[17, :3] - joints[0, :3])  # out of the palm of a right hand
    palm = palm / max(float(np.linalg.norm(palm)), 1e-12) * (1 if hand.right else -1)
    bent_m = float(((joints[[4, 8, 12, 16, 20], :3] - joints[0, :3]) @ palm).mean())
    return int(np.sign(bent_m)) if abs(bent_m) > BENT_M else 0
