"""Centre lines of lanes: places from a formula, ways through a small graph of lanes, damaged files."""

import numpy as np
import pytest
import shapely

from lib.core.errors import Stop
from lib.recipes.llava_map import fields, lanes, roadmap
from lib.recipes.llava_map.stand_in_tables import Expansion

HALF = (15.0, 30.0)
AHEAD = np.pi / 2  # heading of a lane that runs along y
STRAIGHT = {"start_pose": [0.0, -40.0, AHEAD], "shape": "LSL", "radius": 9.0, "segment_length": [0.0, 80.0, 0.0]}
CENTRELINE = 3


def centre_lines(road_map: roadmap.RoadMap) -> list[np.ndarray]:
    return [vector.vertices for vector in road_map.vectors(0, 0, 0, HALF) if vector.label == CENTRELINE]


@pytest.fixture
def read(tmp_path):
    """A map whose lanes have these paths and these followers, or what its reader stops with."""

    def made(paths: dict, follows: dict | None = None, change=lambda tables: None) -> roadmap.RoadMap:
        expansion = Expansion("town")
        area = expansion.polygon(shapely.box(-50, -50, 50, 50))
        expansion.tables["lane"] = [{"token": token, "polygon_token": area} for token in paths]
        expansion.tables["arcline_path_3"] = paths
        followers = {token: {"incoming": [], "outgoing": (follows or {}).get(token, [])} for token in paths}
        expansion.tables["connectivity"] = followers
        change(expansion.tables)
        (tmp_path / "town.json").write_text(expansion.written(100))
        return roadmap.RoadMap.read(tmp_path / "town.json", centreline=True)

    return made


def test_a_straight_and_an_arc_lane_lie_where_the_formula_says(read):
    """Straight along x = 0. The arc starts at the origin along y and turns right by 90 degrees with a radius of 12 m:
    its centre is (12, 0), it ends at (12, 12), and every point of it is 12 m from its centre.
    """
    arc = STRAIGHT | {"start_pose": [0, 0, AHEAD], "shape": "RSR", "radius": 12.0, "segment_length": [6 * np.pi, 0, 0]}
    [straight] = centre_lines(read({"a": [STRAIGHT]}))
    assert np.allclose(straight, [[0, -30], [0, 30]])
    turn = lanes.points_along(arc)
    assert np.allclose(turn[0], [0, 0]) and np.allclose(turn[-1], [12, 12])
    assert np.allclose(np.hypot(*(turn - [12, 0]).T), 12) and np.hypot(*np.diff(turn, axis=0).T).max() <= lanes.STEP_M
    [drawn] = centre_lines(read({"a": [arc]}))
    assert np.allclose(drawn[[0, -1]], [[0, 0], [12, 12]])
    off_m = shapely.hausdorff_distance(shapely.LineString(drawn), shapely.LineString(turn), densify=0.01)
    assert off_m <= lanes.SIMPLIFIED_M < 2.0  # a chord of it would be 3.5 m off


def test_left_straight_right_is_a_change_of_lane(read):
    """To the left by 60 degrees, 5 m straight, to the right by 60: the heading is what it was."""
    lengths_m = [2 * np.pi, 5, 2 * np.pi]
    bend = STRAIGHT | {"start_pose": [0, 0, 0], "shape": "LSR", "radius": 6.0, "segment_length": lengths_m}
    end = lanes.points_along(bend)[-1]
    angle = np.pi / 3
    assert np.allclose(end, [12 * np.sin(angle) + 5 * np.cos(angle), 12 * (1 - np.cos(angle)) + 5 * np.sin(angle)])


def at(x_m: float, y_m: float, heading: float, length_m: float) -> list[dict]:
    return [STRAIGHT | {"start_pose": [x_m, y_m, heading], "segment_length": [0.0, length_m, 0.0]}]


FORK = {"in": at(0, -40, AHEAD, 40), "on": at(0, 0, AHEAD, 40), "off": at(0, 0, 0.0, 40)}


def test_a_lane_that_parts_is_two_ways_which_share_their_beginning(read):
    for follows in ({"in": ["on", "off"]}, None):
        change = (lambda tables: None) if follows else incoming
        on, off = centre_lines(read(FORK, follows, change))
        assert np.allclose(on, [[0, -30], [0, 30]]) and np.allclose(off, [[0, -30], [0, 0], [15, 0]])


