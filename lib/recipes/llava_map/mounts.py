"""Do the sensors look where their names say, and does the car stand on its wheels?

A quaternion with its w at the end, an inverted pose, intrinsics of another size and a camera under another one's name
read well, and every ray that follows from them is wrong.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.llava_map import fields, geometry

# Where the optical axis points, in degrees to the left of ahead (nuScenes' cars differ by less than 2).
FACING_DEG = {
    "CAM_FRONT": 0, "CAM_FRONT_LEFT": 55, "CAM_BACK_LEFT": 110,
    "CAM_BACK": 180, "CAM_BACK_RIGHT": -110, "CAM_FRONT_RIGHT": -55,
}  # fmt: skip
MOST_OFF_DEG = 40  # cameras of other cars; the next camera is 55 away
UPRIGHT = 0.5  # cosine of 60 degrees, which no road is steep
MOVED_M, FEWEST_MOVES = 1.0, 10  # between key frames half a second apart, so that a direction is no noise
MOST_BESIDE_DEG = 45  # between where cars drive and where their lidar looks ahead; real ones stay within some degrees
MOST_OFF_CENTRE = 0.2  # of a picture's side: half or double intrinsics are off by a quarter or more


def refuse_turned(path: Path, channel: str, mount: Mapping[str, Any]) -> None:
    """Stop: a sensor does not look where its name says, or lies on its side. mount: a row of calibrated_sensor."""
    rotation = geometry.rigid(mount["translation"], mount["rotation"])[:3, :3]
    up = -rotation[2, 1] if channel in FACING_DEG else rotation[2, 2]  # a camera's y axis points down
    due = FACING_DEG.get(channel)
    looks_deg = math.degrees(math.atan2(rotation[1, 2], rotation[0, 2]))
    off_deg = 0 if due is None else abs((looks_deg - due + 180) % 360 - 180)
    if up < UPRIGHT or off_deg > MOST_OFF_DEG:
        how = (
            "lies on its side" if up < UPRIGHT else f"looks {looks_deg:.0f} degrees to the left of ahead, and not {due}"
        )
        raise Stop(f"{path}: {channel}'s {mount['token']!r} {how} (rotation: w first)", fields.GET_AGAIN)


def refuse_other_size(path: Path, channel: str, mount: Mapping[str, Any], picture: Mapping[str, Any]) -> None:
    """Stop: the middle of a camera's matrix is not that of its picture (a row of sample_data)."""
    matrix = mount["camera_intrinsic"]
    off = [abs(matrix[axis][2] / picture[side] - 0.5) for axis, side in enumerate(("width", "height"))]
    if max(off) > MOST_OFF_CENTRE:
        centre, size = f"({matrix[0][2]:.0f}, {matrix[1][2]:.0f})", f"{picture['width']} x {picture['height']}"
        cause = f"{path}: the axis of {channel}'s {mount['token']!r} meets the picture at {centre} px of {size}"
        raise Stop(f"{cause}: its matrix is of another size", fields.GET_AGAIN)


def refuse_fallen(path: Path, poses: Iterable[Mapping[str, Any]]) -> None:
    """Stop: a car's z axis does not point up. poses: rows of ego_pose."""
    for pose in poses:
        w, x, y, z = np.divide(pose["rotation"], math.hypot(*pose["rotation"])).tolist()
        if w * w - x * x - y * y + z * z < UPRIGHT:
            cause = f"{path}: the car of {pose['token']!r} does not stand on its wheels (rotation: w first)"
            raise Stop(cause, fields.GET_AGAIN)


def refuse_sideways(path: Path, drives: Iterable[Sequence[np.ndarray]]) -> None:
    """Stop: most cars do not drive to where their lidar's y axis points. drives: world_from_bev, in time, by scene.

    So it is where ego poses are turned the other way round, or where the car's or the lidar's axes are others; places
    and cameras are right all the same, and the map lies turned around the car.
    """
    beside_deg = []
    for one, other in itertools.chain.from_iterable(map(itertools.pairwise, drives)):
        x_m, y_m = (geometry.inverse(one) @ other[:, 3])[:2]
        if math.hypot(x_m, y_m) > MOVED_M:
            beside_deg.append(abs(math.degrees(math.atan2(x_m, y_m))))
    if len(beside_deg) >= FEWEST_MOVES and (middle := float(np.median(beside_deg))) > MOST_BESIDE_DEG:
        of = f"the median of {len(beside_deg)} moves from key frame to key frame"
        cause = f"{path}: cars drive {middle:.0f} degrees beside where their lidar looks ahead ({of})"
        raise Stop(cause, "see that poses turn the car into the world, its x ahead, and the lidar's y axis is ahead")
