"""Map expansion files (nuScenes map expansion 1.3) and the map vectors around a car, in MapTR's protocol.

The official devkit walks all records of a layer for every patch; here each layer is one array of geometries with one
search tree, and everything after the cut happens in the car's own axis-aligned frame.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from lib.core.errors import Stop
from lib.recipes.llava_map import fields, lanes
from lib.recipes.llava_map.fields import METRES, TEXT, TEXTS

LOCATIONS = ("boston-seaport", "singapore-hollandvillage", "singapore-onenorth", "singapore-queenstown")
LINE_LAYERS = ("road_divider", "lane_divider")
ROAD_LAYERS = ("road_segment", "lane")
CROSSING_LAYER = "ped_crossing"
LINE, POLYGON = 1, 3  # shapely.GeometryType
Table = dict[str, dict[str, Any]]  # token -> record
Vertex = tuple[float, float]  # metres

# What is read of each layer's records.
LINE_OF, POLYGON_OF, HOLE = {"line_token": TEXT}, {"polygon_token": TEXT}, {"node_tokens": TEXTS}
KINDS = {
    "node": {"token": TEXT, "x": METRES, "y": METRES},
    "line": {"token": TEXT, "node_tokens": TEXTS},
    "polygon": {"token": TEXT, "exterior_node_tokens": TEXTS, "holes": fields.LIST},
    CROSSING_LAYER: POLYGON_OF,
    **dict.fromkeys(LINE_LAYERS, LINE_OF),
    **dict.fromkeys(ROAD_LAYERS, POLYGON_OF),
}
# And of lanes, where their centre lines are wanted: some connectors have no polygon. The graph's two are by lane.
LANE = {"token": TEXT, "polygon_token": fields.TEXT_OR_NOTHING}
LANE_LAYERS, GRAPH = ("lane", "lane_connector"), ("arcline_path_3", "connectivity")
EDGE_M = 0.2  # crossings are cut this much outside the region, boundaries inside: its own edge is not a boundary


@dataclass(frozen=True)
class Vector:
    """One map element: class index into the names of classes.py and its vertices (n, 2) in metres, `bev` frame."""

    label: int
    vertices: np.ndarray


class Layer:
    """Geometries of a layer with their search tree."""

    def __init__(self, geometries: list[shapely.Geometry]):
        self.geometries = np.array(geometries, dtype=object)
        self.tree = shapely.STRtree(self.geometries)

    def near(self, patch: shapely.Geometry) -> np.ndarray:
        """The numbers of the geometries that meet a patch, in the order of the file: (n,) int."""
        found: np.ndarray = np.sort(self.tree.query(patch, predicate="intersects"))
        return found


class RoadMap:
    """The layers of one location that carry map vectors."""

    def __init__(
        self,
        lines: list[shapely.Geometry],
        crossings: list[shapely.Geometry],
        roads: list[shapely.Geometry],
        graph: lanes.Lanes = lanes.NONE,
    ):
        self.lines, self.crossings, self.roads = Layer(lines), Layer(crossings), Layer(roads)
        self.lanes, self.graph = Layer(graph.middles), graph

    @classmethod
    def read(cls, path: Path, centreline: bool = False) -> "RoadMap":
        """The map of a location, and with its centre lines where they are wanted. Stop where the file is missing, of an
        older version, broken or incomplete.
        """
        tables = read_expansion(path, centreline)
        nodes = {token: (node["x"], node["y"]) for token, node in by_token(path, tables, "node", KINDS["node"]).items()}
        outlines, lines = (by_token(path, tables, layer, KINDS[layer]) for layer in ("polygon", "line"))

        def pointed(layer: str, key: str, others: Table) -> list[dict[str, Any]]:
            return [lookup(others, record[key], path, layer) for record in checked(path, tables, layer, KINDS[layer])]

        def line_layer(layer: str) -> list[shapely.Geometry]:
            found = (at(line["node_tokens"], nodes, path) for line in pointed(layer, "line_token", lines))
            return [shapely.LineString(vertices) for vertices in found if len(vertices) > 1]

        def polygon_layer(layer: str) -> list[shapely.Geometry]:
            found = (polygon(record, nodes, path) for record in pointed(layer, "polygon_token", outlines))
            return [area for area in found if area is not None]

        return cls(
            [line for layer in LINE_LAYERS for line in line_layer(layer)],
            polygon_layer(CROSSING_LAYER),
            [area for layer in ROAD_LAYERS for area in polygon_layer(layer)],
            lane_graph(path, tables, outlines, nodes) if centreline else lanes.NONE,
        )

    def share_on_roads(self, places: np.ndarray, near_m: float) -> float:
        """How many of some places (n, 2) in world metres lie on a road or lane, or so near one, as a share."""
        there = self.roads.tree.query(shapely.points(places), predicate="dwithin", distance=near_m)[0]
        return len(np.unique(there)) / len(places)

    def vectors(self, x_m: float, y_m: float, yaw: float, half_extent_m: tuple[float, float]) -> list[Vector]:
        """Map vectors around a world position (metres, yaw in radians): class after class, as classes.py lists them."""
        width_m, length_m = half_extent_m
        patch = shapely.box(-width_m, -length_m, width_m, length_m)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])  # world from bev
        origin = np.array([x_m, y_m])
        world_patch = shapely.transform(patch, lambda points: points @ turn.T + origin)

        def local(layer: Layer) -> np.ndarray:
            near = layer.geometries[layer.near(world_patch)]
            shapes: np.ndarray = shapely.transform(near, lambda points: (points - origin) @ turn)
            return shapes

        dividers = pieces(shapely.intersection(local(self.lines), patch))
        crossings = outlines_within(local(self.crossings), patch, shapely.box(*grown(half_extent_m, EDGE_M)))
        boundaries = outlines_within(local(self.roads), patch, shapely.box(*grown(half_extent_m, -EDGE_M)))
        here = [self.graph.tokens[number] for number in self.lanes.near(world_patch)]
        ways = lanes.ways_within(here, local(self.lanes), patch, self.graph.followers)
        classes = (dividers, crossings, boundaries, ways)
        return [Vector(label, line) for label, lines in enumerate(classes) for line in lines]


HOW_TO_GET = (
    "download 'Map expansion pack v1.3' from https://www.nuscenes.org/nuscenes and unzip it into <data root>/maps"
)


def read_expansion(path: Path, centreline: bool) -> dict[str, Any]:
    """The JSON tables; version 1.3 is asked for because older packs lack layers and differ in geometry."""
    if not path.exists():
        raise Stop(f"{path} is missing: the map expansion is a download of its own, also for v1.0-mini", HOW_TO_GET)
    try:
        tables = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Stop(f"{path} is not readable JSON: {error}", HOW_TO_GET) from error
    if not isinstance(tables, dict):
        raise Stop(f"{path} holds {fields.shown(tables)}, not the layers of a map", HOW_TO_GET)
    if str(tables.get("version", "1.0")) < "1.3":
        version = fields.shown(tables.get("version", "older than 1.1"))
        raise Stop(f"{path} is map expansion version {version}, and 1.3 is needed", HOW_TO_GET)
    for layer in (*KINDS, *(LANE_LAYERS + GRAPH if centreline else ())):
        kind, words = (dict, "a JSON object") if layer in GRAPH else (list, "a list")
        if layer not in tables:
            raise Stop(f"{path} has no layer {layer!r}", HOW_TO_GET)
        if not isinstance(tables[layer], kind):
            raise Stop(f"{path}: the layer {layer!r} is {fields.shown(tables[layer])}, not {words}", HOW_TO_GET)
    return tables


def checked(path: Path, tables: dict[str, Any], layer: str, kinds: fields.Kinds) -> Iterator[dict[str, Any]]:
    """The records of a layer. Stop: one is damaged; it is named by its place in the layer."""
    for number, record in enumerate(tables[layer]):
        fields.refuse_damaged(path, record, f"{layer} {number}", kinds)
        yield record


def by_token(path: Path, tables: dict[str, Any], layer: str, kinds: fields.Kinds) -> Table:
    """The records of a layer by their token. Stop: one is damaged, or two that differ have the same token."""
    found: Table = {}
    for number, record in enumerate(checked(path, tables, layer, kinds)):
        if found.get(record["token"], record) != record:
            raise Stop(f"{path}: {layer} {number} has the token {record['token']!r} of another one", HOW_TO_GET)
        found[record["token"]] = record
    return found


def lookup(table: dict[str, Any], token: str, path: Path, what: str) -> Any:
    """table[token]. Stop where it is not there: `what` is the layer that points to it."""
    if token not in table:
        raise Stop(f"{path}: a {what} points to {token!r}, which is not in the file", HOW_TO_GET)
    return table[token]


def lane_graph(path: Path, tables: dict[str, Any], outlines: Table, nodes: dict[str, Vertex]) -> lanes.Lanes:
    """The centre lines of the lanes that have an area; MapTRv2 leaves the others out."""

    def has_area(lane: dict[str, Any]) -> bool:
        token = lane["polygon_token"]
        return token is not None and polygon(lookup(outlines, token, path, "lane"), nodes, path) is not None

    records = [lane for layer in LANE_LAYERS for lane in by_token(path, tables, layer, LANE).values()]
    drawn = [lane["token"] for lane in records if has_area(lane)]
    return lanes.read(path, tables["arcline_path_3"], tables["connectivity"], drawn)


def at(tokens: list[str], nodes: dict[str, Vertex], path: Path) -> list[Vertex]:
    """Where nodes are, in metres."""
    return [lookup(nodes, token, path, "line or polygon") for token in tokens]


def polygon(record: dict[str, Any], nodes: dict[str, Vertex], path: Path) -> shapely.Polygon | None:
    """A polygon with its holes, or None where real files hold an empty or self-crossing one, as the devkit does."""
    for number, hole in enumerate(record["holes"]):
        fields.refuse_damaged(path, hole, f"hole {number} of polygon {record['token']!r}", HOLE)
    shell = at(record["exterior_node_tokens"], nodes, path)
    holes = [at(hole["node_tokens"], nodes, path) for hole in record["holes"]]
    if len(shell) < 3:
        return None
    area = shapely.Polygon(shell, [hole for hole in holes if len(hole) > 2])
    return area if area.is_valid and not area.is_empty else None


def outlines_within(areas: np.ndarray, patch: shapely.Polygon, window: shapely.Polygon) -> list[np.ndarray]:
    """Rings of the union of areas, as lines inside `window`; shells run clockwise, holes counter-clockwise (MapTR).

    The ring, not the polygon, is cut: cutting the polygon would turn the region's own edge into a boundary. A ring
    starts at an arbitrary vertex, so its pieces are merged again where the cut did not pass.
    """
    union = shapely.get_parts(shapely.union_all(shapely.intersection(areas, patch)))
    polygons = union[shapely.get_type_id(union) == POLYGON]
    rings = shapely.get_rings(shapely.orient_polygons(polygons, exterior_cw=True))
    lines = shapely.linestrings(
        shapely.get_coordinates(rings), indices=np.repeat(np.arange(len(rings)), shapely.get_num_coordinates(rings))
    )
    return pieces(shapely.line_merge(shapely.intersection(lines, window)))


def pieces(geometries: np.ndarray) -> list[np.ndarray]:
    """The lines among the results of a cut, each (n, 2); touching leaves points, which are dropped."""
    parts = shapely.get_parts(shapely.get_parts(geometries))
    lines = parts[(shapely.get_type_id(parts) == LINE) & (shapely.length(parts) > 0)]
    return [np.asarray(line.coords) for line in lines]


def grown(half_extent_m: tuple[float, float], by_m: float) -> tuple[float, float, float, float]:
    x_m, y_m = half_extent_m[0] + by_m, half_extent_m[1] + by_m
    return -x_m, -y_m, x_m, y_m
