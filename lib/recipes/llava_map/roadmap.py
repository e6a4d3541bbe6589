"""Map expansion files (nuScenes map expansion 1.3) and the map vectors around a car, in MapTR's protocol.

The official devkit walks all records of a layer for every patch; here each layer is one array of geometries with one
search tree, and everything after the cut happens in the car's own axis-aligned frame.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from lib.core.errors import Stop

CLASSES = ("divider", "ped_crossing", "boundary")
LOCATIONS = ("boston-seaport", "singapore-hollandvillage", "singapore-onenorth", "singapore-queenstown")
LINE_LAYERS = ("road_divider", "lane_divider")
ROAD_LAYERS = ("road_segment", "lane")
CROSSING_LAYER = "ped_crossing"
LINE, POLYGON = 1, 3  # shapely.GeometryType
EDGE_M = 0.2  # crossings are cut this much outside the region, boundaries inside: its own edge is not a boundary


@dataclass(frozen=True)
class Vector:
    """One map element: class index into CLASSES and its vertices (n, 2) in metres, `bev` frame."""

    label: int
    vertices: np.ndarray


class Layer:
    """Geometries of a layer with their search tree."""

    def __init__(self, geometries: list[shapely.Geometry]):
        self.geometries = np.array(geometries, dtype=object)
        self.tree = shapely.STRtree(self.geometries)

    def near(self, patch: shapely.Geometry) -> np.ndarray:
        """The geometries that meet a patch, in the order of the file: (n,) of shapely objects."""
        found: np.ndarray = self.geometries[np.sort(self.tree.query(patch, predicate="intersects"))]
        return found


class RoadMap:
    """The layers of one location that carry map vectors."""

    def __init__(self, lines: list[shapely.Geometry], crossings: list[shapely.Geometry], roads: list[shapely.Geometry]):
        self.lines, self.crossings, self.roads = Layer(lines), Layer(crossings), Layer(roads)

    @classmethod
    def read(cls, path: Path) -> "RoadMap":
        """The map of a location. Stop where the file is missing, of an older version, broken or incomplete."""
        tables = read_expansion(path)
        nodes = {node["token"]: (node["x"], node["y"]) for node in tables["node"]}
        outlines = {polygon["token"]: polygon for polygon in tables["polygon"]}
        tokens = {line["token"]: line["node_tokens"] for line in tables["line"]}

        def lines(layer: str) -> list[shapely.Geometry]:
            found = [[nodes[token] for token in tokens[record["line_token"]]] for record in tables[layer]]
            return [shapely.LineString(vertices) for vertices in found if len(vertices) > 1]

        def polygons(layer: str) -> list[shapely.Geometry]:
            found = [polygon(outlines[record["polygon_token"]], nodes) for record in tables[layer]]
            return [area for area in found if area is not None]

        try:
            return cls(
                [line for layer in LINE_LAYERS for line in lines(layer)],
                polygons(CROSSING_LAYER),
                [area for layer in ROAD_LAYERS for area in polygons(layer)],
            )
        except KeyError as error:
            raise Stop(f"{path}: a record points to {error}, which is not in the file", HOW_TO_GET) from error

    def vectors(self, x_m: float, y_m: float, yaw: float, half_extent_m: tuple[float, float]) -> list[Vector]:
        """Map vectors around a world position (metres, yaw in radians): dividers, then crossings, then boundaries."""
        width_m, length_m = half_extent_m
        patch = shapely.box(-width_m, -length_m, width_m, length_m)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])  # world from bev
        origin = np.array([x_m, y_m])
        world_patch = shapely.transform(patch, lambda points: points @ turn.T + origin)

        def local(layer: Layer) -> np.ndarray:
            shapes: np.ndarray = shapely.transform(layer.near(world_patch), lambda points: (points - origin) @ turn)
            return shapes

        dividers = pieces(shapely.intersection(local(self.lines), patch))
        crossings = outlines_within(local(self.crossings), patch, shapely.box(*grown(half_extent_m, EDGE_M)))
        boundaries = outlines_within(local(self.roads), patch, shapely.box(*grown(half_extent_m, -EDGE_M)))
        return [Vector(label, line) for label, lines in enumerate((dividers, crossings, boundaries)) for line in lines]


HOW_TO_GET = (
    "download 'Map expansion pack v1.3' from https://www.nuscenes.org/nuscenes and unzip it into <data root>/maps"
)


def read_expansion(path: Path) -> dict[str, Any]:
    """The JSON tables; version 1.3 is asked for because older packs lack layers and differ in geometry."""
    if not path.exists():
        raise Stop(f"{path} is missing: the map expansion is a download of its own, also for v1.0-mini", HOW_TO_GET)
    try:
        tables: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise Stop(f"{path} is not readable JSON: {error}", HOW_TO_GET) from error
    if str(tables.get("version", "1.0")) < "1.3":
        raise Stop(
            f"{path} is map expansion version {tables.get('version', 'older than 1.1')}, and 1.3 is needed", HOW_TO_GET
        )
    wanted = ("node", "line", "polygon", CROSSING_LAYER, *LINE_LAYERS, *ROAD_LAYERS)
    missing = [layer for layer in wanted if layer not in tables]
    if missing:
        raise Stop(f"{path} has no layer {missing[0]!r}", HOW_TO_GET)
    return tables


def polygon(record: dict[str, Any], nodes: dict[str, tuple[float, float]]) -> shapely.Polygon | None:
    """A polygon with its holes, or None where real files hold an empty or self-crossing one, as the devkit does."""
    shell = [nodes[token] for token in record["exterior_node_tokens"]]
    holes = [[nodes[token] for token in hole["node_tokens"]] for hole in record["holes"]]
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
