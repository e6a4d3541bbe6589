"""Map vectors of small maps made in the test and of the stand-in world, beside the devkit's where it is installed."""

import importlib.util
import json

import numpy as np
import pytest
import shapely

from lib.core.errors import Stop
from lib.recipes.llava_map import geometry, polylines, stand_in
from lib.recipes.llava_map.classes import CLASSES
from lib.recipes.llava_map.roadmap import RoadMap
from lib.recipes.llava_map.stand_in_tables import LAYERS

HALF = (15.0, 30.0)
DIVIDER, CROSSING, BOUNDARY = range(3)


def of_class(vectors: list, label: int) -> list[np.ndarray]:
    return [vector.vertices for vector in vectors if vector.label == label]


def road_map(roads=(), lines=(), crossings=()) -> RoadMap:
    return RoadMap(list(lines), list(crossings), list(roads))


def test_straight_road_has_two_boundaries_and_none_on_the_edge_of_the_region():
    """Cutting the polygon instead of its ring would add the two ends."""
    found = road_map(roads=[shapely.box(-4, -200, 4, 200)]).vectors(0, 0, 0, HALF)
    assert len(found) == 2 and {abs(v.vertices[:, 0]).max() for v in found} == {4.0}
    assert all(np.allclose(np.abs(v.vertices[:, 1]), 29.8) for v in found)


def test_island_is_a_closed_boundary():
    road = shapely.Polygon(shapely.box(-4, -200, 4, 200).exterior.coords, [shapely.box(-1, 5, 1, 9).exterior.coords])
    found = of_class(road_map(roads=[road]).vectors(0, 0, 0, HALF), BOUNDARY)
    assert [polylines.is_closed(line) for line in found].count(True) == 1


def test_crossing_that_leaves_the_region_stays_closed_on_its_edge():
    [line] = of_class(road_map(crossings=[shapely.box(-20, 3, 20, 7)]).vectors(0, 0, 0, HALF), CROSSING)
    assert polylines.is_closed(line) and np.abs(line[:, 0]).max() == 15.0


def test_ring_that_starts_inside_the_region_is_not_cut_at_its_start():
    ring = shapely.Polygon(
        [(-4, 0), (-4, 200), (4, 200), (4, -200), (-4, -200)]
    )  # starts in the middle of its left kerb
    found = road_map(roads=[ring]).vectors(0, 0, 0, HALF)
    assert len(found) == 2


def test_long_line_without_a_vertex_in_the_region_is_found():
    """The devkit's search by nodes loses it."""
    [line] = of_class(road_map(lines=[shapely.LineString([(1, -300), (1, 300)])]).vectors(0, 0, 0, HALF), DIVIDER)
    assert np.allclose(np.abs(line[:, 1]), 30)


def test_line_that_leaves_and_returns_is_two_vectors():
    line = shapely.LineString([(10, -40), (10, 0), (20, 5), (10, 10), (10, 40)])
    assert len(of_class(road_map(lines=[line]).vectors(0, 0, 0, HALF), DIVIDER)) == 2


def test_touching_a_corner_is_no_vector():
    assert road_map(lines=[shapely.LineString([(15, 35), (15, 30), (20, 30)])]).vectors(0, 0, 0, HALF) == []


def test_empty_place_has_no_vectors():
    assert road_map(roads=[shapely.box(0, 0, 10, 10)]).vectors(1000, 1000, 0.3, HALF) == []


def test_turning_world_and_car_together_changes_nothing():
    roads = [shapely.Polygon([(-5, -80), (6, -80), (3, 90), (-7, 80)]), shapely.box(-60, 4, 60, 11)]
    lines, crossings = [shapely.LineString([(0, -80), (-1, 90)])], [shapely.box(-4, -8, 4, -4)]
    plain = road_map(roads, lines, crossings).vectors(1, 2, 0.2, HALF)
    turn = geometry.level(300, -40, 0, 1.1)[[0, 1, 3]][:, [0, 1, 3]]

    def moved(shapes):
        return [shapely.transform(shape, lambda points: points @ turn[:2, :2].T + turn[:2, 2]) for shape in shapes]

    x_m, y_m = turn[:2, :2] @ [1, 2] + turn[:2, 2]
    turned = road_map(moved(roads), moved(lines), moved(crossings)).vectors(x_m, y_m, 0.2 + 1.1, HALF)
    assert len(plain) == len(turned) > 5
    for label in range(len(CLASSES)):
        for line in of_class(plain, label):
            distances = [
                shapely.hausdorff_distance(shapely.LineString(line), shapely.LineString(other))
                for other in of_class(turned, label)
            ]
            assert min(distances) < 1e-6


