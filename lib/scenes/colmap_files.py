"""COLMAP's model files, text and binary (colmap.github.io/format.html): cameras, poses, which point an image sees.

They are read here and not by pycolmap, which cuts names at their first space, names no file in its errors, and takes
the counts of a damaged binary file for true. Every count is compared with the length of the file before it is used.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lib.core.errors import Stop
from lib.scenes import lens

PARTS = ("cameras", "images", "points3D")
MOST_SIDE_PX = 1_000_000
MOST_ID = 2**32 - 1  # COLMAP's own mark of a camera that is none
POINT2D = np.dtype([("pixel", "<f8", 2), ("id", "<i8")])
FEWEST_SEEN = 10  # points of an image, before they say anything of its camera
MOST_OFF = 0.05  # of the photograph's larger side: median distance between a point and where its image says it is seen
Value = TypeVar("Value")


@dataclass(frozen=True)
class Image:
    number: int
    name: str  # relative to the folder of the photographs
    camera: int  # key of Model.cameras
    cam_from_world: np.ndarray  # (3, 4) float64
    seen: np.ndarray  # (n,) int64: ids of points, each once
    pixels: np.ndarray  # (n, 2) float64: where it sees them


@dataclass(frozen=True)
class Model:
    cameras: dict[int, Any]  # pycolmap.Camera
    images: list[Image]
    ids: np.ndarray  # (points,) int64, ascending
    points: np.ndarray  # (points, 3) float64

    def rows(self, image: Image) -> np.ndarray:
        """The rows of `points` that an image sees; (n,) int64, ascending."""
        rows = np.searchsorted(self.ids, image.seen)
        return rows[rows < len(self.ids)]


class Damaged(Exception):
    """What is wrong with a file, without its name."""


def kind(folder: Path) -> str:
    """bin or txt, whichever the folder's model is in; "" where there is none."""
    return next((kind for kind in ("bin", "txt") if (folder / f"cameras.{kind}").is_file()), "")


def read(folder: Path) -> Model:
    """The model in a folder. Stop names the file that is missing or damaged, and what is wrong in it."""
    cameras = read_part(folder, "cameras", CAMERAS[kind(folder)])
    images = read_images(folder)
    ids, points = read_part(folder, "points3D", POINTS[kind(folder)])
    model = Model(cameras, images, ids, points)
    for image in images:
        if image.camera not in cameras:
            at = folder / f"images.{kind(folder)}"
            raise Stop(f"{at} cannot be read: {image.name} is of camera {image.camera}, which cameras does not list")
        if len(ids) and not np.array_equal(ids[model.rows(image)], image.seen):
            at = folder / f"points3D.{kind(folder)}"
            raise Stop(f"{at} cannot be read: it lacks points that {image.name} sees, it may be truncated")
    refuse_other_cameras(folder, model)
    return model


def refuse_other_cameras(folder: Path, model: Model) -> None:
    """Stop: images see their points elsewhere than the cameras do. COLMAP's own are a pixel or two apart.

    Poses that are world from camera, with other axes or with the quaternion's w at its end, and intrinsics of another
    size give a model that reads well and trains a network on wrong cameras.
    """
    off = {image.name: share for image in model.images if (share := off_share(model, image)) > MOST_OFF}
    if off:
        name, share = max(off.items(), key=lambda item: item[1])
        of = f"{len(off)} of {len(model.images)} images see their points elsewhere than their cameras do"
        cause = f"{folder}: {of} ({name}: {min(share, 9.99):.0%} of its size away)"
        raise Stop(cause, "write poses as COLMAP does (camera from world, QW first), and intrinsics of the photographs")


def off_share(model: Model, image: Image) -> float:
    """How far from where an image sees its points its camera does: the median, as a share of the larger side.

    0 where it sees too few, or its program wrote no pixels but the same pair of numbers for all.
    """
    if not len(model.ids) or len(np.unique(image.pixels, axis=0)) < FEWEST_SEEN:
        return 0.0
    camera = model.cameras[image.camera]
    cam = model.points[model.rows(image)] @ image.cam_from_world[:, :3].T + image.cam_from_world[:, 3]
    off = np.linalg.norm(np.asarray(camera.img_from_cam(cam)) - image.pixels, axis=1)
    behind = (cam[:, 2] <= 0) & (not lens.is_panorama(camera))
    return float(np.median(np.where(behind | np.isnan(off), np.inf, off)) / max(camera.width, camera.height))


