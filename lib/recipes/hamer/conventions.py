"""What labels of hands can mean, and how each meaning becomes ours.

Ours: joints in OpenPose's order, camera axes x right, y down, z forward, metres, pixels of the upright picture, poses
as axis-angle relative to the flat hand, boxes as corners, confidences from 0 to 1. What the data says is in the
settings data.joint_order_2d, joint_order_3d, axes, pose_format, left_betas, box_format and confidence.
"""

from dataclasses import dataclass

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer.crop import Labels, mirrored
from lib.recipes.hamer.data_config import CONFIDENCES, DataConfig
from lib.recipes.hamer.mano_file import ManoModel

# The place in the file of each of OpenPose's joints: wrist; thumb, index, middle, ring, pinky from base to tip.
ORDER = {
    "openpose": tuple(range(21)),  # also FreiHAND, COCO-WholeBody, MediaPipe, DexYCB
    # MANO's 16 joints (index, middle, pinky, ring, thumb), then the tips from thumb to pinky: smplx, HO3D
    "mano": (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20),
    "interhand": (20, *(4 * finger + 3 - bone for finger in range(5) for bone in range(4))),  # tips first, wrist last
    "rhd": (0, *(4 * finger + 4 - bone for finger in range(5) for bone in range(4))),  # wrist, then tips first
    # wrist, the five knuckles, then the rest finger by finger
    "fphab": (0, *(3 * finger + 5 + bone if bone else finger + 1 for finger in range(5) for bone in range(4))),
}
POSE = 48  # numbers of a pose: axis-angle of the wrist and of 15 joints
SURE = {"percent": 50, "byte": 200}  # a detector's confidences reach the upper part of their scale somewhere
UNIT_SLACK = 1.1  # peaks of heat maps, which some detectors give as confidences, exceed 1 a little
EXCHANGED = "y, x"  # what 2D keypoints are that agree with the other labels once x and y change places
FRACTION_PX = 1.5  # no hand lies so near to a picture's corner: such numbers are shares of the picture
ROOT_REACH_M = 0.3  # a hand that lies within this of the origin is given relative to a joint


class BadLabel(Exception):
    """A label of one hand that cannot be read. Its text is the reason for the manifest."""


@dataclass(frozen=True)
class Conventions:
    """What the labels of a data set mean; fields and values are those of the settings data.*."""

    joint_order_2d: str = "openpose"
    joint_order_3d: str = "openpose"
    axes: str = "opencv"
    pose_format: str = "axis_angle"
    left_betas: str = "mirrored"

    def settings_beside(self, other: "Conventions") -> list[str]:
        """What differs from other conventions, as key=value words."""
        return [f"data.{name}={value}" for name, value in vars(self).items() if value != vars(other)[name]]


# Formats whose labels mean one thing. Fields: order in 2D, in 3D, axes, poses, betas of left hands.
FIXED = {
    "freihand": Conventions(pose_format="without_mean"),
    "coco_wholebody": Conventions(),
    "ho3d": Conventions("mano", "mano", "opengl", "axis_angle"),
    "dexycb": Conventions(pose_format="pca", left_betas="unused"),
    "interhand": Conventions("interhand", "interhand", "opencv", "without_mean"),
}


def conventions_of(data: DataConfig) -> Conventions:
    if data.format in FIXED:
        return FIXED[data.format]
    return Conventions(data.joint_order_2d, data.joint_order_3d, data.axes, data.pose_format, data.left_betas)


def order_of(name: str) -> np.ndarray:
    """(21,) the place in the file of each of our joints, for a name of ORDER or 21 numbers with commas."""
    return np.array(ORDER[name] if name in ORDER else [int(place) for place in name.split(",")])


def ours(given: Labels, said: Conventions, mano: ManoModel, right: bool) -> Labels:
    """Labels as a file has them -> in our conventions. BadLabel: a pose of another length."""
    joints, betas = given.keypoints_3d[order_of(said.joint_order_3d)], given.betas
    pose = full_pose(given.hand_pose, said.pose_format, mano, right) if given.has_pose else np.zeros(POSE)
    if said.axes == "opengl":
        joints[:, 1:3] *= -1
        pose = np.concatenate([about_x(pose[:3]), pose[3:]]) if given.has_pose else pose
    has_betas = given.has_betas and (right or said.left_betas != "unused")
    if not right and said.left_betas == "negated":
        betas = -betas
    points = given.keypoints_2d[order_of(said.joint_order_2d)]
    return Labels(points, joints, pose.astype(np.float32), betas, given.has_pose, has_betas)


def full_pose(pose: np.ndarray, form: str, mano: ManoModel, right: bool) -> np.ndarray:
    """Wrist and fingers (3 + n,) -> axis-angle (48,) rad relative to the flat hand; a left hand's of a left hand.

    Mean pose and components are the right hand's; of a left one they are its mirror image.
    """
    fingers, few = pose[3:], 4 <= len(pose) < POSE
    if form.startswith("pca") and (few or len(pose) == POSE):
        fingers = own_side(fingers @ mano.hands_components[: len(fingers)], right)
    elif len(pose) != POSE:
        hint = ": components of MANO's poses, data.pose_format=pca?" if few else ""
        raise BadLabel(f"hand_pose holds {len(pose)} numbers instead of {POSE}{hint}")
    if form in ("without_mean", "pca"):
        fingers = fingers + own_side(mano.hands_mean, right)
    return np.concatenate([pose[:3], fingers])


