"""Reads the JSON tables of nuScenes into key frames; the official devkit is not needed.

Only key frames of the six cameras and the lidar are kept. The big tables (2.6 million rows in trainval) are read row by
row, so that memory follows the 34 149 key frames and not the files.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.llava_map import fields, geometry, mounts
from lib.recipes.llava_map.geometry import MIRRORED_CAMERA

CAMERAS = tuple(MIRRORED_CAMERA)  # the order of views everywhere
LIDAR = "LIDAR_TOP"
CHUNK_BYTES = 1 << 20
LONGEST_RECORD = 1 << 26  # characters; a file that is broken in the middle must not be collected to its end
Table = dict[str, dict[str, Any]]  # token -> row
COMMAND = "python step2_download.py --recipe llava_map data.root=<nuScenes folder> data.version=v1.0-trainval"

# What is read of each table. Rows of other sensors are not looked at.
POSE = {"translation": fields.PLACE, "rotation": fields.ROTATION}
SENSOR = {"token": fields.TEXT, "channel": fields.TEXT}
MOUNT = {"token": fields.TEXT, "sensor_token": fields.TEXT}
SCENE = {"token": fields.TEXT, "name": fields.NAME, "log_token": fields.TEXT}
LOG = {"token": fields.TEXT, "location": fields.NAME}
SAMPLE = {"token": fields.NAME, "scene_token": fields.TEXT, "timestamp": fields.WHOLE}
READING = {"sample_token": fields.TEXT, "ego_pose_token": fields.TEXT, "filename": fields.TEXT}
PICTURE = {"width": fields.PIXELS, "height": fields.PIXELS}


@dataclass(frozen=True)
class Camera:
    channel: str
    filename: str  # relative to the data root
    width_px: int
    height_px: int
    intrinsics: np.ndarray  # (3, 3), pixels of the file
    world_from_cam: np.ndarray  # (4, 4) at the camera's own time


TAGS = ("night", "rain")


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
    tags: tuple[str, ...] = ()  # of TAGS, as the description of the scene says

    def bev_from_cam(self) -> np.ndarray:
        """(6, 4, 4), each camera at its own time: 50 ms at 10 m/s are half a metre, the strictest threshold."""
        world_from_cams = np.stack([camera.world_from_cam for camera in self.cameras])
        poses: np.ndarray = geometry.inverse(self.world_from_bev) @ world_from_cams
        return poses


def read_frames(root: Path, version: str) -> tuple[list[Frame], dict[str, str]]:
    """Key frames by scene name and time, and the reason for each sample token that had to be left out.

    Stop where the version or a table is missing, truncated or damaged, or points to a row that is not there.
    """
    folder = root / version
    if not folder.is_dir():
        there = sorted(path.parent.name for path in root.glob("*/sample_data.json"))
        raise Stop(f"{folder} does not exist; {root} has {', '.join(there) or 'no nuScenes tables'}", COMMAND)
    calibrated = by_token(folder / "calibrated_sensor.json", MOUNT)
    channels = {token: row["channel"] for token, row in by_token(folder / "sensor.json", SENSOR).items()}
    readings = key_readings(folder, calibrated, channels)
    wanted = {row["ego_pose_token"] for sample in readings.values() for row in sample.values()}
    poses = by_token(folder / "ego_pose.json", POSE, wanted)
    mounts.refuse_fallen(folder / "ego_pose.json", poses.values())
    scenes = by_token(folder / "scene.json", SCENE)
    logs = by_token(folder / "log.json", LOG)
    frames, skipped = [], {}
    for token, sample in by_token(folder / "sample.json", SAMPLE).items():
        scene = lookup(scenes, sample["scene_token"], folder / "scene.json")
        location = lookup(logs, scene["log_token"], folder / "log.json")["location"]
        lack = what_is_missing(readings.get(token, {}), poses, root)
        if lack:
            skipped[token] = f"{scene['name']}: {lack}"
        else:
            made = frame(sample, scene["name"], location, readings[token], calibrated, poses)
            frames.append(replace(made, tags=tags_of(str(scene.get("description", "")))))
    frames.sort(key=lambda f: (f.scene, f.timestamp_us))
    drives = itertools.groupby(frames, key=lambda f: f.scene)
    mounts.refuse_sideways(folder / "ego_pose.json", ([f.world_from_bev for f in drive] for _, drive in drives))
    return frames, skipped


def tags_of(description: str) -> tuple[str, ...]:
    """nuScenes states weather and time of day in the description of a scene: "Night, rain, parked cars"."""
    words = set(re.findall(r"[a-z]+", description.lower()))
    return tuple(tag for tag in TAGS if words & {tag, f"{tag}y", f"{tag}ing"})


def by_token(path: Path, kinds: dict[str, fields.Kind], wanted: set[str] | None = None) -> Table:
    """The rows of a table by their token, each checked; of a large table the wanted ones alone.

    Stop: a row is damaged, or two that differ have the same token.
    """
    found: Table = {}
    for number, row in enumerate(rows(path)):
        fields.refuse_damaged(path, row, f"record {number}", {"token": fields.TEXT})
        token = row["token"]
        if wanted is None or token in wanted:
            fields.refuse_damaged(path, row, f"record {number}", kinds)
            if found.get(token, row) != row:
                raise Stop(f"{path}: record {number} has the token {token!r} of another record", fields.GET_AGAIN)
            found[token] = row
    return found


def key_readings(folder: Path, calibrated: Table, channels: dict[str, str]) -> dict[str, Table]:
    """Sample token -> channel -> key-frame row of sample_data, for the channels in use.

    Stop: a row is damaged, or a sample has two key frames of a channel.
    """
    path, found = folder / "sample_data.json", dict[str, Table]()
    for number, row in enumerate(rows(path)):
        name = f"record {number}"
        fields.refuse_damaged(path, row, name, {"is_key_frame": fields.FLAG, "calibrated_sensor_token": fields.TEXT})
        if row["is_key_frame"]:
            mount = lookup(calibrated, row["calibrated_sensor_token"], folder / "calibrated_sensor.json")
            channel = lookup(channels, mount["sensor_token"], folder / "sensor.json")
            if channel == LIDAR or channel in CAMERAS:
                fields.refuse_damaged(path, row, name, READING if channel == LIDAR else READING | PICTURE)
                if channel in found.setdefault(row["sample_token"], {}):
                    raise Stop(f"{path}: {name} is a second key frame of {channel} for its sample", fields.GET_AGAIN)
                found[row["sample_token"]][channel] = row
    refuse_damaged_mounts(folder, calibrated, found)
    return found


def refuse_damaged_mounts(folder: Path, calibrated: Table, readings: dict[str, Table]) -> None:
    """Stop where a sensor in use has no place on the car or another one than its name says, or where a camera among
    them has no intrinsics or those of another size.
    """
    of_channels = (sample.items() for sample in readings.values())
    used = {(channel, row["calibrated_sensor_token"]): row for sample in of_channels for channel, row in sample}
    path = folder / "calibrated_sensor.json"
    for channel, token in sorted(used):
        kinds = POSE if channel == LIDAR else POSE | {"camera_intrinsic": fields.CAMERA_MATRIX}
        fields.refuse_damaged(path, calibrated[token], f"{channel}'s {token!r}", kinds)
        mounts.refuse_turned(path, channel, calibrated[token])
        if channel != LIDAR:
            mounts.refuse_other_size(path, channel, calibrated[token], used[channel, token])


def what_is_missing(readings: Table, poses: Table, root: Path) -> str:
    """Why a sample cannot be used, or ""."""
    for channel in (LIDAR, *CAMERAS):
        if channel not in readings:
            return f"no {channel} reading"
        if readings[channel]["ego_pose_token"] not in poses:
            return f"{channel} has no ego pose"
    for channel in CAMERAS:
        if not is_file(root / readings[channel]["filename"]):
            return f"{readings[channel]['filename']} is missing"
    return ""


def is_file(path: Path) -> bool:
    """False, too, for a name that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long; a zero byte
        return False