def read_images(folder: Path) -> list[Image]:
    """The images of a model alone, for its size."""
    return read_part(folder, "images", IMAGES[kind(folder)])


def read_part(folder: Path, part: str, read: Callable[[bytes], Value]) -> Value:
    path = folder / f"{part}.{kind(folder)}"
    if not path.is_file():
        raise Stop(f"{path} is missing: a COLMAP model is cameras, images and points3D")
    try:
        return read(path.read_bytes())
    except (Damaged, OSError, ValueError, OverflowError, struct.error) as error:
        cut = isinstance(error, struct.error)
        why = "it ends too early, it may be truncated" if cut else " ".join(str(error).split())[:200]
        raise Stop(f"{path} cannot be read: {why}", "export the model again, or copy it again") from error


# ---------------------------------------------------------------------------------------------- what both formats say


def new_camera(number: int, model: str, width_px: int, height_px: int, parameters: list[float]) -> Any:
    known = lens.parameter_counts()
    if model not in known:
        raise Damaged(f"camera {number} is of the model {model!r}, which is not one of {', '.join(known)}")
    if len(parameters) != known[model]:
        raise Damaged(f"camera {number} has {len(parameters)} parameters, a {model} has {known[model]}")
    if not (0 < width_px <= MOST_SIDE_PX and 0 < height_px <= MOST_SIDE_PX):
        raise Damaged(f"camera {number} has the impossible size {width_px} x {height_px}")
    if not 0 <= number < MOST_ID:
        raise Damaged(f"a camera has the impossible number {number}")
    camera = lens.camera(model, width_px, height_px, parameters)
    camera.camera_id = number
    if not all(map(math.isfinite, parameters)) or not min(lens.focal_px(camera)) > 0:
        raise Damaged(f"camera {number} has a parameter that is not a finite number, or a focal length of 0")
    return camera


def new_image(number: int, quaternion: list[float], translation: list[float], *rest: Any) -> Image:
    """quaternion: w, x, y, z of any length but 0. rest: name, camera, the keypoints' pixels (n, 2) and the ids of their
    points (-1: none).
    """
    name, camera, pixels, ids = rest
    if not Path(name).name:
        raise Damaged(f"image {number} is called {name!r}, which names no file")
    try:
        pose = rigid(quaternion, translation)
    except Damaged as error:
        raise Damaged(f"the pose of {name} is {error}") from error
    seen, first = np.unique(ids, return_index=True)
    return Image(number, name, camera, pose, seen[seen >= 0], pixels[first[seen >= 0]])


def rigid(quaternion: list[float], translation: list[float]) -> np.ndarray:
    """(3, 4) float64. quaternion: w, x, y, z of any length but 0."""
    w, x, y, z = quaternion
    length = math.hypot(w, x, y, z)
    if not (0 < length < math.inf) or not all(map(math.isfinite, translation)):
        raise Damaged("not finite, or no rotation")
    rotation = lens.pycolmap().Rotation3d(np.array([x, y, z, w]))
    if abs(length - 1) > 1e-12:  # written with fewer digits
        rotation.normalize()
    return np.concatenate([rotation.matrix(), np.array(translation)[:, None]], 1)


def keep_camera(found: dict[int, Any], camera: Any) -> None:
    """Damaged: another one has its number, as where two models were put one behind the other."""
    if found.setdefault(camera.camera_id, camera) != camera:
        raise Damaged(f"it lists two cameras with the number {camera.camera_id}")