def own_side(fingers: np.ndarray, right: bool) -> np.ndarray:
    """Axis-angle (45,) of the right hand's model -> of a hand of this side."""
    return fingers if right else mirrored(fingers)


def about_x(wrist: np.ndarray) -> np.ndarray:
    """Axis-angle (3,) in OpenGL's axes (y up, z backward) -> in ours."""
    from scipy.spatial.transform import Rotation

    return (Rotation.from_rotvec([np.pi, 0, 0]) * Rotation.from_rotvec(wrist)).as_rotvec()


# ---------------------------------------------------------------------------------------------- confidences


def certain(values: np.ndarray, asked: str, where: str) -> float:
    """The value that means certain among the confidences of a data set.

    asked: data.confidence. where: which numbers, for messages. Stop: no known scale, or values beyond the asked one.
    """
    known = values[np.isfinite(values) & (values > 0)]
    top = float(known.max()) if known.size else 0.0
    scale = asked if asked != "auto" else scale_of(known, top)
    if not scale or top > CONFIDENCES[scale] * (UNIT_SLACK if scale == "unit" else 1):
        scales = (
            f"{asked} ends at {CONFIDENCES[asked]:g}"
            if scale
            else "known are 0 to 1, COCO's 0, 1, 2, per cent, 0 to 255"
        )
        cause = f"the confidences of {where} go up to {top:g}: {scales}"
        raise Stop(cause, f"correct them, or say what they are: data.confidence={'|'.join(CONFIDENCES)}")
    return CONFIDENCES[scale]


def scale_of(known: np.ndarray, top: float) -> str:
    """The scale on which positive confidences lie, or "" where none is certain."""
    if top <= UNIT_SLACK:
        return "unit"
    if np.isin(known, (1, 2)).all():
        return "visibility"
    return next((scale for scale, low in SURE.items() if low <= top <= CONFIDENCES[scale]), "")


def weighted(points: np.ndarray, top: float) -> np.ndarray:
    """Points (21, d + 1) with confidences from 0 to 1; one that is not above 0 is 0, and such a point has no place."""
    confidence = (points[:, -1:].clip(0) / top).clip(max=1)
    places = np.where(confidence == 0, 0, points[:, :-1])
    return np.hstack([places, confidence]).astype(np.float32)


def confident(points: np.ndarray) -> np.ndarray:
    """Coordinates (21, d) without confidences -> (21, d + 1) float32: 1, and 0 where a point is not there.

    Zeros or -1 in all coordinates say so. In 3D zeros are a place as well: the root of a hand that is relative to it.
    """
    zero, absent = (points == 0).all(1), (points == -1).all(1)
    reach = np.linalg.norm(points[~absent], axis=1).max(initial=0)
    if points.shape[1] == 3 and zero.any() and reach < ROOT_REACH_M:
        zero[np.flatnonzero(zero)[0]] = False
    there = ~(zero | absent)
    return np.hstack([np.where(there[:, None], points, 0), there[:, None]]).astype(np.float32)


# ---------------------------------------------------------------------------------------------- boxes


def corners(box: np.ndarray, form: str) -> np.ndarray:
    """A box (4,) as data.box_format says -> x0, y0, x1, y1."""
    low = box[:2] - box[2:] / 2 if form == "centre" else box[:2]
    return box if form == "corners" else np.concatenate([low, low + box[2:]])


def exchanged(box: np.ndarray, points: np.ndarray) -> bool:
    """Does a box x0, y0, x1, y1 lie clearly better over keypoints (21, 3) that are y, x?"""
    seen = points[points[:, 2] > 0, :2]
    if not len(seen) or not (np.isfinite(box).all() and np.isfinite(seen).all()):
        return False
    hand = np.concatenate([seen.min(0), seen.max(0)])
    return overlap(box, hand[[1, 0, 3, 2]]) > max(0.5, 1.5 * overlap(box, hand))


def likelier_box(box: np.ndarray, points: np.ndarray, said: str) -> str:
    """Another of data.box_format under which a box lies clearly better over the keypoints (21, 3), or "".

    Without keypoints: one under which it has an area at all.
    """
    seen = points[points[:, 2] > 0, :2]
    if not (np.isfinite(box).all() and np.isfinite(seen).all()):
        return ""
    others = [form for form in ("corners", "xywh", "centre") if form != said]
    if not len(seen):
        empty = (corners(box, said)[2:] <= corners(box, said)[:2]).any()
        return others[0] if empty and (box[2:] > 0).all() else ""
    hand = np.concatenate([seen.min(0), seen.max(0)])
    shares = {form: overlap(corners(box, form), hand) for form in (said, *others)}
    best = max(others, key=lambda form: shares[form])
    return best if shares[best] > max(0.5, 1.5 * shares[said]) else ""


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    sides = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0)
    union = np.prod((one[2:] - one[:2]).clip(0)) + np.prod(other[2:] - other[:2]) - np.prod(sides)
    return float(np.prod(sides) / union) if union > 0 else 0.0
