"""The stand-in data set of --demo: a procedural world in the real nuScenes format, which the official devkit loads unchanged.

Tables, map expansion 1.3, six cameras with near-real calibration and an ego pose of their own for every picture (up to
50 ms from the lidar's). Scenes carry official names, so the official split works; the held-out ones drive at a location
that no training scene visits. On purpose there are also a line without nodes, a self-crossing polygon and a scene of one frame.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely

from lib.recipes.llava_map import geometry, render
from lib.recipes.llava_map.roadmap import LOCATIONS
from lib.recipes.llava_map.splits import OFFICIAL
from lib.recipes.llava_map.world import SITE_SPACING_M, Site, build_site

VERSION = "v1.0-trainval"
FULL_PX = (1600, 900)
FRAME_SECONDS = 0.5
REACH_M = 62.0  # the car stays this near to the middle of its site, or it would see the end of the road
LIDAR = ((0.94, 0.0, 1.84), -89.9)

# Channel -> position in the ego frame (m), yaw of the optical axis (degrees, left is positive), focal length and centre (px).
CAMERAS = {
    "CAM_FRONT": ((1.70, 0.02, 1.51), 0.3, (1266, 816, 492)),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -56.4, (1261, 808, 495)),
    "CAM_FRONT_LEFT": ((1.52, 0.49, 1.51), 55.2, (1273, 827, 480)),
    "CAM_BACK": ((0.03, 0.00, 1.58), 179.9, (809, 829, 482)),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.59), 108.6, (1257, 792, 493)),
    "CAM_BACK_RIGHT": ((1.01, -0.48, 1.56), -110.8, (1260, 807, 501)),
}


@dataclass(frozen=True)
class Size:
    """How much world there is; the text of this record names the stand-in's version."""

    train_scenes: int
    val_scenes: int
    frames: int
    image_scale: float = 0.25  # of 1600 x 900
    seed: int = 7

    def scenes(self) -> list[tuple[str, str]]:
        """(scene name, location): validation drives at the last location, training at the others."""
        names = [(name, LOCATIONS[i % 3]) for i, name in enumerate(OFFICIAL["train"][: self.train_scenes])]
        return names + [(name, LOCATIONS[3]) for name in OFFICIAL["val"][: self.val_scenes]]


@dataclass
class Expansion:
    """A map expansion file in the making."""

    location: str
    tables: dict = field(default_factory=lambda: {name: [] for name in LAYERS} | {"arcline_path_3": {}, "connectivity": {}})

    def add(self, table: str, **values) -> str:
        name = token(self.location, table, len(self.tables[table]))
        self.tables[table].append({"token": name} | values)
        return name

    def nodes(self, coordinates) -> list[str]:
        return [self.add("node", x=float(x), y=float(y)) for x, y in coordinates]

    def line(self, layer: str, geometry) -> None:
        self.add(layer, line_token=self.add("line", node_tokens=self.nodes(geometry.coords)))

    def polygon(self, area) -> str:
        holes = [{"node_tokens": self.nodes(ring.coords[:-1])} for ring in area.interiors]
        return self.add("polygon", exterior_node_tokens=self.nodes(area.exterior.coords[:-1]), holes=holes)

    def site(self, site: Site) -> None:
        for area in site.segments:
            self.add("road_segment", polygon_token=self.polygon(area), is_intersection=False)
        for area in site.intersections:
            self.add("road_segment", polygon_token=self.polygon(area), is_intersection=True)
        for area in site.lanes:
            self.add("lane", polygon_token=self.polygon(area), left_lane_divider_segments=[], right_lane_divider_segments=[])
        for area in site.crossings:
            self.add("ped_crossing", polygon_token=self.polygon(area), road_segment_token="")
        for layer, lines in (("road_divider", site.centre_lines), ("lane_divider", site.lane_lines)):
            for line in lines:
                self.line(layer, line)
        self.add("drivable_area", polygon_tokens=[self.polygon(area) for area in shapely.get_parts(site.road)])

    def flaws(self) -> None:
        """What real files contain: a line without nodes and a polygon that crosses itself."""
        self.add("lane_divider", line_token=self.add("line", node_tokens=[]))
        bow_tie = self.nodes([(0, 0), (4, 4), (4, 0), (0, 4)])
        self.add("ped_crossing", polygon_token=self.add("polygon", exterior_node_tokens=bow_tie, holes=[]), road_segment_token="")

    def written(self, edge_m: float) -> str:
        return json.dumps({"version": "1.3", "canvas_edge": [edge_m, edge_m]} | self.tables)


LAYERS = (
    "polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane", "ped_crossing", "walkway", "stop_line",
    "carpark_area", "road_divider", "lane_divider", "traffic_light", "lane_connector",
)  # fmt: skip


def token(*words) -> str:
    return hashlib.md5("/".join(map(str, words)).encode()).hexdigest()


