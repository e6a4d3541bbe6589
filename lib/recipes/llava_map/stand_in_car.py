"""The car of the stand-in data set: its sensors near nuScenes' real calibration, and what its cameras see."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.recipes.llava_map import geometry, render
from lib.recipes.llava_map.roadmap import LOCATIONS
from lib.recipes.llava_map.stand_in_tables import World, write_text

FULL_PX = (1600, 900)
LIDAR = ((0.94, 0.0, 1.84), -89.9)  # position in the ego frame (m), yaw (degrees)

# Channel -> position in the ego frame (m), yaw of the optical axis (degrees, left is positive), focal length and centre
# of the picture (px).
CAMERAS = {
    "CAM_FRONT": ((1.70, 0.02, 1.51), 0.3, (1266, 816, 492)),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -56.4, (1261, 808, 495)),
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 55.2, (1273, 827, 480)),
    "CAM_BACK": ((0.03, 0.00, 1.58), 179.9, (809, 829, 482)),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.59), 108.6, (1257, 792, 493)),
    "CAM_BACK_RIGHT": ((1.01, -0.48, 1.56), -110.8, (1260, 807, 501)),
}


class Rig:
    """The car of a location: a log, its calibration (a little off, as every car's) and what its cameras' pixels hit."""

    def __init__(self, world: World, location: str):
        rng = np.random.default_rng([world.size.seed, LOCATIONS.index(location)])
        self.location = location
        self.log = world.row(
            "log", location, location=location, logfile=f"stand-in-{location}", vehicle="n000",
            date_captured="2026-01-01",
        )  # fmt: skip
        picture = f"maps/{location}.png"
        world.row("map", location, log_tokens=[self.log], filename=picture, category="semantic_prior")
        write_text(world.folder / picture, "")
        self.size_px = (round(FULL_PX[0] * world.size.image_scale), round(FULL_PX[1] * world.size.image_scale))
        self.calibrated = {"LIDAR_TOP": self.calibrate(world, "LIDAR_TOP", "lidar", lidar_pose(), [])}
        self.views: dict[str, render.View] = {}
        for channel, (position_m, yaw_deg, optics) in CAMERAS.items():
            ego_from_cam = camera_pose(
                np.add(position_m, rng.uniform(-0.02, 0.02, 3)),
                yaw_deg + rng.uniform(-0.5, 0.5),
                rng.uniform(-0.5, 0.5),
            )
            intrinsics = pinhole(optics, self.size_px)
            self.views[channel] = render.view_of(ego_from_cam, intrinsics, *self.size_px)
            self.calibrated[channel] = self.calibrate(world, channel, "camera", ego_from_cam, intrinsics.tolist())

    def calibrate(self, world: World, channel: str, modality: str, pose: np.ndarray, intrinsics: list[Any]) -> str:
        """Token of the row for a sensor of this car at `pose` (4, 4) in the ego frame."""
        sensors = {row["channel"]: row["token"] for row in world.tables["sensor"]}
        sensor = sensors.get(channel) or world.row("sensor", channel, channel=channel, modality=modality)
        return world.row(
            "calibrated_sensor", self.location, channel, sensor_token=sensor, translation=pose[:3, 3].tolist(),
            rotation=quaternion(pose), camera_intrinsic=intrinsics,
        )  # fmt: skip


def lidar_pose() -> np.ndarray:
    """ego_from_lidar, (4, 4) in metres."""
    (x_m, y_m, z_m), yaw_deg = LIDAR
    return geometry.level(x_m, y_m, z_m, np.radians(yaw_deg))


def camera_pose(position_m: np.ndarray, yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """ego_from_cam: optical axis at `yaw_deg` in the ego frame (x forward), looking down by `pitch_deg`."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    level = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # ego axes from camera axes, looking ahead
    matrix[:3, :3] = Rotation.from_euler("zy", [yaw_deg, pitch_deg], degrees=True).as_matrix() @ level
    matrix[:3, 3] = position_m
    return matrix


def pinhole(optics: Sequence[float], size_px: tuple[int, int]) -> np.ndarray:
    """Intrinsics (3, 3) of a picture of size_px (width, height) from focal length and centre at FULL_PX."""
    focal_px, x_px, y_px = optics
    full = np.array([[focal_px, 0, x_px], [0, focal_px, y_px], [0, 0, 1.0]])
    return geometry.scaled(full, size_px[0] / FULL_PX[0], size_px[1] / FULL_PX[1])


def quaternion(matrix: np.ndarray) -> list[float]:
    """(w, x, y, z) of a pose (4, 4)."""
    from scipy.spatial.transform import Rotation

    found: list[float] = Rotation.from_matrix(matrix[:3, :3]).as_quat(scalar_first=True).tolist()
    return found
