"""The stand-in data set of --demo: a procedural world in nuScenes' own format, which the official devkit loads.

Tables, map expansion 1.3, six cameras with near-real calibration and an ego pose of their own for every picture (up to
50 ms from the lidar's). Scenes carry official names, so the official split works; the held-out ones drive at a location
that no training scene visits. On purpose there are also a line without nodes, a self-crossing polygon and a scene of
one frame.
"""

import json
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from lib.recipes.llava_map import geometry, render
from lib.recipes.llava_map.roadmap import LOCATIONS
from lib.recipes.llava_map.stand_in_car import Rig, quaternion
from lib.recipes.llava_map.stand_in_tables import Size, World, token, write_text
from lib.recipes.llava_map.world import SITE_SPACING_M, Site, build_site

__all__ = ["VERSION", "Size", "write"]

VERSION = "v1.0-trainval"
FRAME_SECONDS = 0.5
REACH_M = 62.0  # the car stays this near to the middle of its site, or it would see the end of the road


def write(folder: Path, size: Size) -> None:
    """The whole data set into an empty folder; the same `size` gives the same bytes."""
    world = World(folder, size)
    scenes = size.scenes()
    rigs = {location: Rig(world, location) for location in LOCATIONS}
    for number, (name, location) in enumerate(scenes):
        place = sum(other == location for _, other in scenes[:number])
        add_scene(world, rigs[location], number, name, place)
    edge_m = SITE_SPACING_M * (max(len(scenes), 1) + 1)
    for location, expansion in world.maps.items():
        expansion.flaws()
        write_text(folder / "maps" / "expansion" / f"{location}.json", expansion.written(edge_m))
    for name, rows in world.tables.items():
        write_text(folder / VERSION / f"{name}.json", json.dumps(rows))


def described(gain: float) -> str:
    """As nuScenes states it; the darkest fifth of the drives is called night."""
    return "procedural stand-in" + (", night" if gain < 0.83 else "")


def add_scene(world: World, rig: Rig, number: int, name: str, place: int) -> None:
    """One drive through one site: map elements, tables and pictures. The third scene has a single frame."""
    rng = np.random.default_rng([world.size.seed, 100 + number])
    centre = (SITE_SPACING_M * (place + 0.5), SITE_SPACING_M / 2)
    site = build_site(rng, centre)
    world.maps[rig.location].site(site)
    ground, gain = render.paint(site, centre, rng), rng.uniform(0.75, 1.15)
    frames = 1 if number == 2 else world.size.frames
    samples = [token(world.size.seed, "sample", name, i) for i in range(frames)]
    scene = world.row(
        "scene", name, name=name, log_token=rig.log, nbr_samples=frames, description=described(gain),
        first_sample_token=samples[0], last_sample_token=samples[-1],
    )  # fmt: skip
    drive = Drive(site, rng, frames)
    for i, sample in enumerate(samples):
        beside = {"prev": samples[i - 1] if i else "", "next": samples[i + 1] if i + 1 < frames else ""}
        timestamp = int((1_000_000 + number * 1000 + i * FRAME_SECONDS) * 1e6)
        world.tables["sample"].append({"token": sample, "scene_token": scene, "timestamp": timestamp} | beside)
        add_sweep(world, rig, sample, "LIDAR_TOP", timestamp, drive.world_from_ego(i * FRAME_SECONDS))
        for channel, view in rig.views.items():
            late_us = int(rng.integers(-50_000, 1))
            world_from_ego = drive.world_from_ego(i * FRAME_SECONDS + late_us / 1e6)
            path = add_sweep(world, rig, sample, channel, timestamp + late_us, world_from_ego)
            save_jpeg(render.photograph(ground, view, world_from_ego, gain), world.folder / path)


class Drive:
    """Where the car is at a time: along its lane at a steady speed, with a small offset from the middle."""

    def __init__(self, site: Site, rng: np.random.Generator, frames: int):
        self.path = site.path
        self.speed_m_s = rng.uniform(4, 10)
        self.offset_m = rng.uniform(-0.3, 0.3)
        travelled_m = self.speed_m_s * FRAME_SECONDS * (frames - 1)
        middle_m = site.path.length / 2
        self.start_m = rng.uniform(middle_m - REACH_M, max(middle_m + REACH_M - travelled_m, middle_m - REACH_M + 1))

    def world_from_ego(self, seconds: float) -> np.ndarray:
        """The car's pose (4, 4), metres, so many seconds after the first frame."""
        at_m = self.start_m + self.speed_m_s * seconds
        here, ahead = shapely.get_coordinates(shapely.line_interpolate_point(self.path, [at_m, at_m + 0.5]))
        forward = (ahead - here) / np.hypot(*(ahead - here))
        x_m, y_m = here + self.offset_m * np.array([-forward[1], forward[0]])  # to the left
        return geometry.level(x_m, y_m, 0.0, np.arctan2(forward[1], forward[0]))


def add_sweep(world: World, rig: Rig, sample: str, channel: str, timestamp: int, world_from_ego: np.ndarray) -> str:
    """A sensor reading with an ego pose of its own; returns the file's relative path."""
    pose = world.row(
        "ego_pose", sample, channel, timestamp=timestamp, translation=world_from_ego[:3, 3].tolist(),
        rotation=quaternion(world_from_ego),
    )  # fmt: skip
    ending = "pcd" if channel == "LIDAR_TOP" else "jpg"
    width_px, height_px = (0, 0) if channel == "LIDAR_TOP" else rig.size_px
    path = f"samples/{channel}/{sample}__{channel}__{timestamp}.{'pcd.bin' if ending == 'pcd' else ending}"
    world.row(
        "sample_data", sample, channel, sample_token=sample, ego_pose_token=pose,
        calibrated_sensor_token=rig.calibrated[channel], timestamp=timestamp, fileformat=ending, is_key_frame=True,
        width=width_px, height=height_px, filename=path, prev="", next="",
    )  # fmt: skip
    return path


def save_jpeg(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=85)