def incoming(tables: dict) -> None:
    """The same said from the other end."""
    for token in ("on", "off"):
        tables["connectivity"][token]["incoming"] = ["in"]


def test_lanes_that_nothing_joins_are_ways_of_their_own(read):
    assert len(centre_lines(read(FORK))) == 3


def test_a_lane_that_leaves_and_returns_is_two_ways_in_its_direction(read):
    there = at(0, 20, AHEAD, 20) + at(0, 40, 0.0, 10) + at(10, 40, -AHEAD, 30)
    first, second = centre_lines(read({"a": there}))
    assert np.allclose(first, [[0, 20], [0, 30]]) and np.allclose(second, [[10, 30], [10, 10]])


def test_without_the_setting_there_is_none_of_them(read, tmp_path):
    read({"a": [STRAIGHT]})
    assert centre_lines(roadmap.RoadMap.read(tmp_path / "town.json")) == []


def test_connectors_without_an_area_and_lanes_without_a_length_are_left_out(read):
    def change(tables):
        tables["lane_connector"] = [tables["lane"].pop() | {"polygon_token": None}]

    assert len(centre_lines(read(FORK, change=change))) == 2
    assert len(centre_lines(read(FORK | {"dot": at(0, 0, 0, 0)}))) == 3


def test_a_map_without_any_centre_line_is_refused(read):
    for paths in ({}, {"a": []}, {"a": at(0, 0, 0, 0)}):
        with pytest.raises(Stop, match=r"town\.json has no arcline_path_3 of a lane") as stop:
            read(paths)
        assert "data.centreline=false" in stop.value.command


def test_more_ways_than_a_road_has_are_refused_instead_of_counted(read):
    """Ten forks one after another are 1024 ways."""
    paths = {f"{i}{side}": at(side, i - 10.0, AHEAD, 1) for i in range(10) for side in (0, 1)}
    follows = {f"{i}{side}": [f"{i + 1}0", f"{i + 1}1"] for i in range(9) for side in (0, 1)}
    with pytest.raises(Stop, match="more than 1000 ways"):
        centre_lines(read(paths, follows))


@pytest.mark.parametrize("field", lanes.PATH)
def test_every_field_of_a_path_is_checked(field, read):
    nan, deep = float("nan"), [1, [2], 3]
    for value in (None, "LXL", -1, nan, [1, 2], [1, nan, 2], deep, {"a": 1}, "absent"):
        path = {name: one for name, one in STRAIGHT.items() if name != field}
        with pytest.raises(Stop, match=rf"town\.json: .*{field}.*") as stop:
            read({"a": [path if value == "absent" else path | {field: value}]})
        assert "arcline_path_3 0 of lane 'a'" in str(stop.value)


@pytest.mark.parametrize("layer", roadmap.LANE_LAYERS + roadmap.GRAPH)
def test_a_part_of_the_graph_that_is_something_else_is_named(layer, read):
    for value in (None, "x", 1, [1], {"a": 1}, {"a": [1]}, {"a": {"incoming": 1, "outgoing": []}}, "absent"):

        def change(tables, value=value):
            tables[layer] = value
            if value == "absent":
                del tables[layer]

        with pytest.raises(Stop, match=rf"town\.json.*{layer}"):
            read({"a": [STRAIGHT]}, change=change)


def test_a_lane_is_not_read_twice_and_points_to_an_area(read):
    for one in ({"token": "b", "polygon_token": 1}, {"token": "b", "polygon_token": "gone"}, {"token": "a"},
                {"token": "a", "polygon_token": None}):  # fmt: skip
        with pytest.raises(Stop, match=r"town\.json"):
            read({"a": [STRAIGHT]}, change=lambda tables, one=one: tables["lane"].append(one))


def test_two_lanes_that_differ_have_no_common_token(read):
    def change(tables):
        tables["polygon"].append(tables["polygon"][0] | {"token": "other"})
        tables["lane"].append({"token": "a", "polygon_token": "other"})

    with pytest.raises(Stop, match="lane 1 has the token 'a' of another one"):
        read({"a": [STRAIGHT]}, change=change)


def test_a_pose_is_three_numbers_that_lie_on_the_map():
    assert fields.POSE.fits([1.0, 2, 3]) and not fields.POSE.fits([1e9, 0, 0])
