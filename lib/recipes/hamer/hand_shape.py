"""Proportions of the stand-in hand: where the rings of wrist, palm, fingers and thumb lie in space, and how much of a
vertex follows which joint.

Fingers point along -x, the palm faces -y, the thumb is at +z. Numbers are metres and were chosen by eye.
"""

from collections.abc import Mapping, Sequence

import numpy as np

# By how much a shape parameter of 1 changes the mean hand, relatively.
MODES = {
    "size": 0.04,
    "finger_length": 0.05,
    "palm_length": 0.05,
    "palm_width": 0.05,
    "thickness": 0.07,
    "finger_radius": 0.06,
    "thumb_length": 0.06,
    "pinky_length": 0.07,
    "index_length": 0.04,
    "wrist_width": 0.06,
}
PALM = (  # x of a ring, half width, half thickness, z of its centre, from the wrist to the webs
    (0.084, 0.027, 0.018, 0.000),
    (0.074, 0.029, 0.018, 0.001),
    (0.063, 0.033, 0.018, 0.003),
    (0.051, 0.036, 0.018, 0.003),
    (0.038, 0.038, 0.017, 0.001),
    (0.024, 0.040, 0.016, -0.003),
    (0.009, 0.041, 0.013, -0.004),
    (-0.005, 0.042, 0.011, -0.004),
)
WRIST = (0.096, 0.027, 0.018, 0.0)
# Of index, middle, ring, pinky: x, y, z of the knuckle, lengths of the three bones, radius, splay in radians about y.
KNUCKLES = ((0.008, 0.003, 0.026), (0.004, 0.004, 0.005), (0.010, 0.003, -0.016), (0.020, 0.001, -0.034))
BONES = ((0.042, 0.025, 0.023), (0.046, 0.029, 0.024), (0.042, 0.027, 0.024), (0.034, 0.020, 0.021))
RADII = (0.0095, 0.0098, 0.0092, 0.0080)
SPLAY = (0.10, 0.01, -0.08, -0.20)
THUMB = ((0.072, -0.006, 0.024), (0.046, -0.013, 0.047), (0.027, -0.017, 0.067), (0.007, -0.018, 0.082))  # joints, tip
THUMB_RADIUS = 0.0118
ALONG = (0.62, 0.88, 1.0, 1.35, 1.75, 2.0, 2.45, 2.78, 2.94)  # rings of a finger in bones from its knuckle
ALONG_THUMB = (0.62, 1.0, 1.35, 1.75, 2.0, 2.45, 2.78, 2.94)
CAP = {2.78: 0.86, 2.94: 0.52}  # radius of the last rings, relative


def palm_ring(row: Sequence[float], change: Mapping[str, float], width: float) -> np.ndarray:
    """Points (32, 3) m: the back from the thumb to the pinky, the pinky's side, the palm, the thumb's side.

    row: a line of PALM. change: factor of each of MODES. width: a further factor of the ring's width.
    """
    x, half_width, half_thickness, centre = row
    back, palm = np.linspace(30, 150, 13), np.linspace(210, 330, 13)
    angle = np.radians(np.concatenate([back, (165, 180, 195), palm, (345, 360, 375)]))
    z = half_width * change["palm_width"] * width * signed_power(np.cos(angle), 0.85)
    y = half_thickness * change["thickness"] * signed_power(np.sin(angle), 0.75)
    share = (0.096 - x) / 0.101  # 0 at the wrist, 1 at the webs, which lie further back at the pinky
    x_bent = x + share * (5.0 * (z - 0.006) ** 2 + 0.12 * np.clip(-z, 0, None))
    return np.stack([0.096 + (x_bent - 0.096) * change["palm_length"], y, z + centre], 1)


def signed_power(value: np.ndarray, power: float) -> np.ndarray:
    return np.sign(value) * np.abs(value) ** power


