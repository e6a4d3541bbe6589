"""Reads the JSON tables of nuScenes into key frames; the official devkit is not needed.

Only key frames of the six cameras and the lidar are kept. The big tables (2.6 million rows in trainval) are read row by
row, so that memory follows the 34 149 key frames and not the files.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.llava_map import geometry
from lib.recipes.llava_map.geometry import MIRRORED_CAMERA

CAMERAS = tuple(MIRRORED_CAMERA)  # the order of views everywhere
LIDAR = "LIDAR_TOP"
CHUNK_BYTES = 1 << 20
LONGEST_RECORD = 1 << 26  # characters; a file that is broken in the middle must not be collected to its end
Table = dict[str, dict[str, Any]]  # token -> row
COMMAND = "python step2_download.py --recipe llava_map data.root=<nuScenes folder> data.version=v1.0-trainval"


@dataclass(frozen=True)
class Camera:
    channel: str
    filename: str  # relative to the data root
    width_px: int
    height_px: int
    intrinsics: np.ndarray  # (3, 3), pixels of the file
    world_from_cam: np.ndarray  # (4, 4) at the camera's own time


@dataclass(frozen=True)
class Frame:
    """A key frame. Vectors and cameras meet in the `bev` frame of geometry.py."""

    token: str
    scene: str  # scene name, which the splits are made of
    location: str
    timestamp_us: int
    world_from_lidar: np.ndarray
    world_from_bev: np.ndarray
    cameras: tuple[Camera, ...]  # in the order of CAMERAS

    def bev_from_cam(self) -> np.ndarray:
        """(6, 4, 4), each camera at its own time: 50 ms at 10 m/s are half a metre, the strictest threshold."""
        world_from_cams = np.stack([camera.world_from_cam for camera in self.cameras])
        poses: np.ndarray = geometry.inverse(self.world_from_bev) @ world_from_cams
        return poses


def read_frames(root: Path, version: str) -> tuple[list[Frame], dict[str, str]]:
    """Key frames by scene name and time, and the reason for each sample token that had to be left out.

    Stop where the version or a table is missing, truncated, or points to a row that is not there.
    """
    folder = root / version
    if not folder.is_dir():
        there = sorted(path.parent.name for path in root.glob("*/sample_data.json"))
        raise Stop(f"{folder} does not exist; {root} has {', '.join(there) or 'no nuScenes tables'}", COMMAND)
    calibrated = {row["token"]: row for row in rows(folder / "calibrated_sensor.json")}
    channels = {row["token"]: row["channel"] for row in rows(folder / "sensor.json")}
    readings = key_readings(folder, calibrated, channels)
    wanted = {row["ego_pose_token"] for sample in readings.values() for row in sample.values()}
    poses = {row["token"]: row for row in rows(folder / "ego_pose.json") if row["token"] in wanted}
    scenes = {row["token"]: row for row in rows(folder / "scene.json")}
    locations = {row["token"]: row["location"] for row in rows(folder / "log.json")}
    frames, skipped = [], {}
    for sample in rows(folder / "sample.json"):
        scene = lookup(scenes, sample["scene_token"], folder / "scene.json")
        location = lookup(locations, scene["log_token"], folder / "log.json")
        lack = what_is_missing(readings.get(sample["token"], {}), poses, root)
        if lack:
            skipped[sample["token"]] = f"{scene['name']}: {lack}"
        else:
            frames.append(frame(sample, scene["name"], location, readings[sample["token"]], calibrated, poses))
    return sorted(frames, key=lambda f: (f.scene, f.timestamp_us)), skipped


def key_readings(folder: Path, calibrated: Table, channels: dict[str, str]) -> dict[str, Table]:
    """Sample token -> channel -> key-frame row of sample_data, for the channels in use."""
    found: dict[str, Table] = {}
    for row in rows(folder / "sample_data.json"):
        if row["is_key_frame"]:
            mount = lookup(calibrated, row["calibrated_sensor_token"], folder / "calibrated_sensor.json")
            channel = lookup(channels, mount["sensor_token"], folder / "sensor.json")
            if channel == LIDAR or channel in CAMERAS:
                found.setdefault(row["sample_token"], {})[channel] = row
    return found


def what_is_missing(readings: Table, poses: Table, root: Path) -> str:
    """Why a sample cannot be used, or ""."""
    for channel in (LIDAR, *CAMERAS):
        if channel not in readings:
            return f"no {channel} reading"
        if readings[channel]["ego_pose_token"] not in poses:
            return f"{channel} has no ego pose"
    for channel in CAMERAS:
        if not (root / readings[channel]["filename"]).is_file():
            return f"{readings[channel]['filename']} is missing"
    return ""


def frame(sample: dict[str, Any], scene: str, location: str, readings: Table, calibrated: Table, poses: Table) -> Frame:
    """A key frame from its rows. Stop where a camera has no intrinsics."""

    def world_from(channel: str) -> np.ndarray:
        sensor = calibrated[readings[channel]["calibrated_sensor_token"]]
        pose: np.ndarray = ego(channel) @ geometry.rigid(sensor["translation"], sensor["rotation"])
        return pose

    def ego(channel: str) -> np.ndarray:
        pose = poses[readings[channel]["ego_pose_token"]]
        return geometry.rigid(pose["translation"], pose["rotation"])

    cameras = []
    for channel in CAMERAS:
        row = readings[channel]
        intrinsics = np.array(calibrated[row["calibrated_sensor_token"]]["camera_intrinsic"], np.float64)
        if intrinsics.shape != (3, 3):
            raise Stop(
                f"calibrated_sensor {row['calibrated_sensor_token']} of {channel} has no 3x3 camera_intrinsic", COMMAND
            )
        cameras.append(Camera(channel, row["filename"], row["width"], row["height"], intrinsics, world_from(channel)))
    world_from_lidar = world_from(LIDAR)
    world_from_bev = geometry.bev_frame(ego(LIDAR), world_from_lidar)
    return Frame(
        sample["token"], scene, location, sample["timestamp"], world_from_lidar, world_from_bev, tuple(cameras)
    )


def lookup(table: dict[str, Any], token: str, path: Path) -> Any:
    """table[token]. Stop where it is not there: `path` names the table's file."""
    if token not in table:
        raise Stop(f"{path} has no row {token!r}, which another table points to: the tables are incomplete", COMMAND)
    return table[token]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON list, decoded one after another from chunks of the file.

    Stop where the file is missing, truncated or not a list.
    """
    if not path.exists():
        raise Stop(f"{path} is missing", COMMAND)
    decoder, text = json.JSONDecoder(), ""
    with path.open(encoding="utf-8") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), ""):
            text += chunk
            start = 0
            while True:
                start = next((i for i in range(start, len(text)) if text[i] not in " \n\r\t[,"), len(text))
                try:
                    record, start = decoder.raw_decode(text, start)
                except json.JSONDecodeError:
                    break  # the record goes on in the next chunk
                yield record
            text = text[start:]
            if len(text) > LONGEST_RECORD:
                break
    if text.strip() != "]":
        raise Stop(f"{path} ends in the middle of a record: it is truncated or not a list", COMMAND)
