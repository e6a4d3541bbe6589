"""The two road tasks that the demo's base learns (pretrain.py), on worlds drawn from another seed than the demo's.

In the picture: which cells a visible line of each class passes through. On the ground: the same, seen from above, ahead
of each camera.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from lib import recipes
from lib.core import config as settings
from lib.recipes.llava_map import geometry, polylines, stand_in
from lib.recipes.llava_map.classes import CLASSES
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.roadmap import LOCATIONS, RoadMap, Vector
from lib.recipes.llava_map.tables import CAMERAS, Frame, read_frames

SEED = 1007  # of the worlds; the demo's is Size.seed of stand_in_tables.py
TRAIN_SCENES, VAL_SCENES, FRAMES = 110, 10, 6
REACH_M = 36.0  # lines are taken from so far around the car
CELL_PX = 4  # of the encoder's answer: a quarter of its stride
SEEN_M = 45.0  # farther lines are not asked for
ASIDE_M, AHEAD_M = 16.0, 40.0  # the Q-Former's ground, seen from the camera: to both sides, and ahead
CELL_M = (2.0, 0.5)  # ahead, aside
POINT_M = 0.15  # between the points that mark cells


def samples(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (frames, 6, 3, h, w) uint8 of a generated data set, and for both tasks where the lines of each class
    are, bool. A filled folder is used again.
    """
    if not (folder / stand_in.VERSION).exists():
        stand_in.write(folder, stand_in.Size(TRAIN_SCENES, VAL_SCENES, FRAMES, seed=SEED))
    maps = {name: RoadMap.read(folder / "maps" / "expansion" / f"{name}.json") for name in LOCATIONS}
    config = demo_config()
    found = []
    for frame in read_frames(folder, stand_in.VERSION)[0]:
        x_m, y_m = frame.world_from_bev[:2, 3]
        yaw = geometry.yaw_rad(frame.world_from_bev)
        vectors = maps[frame.location].vectors(x_m, y_m, yaw, (REACH_M, REACH_M))
        found.append((read(config, folder, frame), *answers(config, frame, vectors)))
    pictures, in_picture, on_ground = (np.stack(arrays) for arrays in zip(*found, strict=True))
    return pictures, in_picture, on_ground


def demo_config() -> Config:
    made: Config = settings.compose(recipes.load("llava_map"), "stage2", True, "full", {})[0]
    return made


def read(config: Config, folder: Path, frame: Frame) -> np.ndarray:
    """The six pictures at the demo's size: (6, 3, height, width) uint8."""
    size_px = (config.data.width_px, config.data.height_px)
    pictures = [
        np.asarray(Image.open(folder / camera.filename).resize(size_px, Image.Resampling.BILINEAR))
        for camera in frame.cameras
    ]
    return np.stack(pictures).transpose(0, 3, 1, 2)


def answers(config: Config, frame: Frame, vectors: list[Vector]) -> tuple[np.ndarray, np.ndarray]:
    """Cells that a visible line of a class passes through, bool.

    (6, 3, rows, columns) in the picture, (6, 3, ahead, aside) on the ground.
    """
    width_px, height_px = config.data.width_px, config.data.height_px
    views = (len(CAMERAS), len(CLASSES))
    in_picture = np.zeros((*views, height_px // CELL_PX, width_px // CELL_PX), bool)
    on_ground = np.zeros((*views, round(AHEAD_M / CELL_M[0]), round(2 * ASIDE_M / CELL_M[1])), bool)
    for vector in vectors:
        count = max(2, int(polylines.length_m(vector.vertices) / POINT_M))
        points = geometry.on_ground(polylines.resample(vector.vertices, count))
        for view, (camera, bev_from_cam) in enumerate(zip(frame.cameras, frame.bev_from_cam(), strict=True)):
            intrinsics = geometry.scaled(camera.intrinsics, width_px / camera.width_px, height_px / camera.height_px)
            cam = geometry.transform(geometry.inverse(bev_from_cam), points)
            pixels, depth_m, seen = geometry.project(cam, intrinsics, width_px, height_px)
            column, row = (pixels[seen & (depth_m < SEEN_M)] / CELL_PX).astype(int).T
            in_picture[view, vector.label, row, column] = True
            near = cam[seen & (depth_m < AHEAD_M) & (np.abs(cam[:, 0]) < ASIDE_M)]
            ahead, aside = (near[:, 2] / CELL_M[0]).astype(int), ((near[:, 0] + ASIDE_M) / CELL_M[1]).astype(int)
            on_ground[view, vector.label, ahead, aside] = True
    return in_picture, on_ground
