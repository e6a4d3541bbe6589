"""Rigs of COLMAP 3.12 and later (rigs and frames beside images): several cameras that are fixed to one another.

COLMAP then takes poses from frames times rigs, and writes the product into images as well, which is what is read here.
A program that knows images alone may have changed one of the two; which of them is right cannot be told.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.core.errors import Stop
from lib.scenes.colmap_files import Cursor, Damaged, Image, kind, lines, read_part, rigid

CAMERA, CAMERA_NUMBER = "CAMERA", 0  # a kind of sensor; others, such as inertial ones, take no pictures
TOLERANCE = 1e-3  # of a pose: text files of other programs have few digits


class Frame(NamedTuple):
    """What the sensors of a rig recorded at one moment: of each camera an image, by number."""

    rig: int
    rig_from_world: np.ndarray  # (3, 4)
    images: dict[int, int]  # camera -> image


Rig = dict[int, np.ndarray | None]  # camera -> camera from rig (3, 4), None where it is not known


def refuse_other_poses(folder: Path, images: list[Image]) -> None:
    """Stop: rigs and frames of a model say another pose of an image than images, or are damaged."""
    form = kind(folder)
    if not (folder / f"frames.{form}").is_file():
        return
    rigs, frames = read_part(folder, "rigs", RIGS[form]), read_part(folder, "frames", FRAMES[form])
    said = {number: pose for frame in frames for number, pose in poses(rigs, frame)}
    for image in images:
        other = said.get(image.number, image.cam_from_world)
        size = 1 + np.abs(image.cam_from_world[:, 3]).max()
        if np.abs(other[:, :3] - image.cam_from_world[:, :3]).max() > TOLERANCE or (
            np.abs(other[:, 3] - image.cam_from_world[:, 3]).max() > TOLERANCE * size
        ):
            cause = f"{folder} has two poses of {image.name}: images.{form} says another than frames.{form} times rigs"
            raise Stop(cause, f"export the model again, or remove the frames.{form} and rigs.{form} of another state")


def poses(rigs: dict[int, Rig], frame: Frame) -> list[tuple[int, np.ndarray]]:
    """Image -> camera from world (3, 4), as far as the rig knows its cameras."""
    found = []
    for camera, image in frame.images.items():
        from_rig = rigs.get(frame.rig, {}).get(camera)
        if from_rig is not None:
            found.append((image, from_rig @ np.concatenate([frame.rig_from_world, [[0, 0, 0, 1]]])))
    return found


def at_rig() -> np.ndarray:
    """The pose of the camera whose place and axes are the rig's."""
    return np.eye(3, 4)


# ---------------------------------------------------------------------------------------------- text


def text_rigs(content: bytes) -> dict[int, Rig]:
    """RIG_ID, NUM_SENSORS, type and number of the first sensor, then type, number and HAS_POSE [pose] of the others."""
    found = {}
    for number, line in lines(content):
        words = line.split()[::-1]  # the next one is the last
        if not words or line.startswith("#"):
            continue
        try:
            rig, sensors = int(words.pop()), int(words.pop())
            cameras: Rig = {}
            for place in range(sensors):
                is_camera, sensor = words.pop() == CAMERA, int(words.pop())
                known = place == 0 or int(words.pop()) == 1
                pose = at_rig() if place == 0 else rigid(*taken(words)) if known else None
                cameras |= {sensor: pose} if is_camera else {}
            found[rig] = cameras
        except IndexError as error:
            raise Damaged(f"line {number} ends too early") from error
    return found


def taken(words: list[str]) -> tuple[list[float], list[float]]:
    """The next seven numbers: a quaternion w, x, y, z and a translation."""
    numbers = [float(words.pop()) for _ in range(7)]
    return numbers[:4], numbers[4:]


def text_frames(content: bytes) -> list[Frame]:
    """FRAME_ID, RIG_ID, pose, NUM_DATA_IDS, then type and number of each sensor and the number of what it recorded."""
    found = []
    for number, line in lines(content):
        words = line.split()[::-1]
        if not words or line.startswith("#"):
            continue
        try:
            _, rig = int(words.pop()), int(words.pop())
            pose = rigid(*taken(words))
            recorded = [(words.pop(), int(words.pop()), int(words.pop())) for _ in range(int(words.pop()))]
        except IndexError as error:
            raise Damaged(f"line {number} ends too early") from error
        found.append(Frame(rig, pose, {sensor: image for sort, sensor, image in recorded if sort == CAMERA}))
    return found


# ---------------------------------------------------------------------------------------------- binary


def binary_rigs(content: bytes) -> dict[int, Rig]:
    cursor, found = Cursor(content), {}
    for _ in range(cursor.count(8)):
        rig, sensors = cursor.take("II")
        cameras: Rig = {}
        for place in range(sensors):
            sort, sensor = cursor.take("iI")
            known = place == 0 or cursor.take("?")[0]
            numbers = list(cursor.take("7d")) if place and known else []
            pose = at_rig() if place == 0 else rigid(numbers[:4], numbers[4:]) if known else None
            cameras |= {sensor: pose} if sort == CAMERA_NUMBER else {}
        found[rig] = cameras
    return found


def binary_frames(content: bytes) -> list[Frame]:
    cursor, found = Cursor(content), []
    for _ in range(cursor.count(68)):
        _, rig, *numbers, recorded = cursor.take("II7dI")
        data = [cursor.take("iIQ") for _ in range(recorded)]
        images = {sensor: image for sort, sensor, image in data if sort == CAMERA_NUMBER}
        found.append(Frame(rig, rigid(numbers[:4], numbers[4:]), images))
    return found


RIGS = {"txt": text_rigs, "bin": binary_rigs}
FRAMES = {"txt": text_frames, "bin": binary_frames}
