"""nerfstudio's transforms.json as a COLMAP model: cameras, poses, and the depth that frames name.

Its poses are world-from-camera with OpenGL axes (x right, y up, z backward); COLMAP's and ours are camera-from-world
with OpenCV axes, so two columns change their sign before the inverse. The file knows no points that photographs share:
such a scene needs depth, and its covisibility comes from there. Format: docs.nerf.studio, "Data conventions".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from lib.core.errors import Stop
from lib.core.run import read_json
from lib.scenes.colmap_files import Damaged, Image, Model, new_camera

FILE = "transforms.json"
# camera_model -> COLMAP's, and the distortion among its parameters in COLMAP's order.
MODELS = {
    "PINHOLE": ("PINHOLE", ()),
    "SIMPLE_PINHOLE": ("PINHOLE", ()),
    "OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
}
OPENCV_AXES = np.diag([1.0, -1.0, -1.0])
UNIT = 1e-4  # how far a rotation's columns may be from right angles and length 1
MILLIMETRES = 1000.0  # of the values of a 16-bit depth per unit of the poses
MOST_SCALE = 1e30  # float32, which depths are kept in, ends at 3e38


def read(folder: Path) -> Model:
    """The cameras of a scene without points. Stop names the frame that is incomplete or impossible."""
    stored = content(folder)
    if not stored["frames"]:
        raise Stop(f"{folder / FILE} cannot be read: its list of frames is empty", "export it again")
    cameras, images = {}, []
    for number, frame in enumerate(stored["frames"], 1):
        with named(folder, number):
            cameras[number] = camera(number, stored | frame)
            images.append(image(number, frame))
    return Model(cameras, images, np.zeros(0, np.int64), np.zeros((0, 3)))


@contextmanager
def named(folder: Path, number: int) -> Iterator[None]:
    """Stop: what a frame holds cannot be read; the frame is named."""
    try:
        yield
    except (Damaged, KeyError, TypeError, ValueError, OverflowError) as error:  # the last: of 400 digits
        what = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise Stop(f"{folder / FILE} cannot be read: frame {number}: {what}", "export it again") from error


@lru_cache(maxsize=1)  # it is asked for each photograph
def content(folder: Path) -> dict[str, Any]:
    """The file's table, whose frames are a list of tables. Stop: it is damaged or something else."""
    path = folder / FILE
    stored = table_in(path)
    frames = stored.get("frames") if isinstance(stored, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise Stop(f"{path} cannot be read: it has no list of frames", "export it again")
    return stored


def table_in(path: Path) -> Any:
    """What a JSON file beside scenes holds, None where there is none. Stop: it is damaged."""
    try:
        return read_json(path)
    except (ValueError, RecursionError, OSError) as error:
        raise Stop(f"{path} cannot be read: {' '.join(str(error).split())[:200]}", "export it again") from error


def camera(number: int, said: dict[str, Any]) -> Any:
    """A frame's pycolmap.Camera; what the frame does not say itself, the file says for all.

    Instant-ngp's files name no model, and say by is_fisheye which of two it is.
    """
    name = said.get("camera_model", "OPENCV_FISHEYE" if said.get("is_fisheye") is True else "OPENCV")
    if name not in MODELS:
        raise Damaged(f"the camera_model {name!r} is not one of {', '.join(MODELS)}")
    model, distortion = MODELS[name]
    beyond = [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if key not in distortion and said.get(key)]
    if beyond:
        raise Damaged(f"a {name} camera with {', '.join(beyond)} has no equal among COLMAP's models that is read here")
    pinhole = [float(said[key]) for key in ("fl_x", "fl_y", "cx", "cy")]
    return new_camera(
        number, model, int(said["w"]), int(said["h"]), pinhole + [float(said.get(key, 0)) for key in distortion]
    )


def image(number: int, frame: dict[str, Any]) -> Image:
    """A frame's pose. Its name is relative to images/, as in COLMAP's models."""
    name, pose = name_of(frame), np.array(frame["transform_matrix"], dtype=np.float64)
    if pose.shape not in ((4, 4), (3, 4)) or not np.isfinite(pose).all():
        raise Damaged(f"the transform_matrix of {name} is no finite matrix of 4 x 4 numbers")
    rotation = pose[:3, :3]
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > UNIT or np.linalg.det(rotation) < 0:
        raise Damaged(f"the transform_matrix of {name} is no rotation with a translation")
    if len(pose) == 4 and np.abs(pose[3] - (0, 0, 0, 1)).max() > UNIT:
        raise Damaged(f"the transform_matrix of {name} does not end with the row 0, 0, 0, 1: is it written by columns?")
    cam_from_world = (rotation @ OPENCV_AXES).T
    moved = np.concatenate([cam_from_world, -cam_from_world @ pose[:3, 3:]], 1)
    return Image(number, name, number, moved, np.zeros(0, np.int64), np.zeros((0, 2)))


def name_of(frame: dict[str, Any]) -> str:
    """A photograph's name relative to images/. Damaged: it lies elsewhere."""
    stated = frame["file_path"]
    if not isinstance(stated, str) or Path(stated).parts[:1] != ("images",) or ".." in Path(stated).parts:
        raise Damaged(f"its file_path {str(stated)[:80]!r} does not lie below images/")
    return Path(stated).relative_to("images").as_posix()


@lru_cache(maxsize=1)
def depth_files(folder: Path) -> dict[str, str]:
    """Photograph -> the depth file that its frame names, both relative to where they lie.

    Frames that name none may lie anywhere: beside a COLMAP model, which says where the cameras are, this file may be
    of another program. Stop: a frame that names one is no photograph of images/.
    """
    found = {}
    for number, frame in enumerate(content(folder)["frames"], 1):
        if isinstance(frame.get("depth_file_path"), str):
            with named(folder, number):
                found[name_of(frame)] = frame["depth_file_path"]
    return found


def depth_of(folder: Path, name: str) -> Path | None:
    """The depth file of a photograph, None where its frame names none. Stop: it lies outside the scene."""
    if not (stated := depth_files(folder).get(name)):
        return None
    if Path(stated).is_absolute() or ".." in Path(stated).parts:
        raise Stop(f"{folder / FILE}: the depth of {name} lies outside the scene, at {stated[:80]}")
    return folder / stated


def scale(folder: Path, name: str, path: Path) -> float | None:
    """Values of a photograph's 16-bit depth per unit of the poses; None where the file neither states it nor names this
    depth.

    Stop: depth_unit_scale_factor is no positive number.
    """
    stored = content(folder)
    if "depth_unit_scale_factor" not in stored and depth_of(folder, name) != path:
        return None
    factor = stored.get("depth_unit_scale_factor", 1 / MILLIMETRES)
    if not is_scale(factor):
        said = f"depth_unit_scale_factor={str(factor)[:80]} is no positive number"
        raise Stop(f"{folder / FILE}: {said}", "export it again")
    return 1 / float(factor)


def is_scale(value: Any) -> TypeGuard[float]:
    """Can this divide depths, and multiply them? Not with 400 digits, which no float holds, and not 1e-320."""
    return type(value) in (int, float) and 1 / MOST_SCALE < value < MOST_SCALE
