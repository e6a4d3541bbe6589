"""What step 3 keeps of a frame: `<scene>/<token>.npz` (cameras and map lines) and `<scene>/<token>/<channel>.jpg`.

The .npz has no pickle in it and holds

    labels (lines,) int64           class of each line, an index into the names of classes.py
    vertices (all vertices, 2)      of all lines one after another: metres, `bev` frame, float64
    ends (lines,) int64             where each line ends in them
    intrinsics (6, 3, 3)            in pixels of the kept pictures, float64
    bev_from_cam (6, 4, 4)          each camera at its own time, metres, float64
"""

from pathlib import Path

import numpy as np
from PIL import Image

from lib.core.hashes import checked
from lib.core.run import atomic
from lib.data import pictures
from lib.recipes.llava_map import geometry
from lib.recipes.llava_map.roadmap import Vector
from lib.recipes.llava_map.tables import CAMERAS, Camera, Frame


def write_arrays(path: Path, frame: Frame, vectors: list[Vector], size_px: tuple[int, int]) -> None:
    """Cameras and lines of a frame whose pictures are kept at size_px (width, height)."""
    lengths = [len(vector.vertices) for vector in vectors]
    intrinsics = [
        geometry.scaled(camera.intrinsics, size_px[0] / camera.width_px, size_px[1] / camera.height_px)
        for camera in frame.cameras
    ]
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            labels=np.array([vector.label for vector in vectors], np.int64),
            ends=np.cumsum(lengths, dtype=np.int64),
            vertices=np.concatenate([vector.vertices for vector in vectors]) if vectors else np.zeros((0, 2)),
            intrinsics=np.stack(intrinsics),
            bev_from_cam=frame.bev_from_cam(),
        )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a frame by name. FileNotFoundError where step 3 has not written them."""
    with np.load(checked(path), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def lines_of(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The uncut polylines of a frame, which evaluation compares with: each (vertices, 2), metres."""
    return np.split(arrays["vertices"], arrays["ends"][:-1]) if len(arrays["ends"]) else []


def resized(root: Path, camera: Camera, size_px: tuple[int, int]) -> Image.Image:
    """A camera's picture at size_px (width, height). Unreadable: why it cannot be used.

    Pixels as they are stored, because the cameras were measured on them. The decoder halves large JPEGs by itself,
    which saves most of the time. A picture of another shape than its table says was cropped or turned, and no
    intrinsics fit it.
    """
    picture = pictures.read(root / camera.filename, upright=False, at_least=size_px)
    off = picture.width * camera.height_px - picture.height * camera.width_px
    if abs(off) > camera.width_px + camera.height_px:  # more than a pixel, which a reduced decoding rounds
        told = f"sample_data.json says {camera.width_px} x {camera.height_px}"
        raise pictures.Unreadable(f"it is {picture.width / picture.height:.3f} times as wide as high, and {told}")
    return picture.resize(size_px, Image.Resampling.BILINEAR, reducing_gap=2.0)


def read_pictures(folder: Path) -> np.ndarray:
    """The six pictures of a frame, (6, 3, height, width) uint8, in the order of CAMERAS."""
    kept = [np.asarray(Image.open(checked(folder / f"{channel}.jpg"))) for channel in CAMERAS]
    return np.stack(kept).transpose(0, 3, 1, 2)