def finger_joints(finger: int, change: Mapping[str, float]) -> np.ndarray:
    """Knuckle, two joints and tip, (4, 3) m, of finger 0 (index) to 3 (pinky)."""
    x, y, z = KNUCKLES[finger]
    own = {0: change["index_length"], 3: change["pinky_length"]}.get(finger, 1)
    length = change["finger_length"] * own
    along = np.array([-np.cos(SPLAY[finger]), 0, np.sin(SPLAY[finger])])
    start = np.array([0.096 + (x - 0.096) * change["palm_length"], y * change["thickness"], z * change["palm_width"]])
    return start + np.concatenate([[0], np.cumsum(BONES[finger])])[:, None] * length * along


def thumb_joints(change: Mapping[str, float]) -> np.ndarray:
    """Three joints and tip, (4, 3) m."""
    joints = np.array(THUMB)
    return joints[0] + (joints - joints[0]) * change["thumb_length"]


def place_tube(
    at: np.ndarray,
    rings: list[list[int]],
    loop: list[int],
    joints: np.ndarray,
    along: Sequence[float],
    radius: float,
) -> None:
    """Puts the rings of a finger around its bones, into `at` (n, 3) m.

    They are turned so that they do not twist against the loop in which the finger starts.
    """
    centre = at[loop].mean(0)
    for ring, place in zip(rings[:-1], along, strict=True):
        bone = min(int(place - 1e-9), 2)
        middle = joints[bone] + (place - bone) * (joints[bone + 1] - joints[bone])
        up, side = frame(joints[bone + 1] - joints[bone])
        angles = even_angles(np.stack([(at[loop] - centre) @ side, (at[loop] - centre) @ up], 1))
        thick = radius * (1.10 - 0.10 * place + (0.05 if place in (1, 2) else 0)) * CAP.get(place, 1)
        at[ring] = middle + thick * (np.cos(angles)[:, None] * side + 0.92 * np.sin(angles)[:, None] * up)
    at[rings[-1]] = joints[-1]


def frame(along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit directions (3,) across a bone (3,): towards the back of the hand, and sideways."""
    along = along / np.linalg.norm(along)
    up = np.array([0.0, 1, 0]) - along[1] * along
    up /= np.linalg.norm(up)
    return up, np.cross(along, up)


def even_angles(points: np.ndarray) -> np.ndarray:
    """Evenly spaced angles (n,) rad in the sense and at the mean offset of the angles of `points` (n, 2)."""
    actual = np.unwrap(np.arctan2(points[:, 1], points[:, 0]))
    even = np.arange(len(points)) * 2 * np.pi / len(points) * np.sign(actual[-1] - actual[0])
    return even + (actual - even).mean()


def direction(chain: np.ndarray, i: int) -> np.ndarray:
    """Unit vector (3,) along the finger at joint i of its chain (3, 3): the mean of the bones before and after."""
    vector = chain[min(i + 1, 2)] - chain[max(i - 1, 0)]
    return vector / np.linalg.norm(vector)


def smooth_step(at: np.ndarray, joint: np.ndarray, along: np.ndarray, width_m: float) -> np.ndarray:
    """Of points (n, 3) m: 0 before a joint, 1 behind it, over `width_m` on both sides, (n,)."""
    x = ((at - joint) @ along / (2 * width_m) + 0.5).clip(0, 1)
    return x * x * (3 - 2 * x)


def belongs(at: np.ndarray, owner: np.ndarray, finger: int, joints: np.ndarray) -> np.ndarray:
    """How much of each vertex (n, 3) m follows a finger, (n,) 0 … 1.

    All of that finger's own, none of the others', a share of the palm by distance. owner (n,): finger, or -1 = palm.
    """
    roots = joints[[1, 4, 10, 7]]
    if finger == 4:
        far = np.linalg.norm(at - (joints[13] + joints[14]) / 2, axis=1)
        share = (1.6 - far / 0.021).clip(0, 1)
    else:
        near = np.exp(-(((at[:, None, 2] - roots[None, :, 2]) / 0.008) ** 2))
        share = near[:, finger] / near.sum(1).clip(1e-9)
    return np.where(owner == finger, 1.0, np.where(owner >= 0, 0.0, share))