def frame(sample: dict[str, Any], scene: str, location: str, readings: Table, calibrated: Table, poses: Table) -> Frame:
    """A key frame from its rows."""

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


def rows(path: Path) -> Iterator[Any]:
    """The records of a JSON list, decoded one after another from chunks of the file.

    Stop where the file is missing, truncated or not a list.
    """
    if not path.is_file():
        raise Stop(f"{path} is missing", COMMAND)
    text, opened = "", False
    for chunk in chunks(path):
        text = text + chunk if opened else chunk.lstrip()
        if text and not opened:
            if text[0] != "[":
                break
            text, opened = text[1:], True
        records, text = decoded(text, path)
        yield from records
        if len(text) > LONGEST_RECORD:
            break
    if not opened or text.strip() != "]":
        raise Stop(f"{path} ends in the middle of a record: it is truncated or not a list", COMMAND)


def decoded(text: str, path: Path) -> tuple[list[Any], str]:
    """The whole records at the beginning of a text, and what follows them: a record goes on in the next chunk."""
    found: list[Any] = []
    decoder, start = json.JSONDecoder(), 0
    while True:
        start = next((i for i in range(start, len(text)) if text[i] not in " \n\r\t,"), len(text))
        try:
            record, start = decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            return found, text[start:]
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            raise Stop(f"{path} holds a value that cannot be read ({error})", COMMAND) from error
        found.append(record)


def chunks(path: Path) -> Iterator[str]:
    """The text of a file in pieces. Stop where it is not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from iter(lambda: file.read(CHUNK_BYTES), "")
    except UnicodeDecodeError as error:
        raise Stop(f"{path} is not UTF-8 text: it is damaged", COMMAND) from error
