"""Do the labels of a hand agree with each other? Three tests, each a number per hand, NaN where it cannot be asked.

`fit` projects the 3D keypoints onto the 2D ones. On 412 photographs of real hands with right labels it was at most
0.115; in MANO's joint order or OpenGL's axes at least 0.198 (median 0.28), with pinky and thumb exchanged 0.131 (0.26).
`anatomy` asks whether 21 joints are a hand in OpenPose's order. It passed for 96 % of those hands in 3D and 90 % in 2D.
`pose_error` compares the joints of pose and shape with the 3D keypoints: 0.01 mm where they are right, with the mean
pose forgotten 13 mm and more.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lib.recipes.hamer.conventions import ORDER
from lib.recipes.hamer.crop import Labels, mirrored

if TYPE_CHECKING:
    from lib.recipes.hamer.mano import Mano

MOST_FIT = 0.13  # mean distance over the longer side of the hand in the picture
MOST_POSE_M = 0.005  # mean over the joints; another version of MANO moves single vertices by 6 mm
LEAST_POINTS = 8  # that are known in 2D and 3D
NEAREST_M = 0.05  # a hand whose points are all farther from the camera is projected with perspective as well
BONES = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21))  # OpenPose order
KNUCKLES = (5, 9, 13, 17)  # of index, middle, ring, pinky
DETOUR = 1.1  # bones may be longer by this factor than under the order that makes them shortest


def finger_orders() -> tuple[tuple[int, ...], ...]:
    """Every order that goes finger by finger, from base to tip or back, with the wrist first or last: 480."""
    found = []
    for fingers in itertools.permutations(range(5)):
        for back, wrist_last in itertools.product((False, True), repeat=2):
            start = 0 if wrist_last else 1
            places = [start + 4 * finger + (3 - bone if back else bone) for finger in fingers for bone in range(4)]
            found.append((20 if wrist_last else 0, *places))
    return tuple(found)


FINGER_ORDERS = finger_orders()
ALL_ORDERS = np.array([*ORDER.values(), *FINGER_ORDERS])


def fit(points: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """points (..., 21, 3) px and confidence, joints (..., 21, 4) m and confidence -> residual (...).

    The joints are scaled and shifted onto the points, as seen from afar, and where they lie ahead of the camera in
    perspective as well; the better one counts. The mean distance is divided by the longer side of the hand's box.
    """
    seen = (points[..., 2] > 0) & (joints[..., 3] > 0)
    flat, depth = points[..., :2], joints[..., 2:3]
    low = np.where(seen[..., None], flat, np.inf).min(-2)
    high = np.where(seen[..., None], flat, -np.inf).max(-2)
    ahead = (np.where(seen, depth[..., 0], np.inf) > NEAREST_M).all(-1)
    far = distance(joints[..., :2], flat, seen)
    near = distance(joints[..., :2] / np.where(depth > NEAREST_M, depth, np.inf), flat, seen)
    enough = (seen.sum(-1) >= LEAST_POINTS) & ((high - low).max(-1) > 0)
    size = np.where(enough, (high - low).max(-1), np.nan)
    return np.where(ahead, np.minimum(far, near), far) / size


def distance(places: np.ndarray, flat: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Mean distance (...) of places (..., 21, 2) from flat (..., 21, 2), after the best scale >= 0 and shift."""
    laid, target, weight = best_fit(places, flat, seen)
    return (weight * np.linalg.norm(flat - target - laid, axis=-1)).sum(-1)