def expansion(tmp_path, **changes):
    tables = {name: [] for name in LAYERS} | {
        "version": "1.3",
        "canvas_edge": [400, 400],
        "arcline_path_3": {},
        "connectivity": {},
    }
    path = tmp_path / "boston-seaport.json"
    path.write_text(json.dumps(tables | changes))
    return path


def test_missing_map_expansion_says_where_to_get_it(tmp_path):
    with pytest.raises(Stop, match="map expansion") as stop:
        RoadMap.read(tmp_path / "boston-seaport.json")
    assert "v1.3" in stop.value.command


def test_older_map_expansion_is_refused(tmp_path):
    with pytest.raises(Stop, match=r"1\.2"):
        RoadMap.read(expansion(tmp_path, version="1.2"))


def test_truncated_map_expansion_is_refused(tmp_path):
    path = expansion(tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(Stop, match="not readable"):
        RoadMap.read(path)


def test_line_without_nodes_and_bow_tie_are_left_out(tmp_path):
    nodes = [{"token": str(i), "x": x, "y": y} for i, (x, y) in enumerate([(0, 0), (4, 4), (4, 0), (0, 4)])]
    path = expansion(
        tmp_path,
        node=nodes,
        line=[{"token": "l", "node_tokens": []}],
        lane_divider=[{"token": "d", "line_token": "l"}],
        polygon=[{"token": "p", "exterior_node_tokens": list("0123"), "holes": []}],
        ped_crossing=[{"token": "c", "polygon_token": "p"}],
    )
    assert RoadMap.read(path).vectors(0, 0, 0, HALF) == []


def test_record_that_points_nowhere_is_named(tmp_path):
    with pytest.raises(Stop, match="no-such-line"):
        RoadMap.read(expansion(tmp_path, road_divider=[{"token": "d", "line_token": "no-such-line"}]))


if importlib.util.find_spec("nuscenes"):

    def test_geometry_equals_the_devkit_on_200_patches(world):
        """The devkit's own clipping of every record, before unions: lines by length, areas by area."""
        from nuscenes.map_expansion.map_api import NuScenesMap

        rng = np.random.default_rng(0)
        compared = 0
        for location in ("boston-seaport", "singapore-queenstown"):
            official = NuScenesMap(str(world), location)
            ours = RoadMap.read(world / "maps" / "expansion" / f"{location}.json")
            for _ in range(100):
                x_m, y_m, yaw = rng.uniform(80, 220), rng.uniform(80, 220), rng.uniform(-np.pi, np.pi)
                layers = ["road_divider", "lane_divider", "road_segment", "lane", "ped_crossing"]
                found = official.get_map_geom((x_m, y_m, 60, 30), np.degrees(yaw), layers)
                lines = sum(part.length for layer, shapes in found if "divider" in layer for part in shapes)
                vectors = ours.vectors(x_m, y_m, yaw, HALF)
                assert sum(np.hypot(*np.diff(v, axis=0).T).sum() for v in of_class(vectors, DIVIDER)) == pytest.approx(
                    lines, abs=1e-6
                )
                crossings = shapely.union_all(
                    [part for layer, shapes in found if layer == "ped_crossing" for part in shapes]
                )
                assert sum(shapely.Polygon(v).area for v in of_class(vectors, CROSSING)) == pytest.approx(
                    crossings.area, abs=1e-6
                )
                roads = shapely.union_all(
                    [part for layer, shapes in found if layer in ("road_segment", "lane") for part in shapes]
                )
                kerbs = (
                    shapely.LineString()
                    if roads.is_empty
                    else roads.boundary.intersection(shapely.box(-14.8, -29.8, 14.8, 29.8))
                )
                assert sum(np.hypot(*np.diff(v, axis=0).T).sum() for v in of_class(vectors, BOUNDARY)) == pytest.approx(
                    kerbs.length, abs=1e-6
                )
                compared += bool(vectors)
        assert compared > 50

    def test_devkit_loads_the_stand_in_unchanged(world):
        from nuscenes.nuscenes import NuScenes

        official = NuScenes(stand_in.VERSION, str(world), verbose=False)
        assert len(official.scene) == 4 and len(official.sample) == 7
        path, _, intrinsics = official.get_sample_data(official.sample[0]["data"]["CAM_FRONT"])
        assert intrinsics.shape == (3, 3) and path.endswith(".jpg")