@dataclass
class World:
    """The tables that grow scene by scene, and the maps of all locations."""

    folder: Path
    size: Size
    tables: dict = field(default_factory=lambda: {name: [] for name in TABLES})
    maps: dict = field(default_factory=lambda: {location: Expansion(location) for location in LOCATIONS})

    def row(self, table: str, *words, **values) -> str:
        name = token(self.size.seed, table, *words)
        self.tables[table].append({"token": name} | values)
        return name


TABLES = (
    "category", "attribute", "visibility", "instance", "sample_annotation", "sensor", "calibrated_sensor", "ego_pose", "log", "map",
    "scene", "sample", "sample_data",
)  # fmt: skip


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


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Rig:
    """The car of a location: a log, its calibration (a little off, as every car's) and what its cameras' pixels hit."""

    def __init__(self, world: World, location: str):
        rng = np.random.default_rng([world.size.seed, LOCATIONS.index(location)])
        self.location = location
        self.log = world.row("log", location, location=location, logfile=f"stand-in-{location}", vehicle="n000", date_captured="2026-01-01")
        picture = f"maps/{location}.png"
        world.row("map", location, log_tokens=[self.log], filename=picture, category="semantic_prior")
        write_text(world.folder / picture, "")
        self.size_px = tuple(round(side * world.size.image_scale) for side in FULL_PX)
        self.views, self.calibrated = {}, {"LIDAR_TOP": self.calibrate(world, "LIDAR_TOP", "lidar", *LIDAR_POSE, [])}
        for channel, (position_m, yaw_deg, optics) in CAMERAS.items():
            ego_from_cam = camera_pose(
                np.add(position_m, rng.uniform(-0.02, 0.02, 3)), yaw_deg + rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)
            )
            intrinsics = pinhole(optics, self.size_px)
            self.views[channel] = render.look(ego_from_cam, intrinsics, *self.size_px)
            pose = ego_from_cam[:3, 3].tolist(), quaternion(ego_from_cam)
            self.calibrated[channel] = self.calibrate(world, channel, "camera", *pose, intrinsics.tolist())

    def calibrate(self, world: World, channel: str, modality: str, translation, rotation, intrinsics) -> str:
        sensors = {row["channel"]: row["token"] for row in world.tables["sensor"]}
        sensor = sensors.get(channel) or world.row("sensor", channel, channel=channel, modality=modality)
        values = {"translation": list(translation), "rotation": list(rotation), "camera_intrinsic": intrinsics}
        return world.row("calibrated_sensor", self.location, channel, sensor_token=sensor, **values)


def camera_pose(position_m, yaw_deg: float, pitch_deg: float) -> np.ndarray:
    """ego_from_cam: optical axis at `yaw_deg` in the ego frame (x forward), looking down by `pitch_deg`."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    level = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # ego axes from camera axes, looking ahead
    matrix[:3, :3] = Rotation.from_euler("zy", [yaw_deg, pitch_deg], degrees=True).as_matrix() @ level
    matrix[:3, 3] = position_m
    return matrix


def pinhole(optics: tuple[float, float, float], size_px: tuple[int, int]) -> np.ndarray:
    focal_px, x_px, y_px = optics
    full = np.array([[focal_px, 0, x_px], [0, focal_px, y_px], [0, 0, 1.0]])
    return geometry.scaled(full, size_px[0] / FULL_PX[0], size_px[1] / FULL_PX[1])


def quaternion(matrix: np.ndarray) -> list[float]:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(matrix[:3, :3]).as_quat(scalar_first=True).tolist()


LIDAR_POSE = (LIDAR[0], quaternion(geometry.level(0, 0, 0, np.radians(LIDAR[1]))))


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
        "scene", name, name=name, log_token=rig.log, nbr_samples=frames, description="procedural stand-in",
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
        at_m = self.start_m + self.speed_m_s * seconds
        here, ahead = shapely.get_coordinates(shapely.line_interpolate_point(self.path, [at_m, at_m + 0.5]))
        forward = (ahead - here) / np.hypot(*(ahead - here))
        left = np.array([-forward[1], forward[0]])
        return geometry.level(*(here + self.offset_m * left), 0.0, np.arctan2(forward[1], forward[0]))


def add_sweep(world: World, rig: Rig, sample: str, channel: str, timestamp: int, world_from_ego: np.ndarray) -> str:
    """A sensor reading with an ego pose of its own; returns the file's relative path."""
    pose = world.row(
        "ego_pose", sample, channel, timestamp=timestamp, translation=world_from_ego[:3, 3].tolist(), rotation=quaternion(world_from_ego)
    )
    camera = channel != "LIDAR_TOP"
    width_px, height_px = rig.size_px if camera else (0, 0)
    path = f"samples/{channel}/{sample}__{channel}__{timestamp}.{'jpg' if camera else 'pcd.bin'}"
    world.row(
        "sample_data", sample, channel, sample_token=sample, ego_pose_token=pose, calibrated_sensor_token=rig.calibrated[channel],
        timestamp=timestamp, fileformat="jpg" if camera else "pcd", is_key_frame=True, width=width_px, height=height_px,
        filename=path, prev="", next="",
    )  # fmt: skip
    return path


def save_jpeg(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=85)