def onto(places: np.ndarray, flat: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The places (..., 21, 2) after that scale and shift."""
    laid, target, _ = best_fit(places, flat, seen)
    return np.asarray(laid + target)


def best_fit(places: np.ndarray, flat: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scaled places about their mean, the mean that they are shifted to, and the weight of each."""
    weight = seen / np.maximum(seen.sum(-1, keepdims=True), 1)
    middle, target = ((weight[..., None] * array).sum(-2, keepdims=True) for array in (places, flat))
    places, flat = places - middle, flat - target
    shared, own = ((weight[..., None] * places * array).sum((-2, -1)) for array in (flat, places))
    scale = np.maximum(shared / np.maximum(own, 1e-18), 0)
    return scale[..., None, None] * places, target, weight


def anatomy(joints: np.ndarray, shortest: float) -> np.ndarray:
    """Joints (..., 21, d) -> (...): at most 1 for a hand in OpenPose's order. shortest: `shortest_bones` of the hand.

    The thumb's base is the knuckle nearest to the wrist; index, middle, ring, pinky is the shortest way along the other
    knuckles; the thumb is on the index finger's side; bones lead from joint to neighbouring joint.
    """

    def apart(one: int, other: int) -> np.ndarray:
        return np.linalg.norm(joints[..., one, :] - joints[..., other, :], axis=-1)

    def way(stops: tuple[int, ...]) -> np.ndarray:
        return np.sum([apart(one, other) for one, other in itertools.pairwise(stops)], axis=0)

    others = [stops for stops in itertools.permutations(KNUCKLES) if stops not in (KNUCKLES, KNUCKLES[::-1])]
    thumb = apart(0, 1) / np.maximum(np.min([apart(0, knuckle) for knuckle in KNUCKLES], axis=0), 1e-9)
    row = way(KNUCKLES) / np.maximum(np.min([way(stops) for stops in others], axis=0), 1e-9)
    side = apart(2, 5) / np.maximum(apart(2, 17), 1e-9)
    return np.max([thumb, row, side, bone_length(joints) / max(DETOUR * shortest, 1e-9)], axis=0)


def bone_length(joints: np.ndarray) -> np.ndarray:
    """Joints (..., 21, d) -> (...) the length of all twenty bones."""
    starts, ends = np.array(BONES).T
    return np.linalg.norm(joints[..., starts, :] - joints[..., ends, :], axis=-1).sum(-1)


def shortest_bones(joints: np.ndarray) -> float:
    """Of joints (21, d) in an unknown order: the length of all bones under the order that makes them shortest."""
    return float(bone_length(joints[ALL_ORDERS]).min())


def pose_errors(layer: "Mano", labels: Sequence[Labels], sides: Sequence[bool]) -> list[float]:
    """`pose_error` of each hand. sides: is it a right one?"""
    joints, _ = surfaces(layer, labels, sides)
    return [float(pose_error(each, label.keypoints_3d)) for each, label in zip(joints, labels, strict=True)]


def pose_error(posed: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """How far the joints (21, 3) m of pose and shape lie from keypoints (..., 21, 4), relative to the wrist: (...) m.

    The mean over the joints that are known; NaN where the wrist is not, or too few are.
    """
    seen = joints[..., 3] > 0
    apart = np.linalg.norm(posed - posed[0] - (joints[..., :3] - joints[..., :1, :3]), axis=-1)
    asked = seen[..., 0] & (seen.sum(-1) >= LEAST_POINTS)
    return np.where(asked, (seen * apart).sum(-1) / np.maximum(seen.sum(-1), 1), np.nan)


def surfaces(layer: "Mano", labels: Sequence[Labels], sides: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Joints (n, 21, 3) m in OpenPose's order and vertices (n, 778, 3) m of pose and shape, in the camera's axes; of no
    pose, the flat hand's.
    """
    import torch

    from lib.recipes.hamer.geometry import hand_rotations

    poses = [
        label.hand_pose if right else mirrored(label.hand_pose) for label, right in zip(labels, sides, strict=True)
    ]
    betas = torch.from_numpy(np.stack([label.betas for label in labels]).astype(np.float32))
    with torch.no_grad():
        vertices, joints = layer(*hand_rotations(torch.from_numpy(np.stack(poses).astype(np.float32))), betas)
    back = np.where(np.array(sides)[:, None, None], [1, 1, 1], [-1, 1, 1])
    return joints.numpy() * back, vertices.numpy() * back