def new_points(ids: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(ids, kind="stable")
    twins = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(other := twins[(points[order[twins]] != points[order[twins + 1]]).any(1)]):
        raise Damaged(f"it lists two points with the number {ids[order[other[0]]]}")
    if bad := int((~np.isfinite(points)).any(1).sum()):
        raise Damaged(f"it has {bad} points that are not finite")
    return ids[order], points[order]


# ---------------------------------------------------------------------------------------------- text


def lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1."""
    return enumerate(content.decode("utf-8", errors="surrogateescape").split("\n"), 1)


def text_cameras(content: bytes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for number, line in lines(content):
        words = line.split()
        if words and not line.startswith("#"):
            if len(words) < 4:
                raise Damaged(f"line {number} is not CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]")
            sizes = int(words[2]), int(words[3])
            keep_camera(found, new_camera(int(words[0]), words[1], *sizes, [float(word) for word in words[4:]]))
    return found


def text_images(content: bytes) -> list[Image]:
    """Two lines an image; the second, its keypoints, may be empty. The name is the rest of the first line."""
    found, numbered = [], iter(lines(content))
    for number, line in numbered:
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise Damaged(f"line {number} is not IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME")
        keypoints = next(numbered, (0, ""))[1].split()
        if len(keypoints) % 3:
            raise Damaged(f"line {number + 1} is not a list of X, Y, POINT3D_ID; it is empty where there are none")
        numbers, ids = [float(word) for word in words[1:8]], np.array(keypoints[2::3], dtype=np.int64)
        pixels = np.stack([np.array(keypoints[axis::3], dtype=np.float64) for axis in (0, 1)], 1)
        found.append(new_image(int(words[0]), numbers[:4], numbers[4:], words[9].strip(), int(words[8]), pixels, ids))
    return found


def text_points(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    ids, points = [], []
    for number, line in lines(content):
        words = line.split(maxsplit=4)
        if words and not line.startswith("#"):
            if len(words) < 4:
                raise Damaged(f"line {number} is not POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]")
            ids.append(int(words[0]))
            points.append([float(word) for word in words[1:4]])
    return new_points(np.array(ids, dtype=np.int64), np.array(points, dtype=np.float64).reshape(-1, 3))


# ---------------------------------------------------------------------------------------------- binary


class Cursor:
    """Takes little-endian values from bytes one after the other. struct.error: the bytes end before that."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self.content, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found

    def count(self, smallest_bytes: int) -> int:
        """A number of things that follow, each of at least so many bytes."""
        [count] = self.take("Q")
        if count * smallest_bytes > len(self.content) - self.at:
            raise Damaged(f"it says that {count} entries follow, more than its {len(self.content)} bytes can hold")
        return int(count)

    def text(self) -> str:
        end = self.content.find(b"\0", self.at)
        if end < 0:
            raise Damaged("a name has no end")
        start, self.at = self.at, end + 1
        return self.content[start:end].decode("utf-8", errors="surrogateescape")


def binary_cameras(content: bytes) -> dict[int, Any]:
    cursor, found = Cursor(content), dict[int, Any]()
    for _ in range(cursor.count(24)):
        number, model, width_px, height_px = cursor.take("IiQQ")
        name = lens.model_name(model)
        if name not in lens.parameter_counts():
            raise Damaged(f"camera {number} is of the model number {model}, which the installed pycolmap does not know")
        parameters = list(cursor.take(f"{lens.parameter_counts()[name]}d"))
        keep_camera(found, new_camera(number, name, width_px, height_px, parameters))
    return found


def binary_images(content: bytes) -> list[Image]:
    cursor, found = Cursor(content), []
    for _ in range(cursor.count(73)):
        number, *numbers, camera = cursor.take("I7dI")
        name = cursor.text()
        keypoints = np.frombuffer(content, POINT2D, cursor.count(POINT2D.itemsize), cursor.at)
        cursor.at += keypoints.nbytes
        found.append(new_image(number, numbers[:4], numbers[4:], name, camera, keypoints["pixel"], keypoints["id"]))
    return found


def binary_points(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    cursor, ids, points = Cursor(content), [], []
    for _ in range(cursor.count(51)):
        number, x, y, z, *_ = cursor.take("Q3d3Bd")
        track = cursor.count(8)  # pairs of image and keypoint
        cursor.at += 8 * track
        ids.append(number)
        points.append((x, y, z))
    return new_points(np.array(ids, dtype=np.int64), np.array(points, dtype=np.float64).reshape(-1, 3))


CAMERAS = {"txt": text_cameras, "bin": binary_cameras}
IMAGES = {"txt": text_images, "bin": binary_images}
POINTS = {"txt": text_points, "bin": binary_points}
