"""Tables and map expansions of the stand-in data set, in the nuScenes format."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely

from lib.recipes.llava_map.roadmap import LOCATIONS
from lib.recipes.llava_map.splits import OFFICIAL
from lib.recipes.llava_map.world import Site

LAYERS = (
    "polygon", "line", "node", "drivable_area", "road_segment", "road_block", "lane", "ped_crossing", "walkway",
    "stop_line", "carpark_area", "road_divider", "lane_divider", "traffic_light", "lane_connector",
)  # fmt: skip
ARC_M, CONNECTOR_M = 0.1, 3.0  # how near arcs are to the middle of a lane; width of a connector
TABLES = (
    "category", "attribute", "visibility", "instance", "sample_annotation", "sensor", "calibrated_sensor", "ego_pose",
    "log", "map", "scene", "sample", "sample_data",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much world there is."""

    train_scenes: int
    val_scenes: int
    frames: int
    image_scale: float = 0.25  # of 1600 x 900
    seed: int = 7

    def scenes(self) -> list[tuple[str, str]]:
        """(scene name, location): validation drives at the last location, training at the others."""
        names = [(name, LOCATIONS[i % 3]) for i, name in enumerate(OFFICIAL["train"][: self.train_scenes])]
        return names + [(name, LOCATIONS[3]) for name in OFFICIAL["val"][: self.val_scenes]]


def empty_layers() -> dict[str, Any]:
    layers: dict[str, Any] = {name: [] for name in LAYERS}
    return layers | {"arcline_path_3": {}, "connectivity": {}}


@dataclass
class Expansion:
    """A map expansion file in the making. Geometries are in world metres."""

    location: str
    tables: dict[str, Any] = field(default_factory=empty_layers)

    def add(self, table: str, **values: Any) -> str:
        name = token(self.location, table, len(self.tables[table]))
        self.tables[table].append({"token": name} | values)
        return name

    def nodes(self, coordinates: Iterable[tuple[float, float]]) -> list[str]:
        return [self.add("node", x=float(x), y=float(y)) for x, y in coordinates]

    def line(self, layer: str, geometry: shapely.LineString) -> None:
        self.add(layer, line_token=self.add("line", node_tokens=self.nodes(geometry.coords)))

    def polygon(self, area: shapely.Polygon) -> str:
        holes = [{"node_tokens": self.nodes(ring.coords[:-1])} for ring in area.interiors]
        return self.add("polygon", exterior_node_tokens=self.nodes(area.exterior.coords[:-1]), holes=holes)

    def site(self, site: Site) -> None:
        for area in site.segments:
            self.add("road_segment", polygon_token=self.polygon(area), is_intersection=False)
        for area in site.intersections:
            self.add("road_segment", polygon_token=self.polygon(area), is_intersection=True)
        no_dividers: dict[str, Any] = {"left_lane_divider_segments": [], "right_lane_divider_segments": []}
        lanes = [self.add("lane", polygon_token=self.polygon(area), **no_dividers) for area in site.lanes]
        self.lane_graph(site, lanes)
        for area in site.crossings:
            self.add("ped_crossing", polygon_token=self.polygon(area), road_segment_token="")
        for layer, lines in (("road_divider", site.centre_lines), ("lane_divider", site.lane_lines)):
            for line in lines:
                self.line(layer, line)
        self.add("drivable_area", polygon_tokens=[self.polygon(area) for area in shapely.get_parts(site.road)])

    def lane_graph(self, site: Site, lanes: list[str]) -> None:
        """The middle of every lane, and a connector across each gap between two stretches of one. lanes: tokens."""
        for lane, line in zip(lanes, site.middles, strict=True):
            self.middle(lane, line.simplify(ARC_M))
        for one, other in site.joints:
            across = shapely.LineString([site.middles[one].coords[-1], site.middles[other].coords[0]])
            outline = self.polygon(across.buffer(CONNECTOR_M / 2, cap_style="flat"))
            connector = self.add("lane_connector", polygon_token=outline)
            self.middle(connector, across)
            for before, after in ((lanes[one], connector), (connector, lanes[other])):
                self.tables["connectivity"][before]["outgoing"].append(after)
                self.tables["connectivity"][after]["incoming"].append(before)

    def middle(self, lane: str, line: shapely.LineString) -> None:
        """A line as nuScenes' arcs, each of them straight; none where it is empty."""
        paths = []
        for (x_m, y_m), end in itertools.pairwise(line.coords):
            ahead_m, aside_m = end[0] - x_m, end[1] - y_m
            heading, length_m = math.atan2(aside_m, ahead_m), math.hypot(ahead_m, aside_m)
            poses = {"start_pose": [x_m, y_m, heading], "end_pose": [*end, heading]}
            paths.append(poses | {"shape": "LSL", "radius": 100.0, "segment_length": [0.0, length_m, 0.0]})
        self.tables["arcline_path_3"][lane] = paths
        self.tables["connectivity"][lane] = {"incoming": [], "outgoing": []}

    def flaws(self) -> None:
        """What real files contain: a line without nodes and a polygon that crosses itself."""
        self.add("lane_divider", line_token=self.add("line", node_tokens=[]))
        bow_tie = self.add("polygon", exterior_node_tokens=self.nodes([(0, 0), (4, 4), (4, 0), (0, 4)]), holes=[])
        self.add("ped_crossing", polygon_token=bow_tie, road_segment_token="")

    def written(self, edge_m: float) -> str:
        return json.dumps({"version": "1.3", "canvas_edge": [edge_m, edge_m]} | self.tables)


def empty_tables() -> dict[str, list[dict[str, Any]]]:
    return {name: [] for name in TABLES}


def empty_maps() -> dict[str, Expansion]:
    return {location: Expansion(location) for location in LOCATIONS}


@dataclass
class World:
    """The tables that grow scene by scene, and the maps of all locations."""

    folder: Path
    size: Size
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=empty_tables)
    maps: dict[str, Expansion] = field(default_factory=empty_maps)

    def row(self, table: str, *words: object, **values: Any) -> str:
        """Adds a row to a table and returns its token, which the words make."""
        name = token(self.size.seed, table, *words)
        self.tables[table].append({"token": name} | values)
        return name


def token(*words: object) -> str:
    return hashlib.md5("/".join(map(str, words)).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
