"""Centre lines of lanes and of the connectors between them, as MapTRv2 takes them from nuScenes' map expansion.

`arcline_path_3` holds the middle of every lane as arcs: three pieces to the left (L), straight (S) or to the right (R)
of one radius, one path after another. `connectivity` says which lane goes on in which. A centre line of a region is a
whole way through it, from a lane that nothing leads into to one that leads nowhere (Liao et al., MapTRv2, IJCV 2024:
all simple paths from roots to leaves); ways that part share their beginning.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from lib.core.errors import Stop
from lib.recipes.llava_map import fields
from lib.recipes.llava_map.fields import TEXTS

STEP_M = 0.5  # between the points of an arc, at most, as MapTRv2
SIMPLIFIED_M = 0.2  # a way is within this of its arcs, as in MapTRv2
MOST_WAYS = 1000  # through one region; a real one has some dozens
CURVATURE = {"L": 1.0, "S": 0.0, "R": -1.0}  # in units of 1 / radius
LEAVE_OUT = "data.centreline=false does without centre lines"
LINE = 1  # shapely.GeometryType

PATH = {"start_pose": fields.POSE, "shape": fields.SHAPE, "radius": fields.RADIUS, "segment_length": fields.LENGTHS}
NEIGHBOURS = {"incoming": TEXTS, "outgoing": TEXTS}


@dataclass(frozen=True)
class Lanes:
    """Middle and followers of every lane of a location, in the order of the file."""

    tokens: list[str]
    middles: list[shapely.Geometry]  # lines in world metres, in the direction of travel
    followers: "Followers"


Followers = Mapping[str, frozenset[str]]  # token -> tokens of the lanes that go on from it
NONE = Lanes([], [], {})


def read(path: Path, arcs: dict[str, Any], connectivity: dict[str, Any], tokens: list[str]) -> Lanes:
    """The lanes of a map file. arcs, connectivity: its two graphs by token; tokens: of the lanes that
    are wanted. Stop: a path or a neighbour is damaged, or no lane has a path.
    """
    found = {}
    for token in (token for token in tokens if token in arcs):
        refuse_other_list(path, arcs[token], token)
        for number, piece in enumerate(arcs[token]):
            fields.refuse_damaged(path, piece, f"arcline_path_3 {number} of lane {token!r}", PATH)
        found[token] = middle(arcs[token])
    kept = {token: line for token, line in found.items() if not line.is_empty}
    refuse_none(path, kept)
    return Lanes(list(kept), list(kept.values()), followers(path, connectivity, kept))


def refuse_other_list(path: Path, paths: Any, token: str) -> None:
    if not isinstance(paths, list):
        raise Stop(f"{path}: arcline_path_3 of lane {token!r} is {fields.shown(paths)}, not a list", fields.GET_AGAIN)


def refuse_none(path: Path, lanes: Mapping[str, Any]) -> None:
    if not lanes:
        raise Stop(f"{path} has no arcline_path_3 of a lane, and data.centreline=true asks for centre lines", LEAVE_OUT)


def followers(path: Path, connectivity: dict[str, Any], lanes: Mapping[str, Any]) -> Followers:
    """Both halves of `connectivity`: what a lane leads into, and what says that it comes from it."""
    found: dict[str, set[str]] = {token: set() for token in lanes}
    for token in (token for token in lanes if token in connectivity):
        fields.refuse_damaged(path, connectivity[token], f"connectivity of lane {token!r}", NEIGHBOURS)
        found[token].update(connectivity[token]["outgoing"])
        for before in connectivity[token]["incoming"]:
            found.get(before, set()).add(token)
    return {token: frozenset(after & lanes.keys()) for token, after in found.items()}


# ---------------------------------------------------------------------------------------------- arcs


def middle(paths: list[dict[str, Any]]) -> shapely.LineString:
    """A lane's paths, one after another, as one line in world metres; empty where they have no length."""
    points = np.concatenate([np.zeros((0, 2)), *(points_along(path) for path in paths)])
    return line_of(points)


def line_of(points: np.ndarray) -> shapely.LineString:
    """(n, 2) -> a line without repeated points; empty where fewer than two are left."""
    apart = np.ones(len(points), bool)
    apart[1:] = np.hypot(*np.diff(points, axis=0).T) > 1e-6
    return shapely.LineString(points[apart] if apart.sum() > 1 else [])


def points_along(path: dict[str, Any]) -> np.ndarray:
    """(n, 2) in world metres, both ends included and at most STEP_M apart: three arcs from `start_pose`.

    On an arc of curvature k (1/m, to the left) that starts with heading h, after d metres: x = (sin(h + k d) - sin h)
    / k, y = (cos h - cos(h + k d)) / k.
    """
    pose, found = tuple(path["start_pose"]), []
    for letter, length_m in zip(path["shape"], path["segment_length"], strict=True):
        along_m = np.linspace(0.0, length_m, int(np.ceil(length_m / STEP_M)) + 1)
        x_m, y_m, heading = on_arc(pose, CURVATURE[letter] / path["radius"], along_m)
        found.append(np.stack([x_m, y_m], axis=1))
        pose = (x_m[-1], y_m[-1], heading[-1])
    return np.concatenate(found)


def on_arc(pose: tuple[float, float, float], curvature: float, along_m: np.ndarray) -> tuple[np.ndarray, ...]:
    """x and y in metres and heading in radians after so many metres: three (n,)."""
    x_m, y_m, heading = pose
    turned = heading + curvature * along_m
    if not curvature:
        return x_m + along_m * np.cos(heading), y_m + along_m * np.sin(heading), turned
    right, ahead = np.sin(turned) - np.sin(heading), np.cos(heading) - np.cos(turned)
    return x_m + right / curvature, y_m + ahead / curvature, turned


# ---------------------------------------------------------------------------------------------- ways

Piece = tuple[str, int]  # token of a lane, number of its piece


def ways_within(tokens: list[str], lines: np.ndarray, patch: shapely.Polygon, followers: Followers) -> list[np.ndarray]:
    """Every way through the patch, each (n, 2) in metres, in the direction of travel.

    tokens, lines: lanes that meet the patch, in its frame. What a lane shows of itself is one piece or several; the
    first follows the last of the lanes before it, as in MapTRv2. A ring that nothing leads into is no way. Stop: more
    than MOST_WAYS.
    """
    cut = {token: inside(line, patch) for token, line in zip(tokens, lines, strict=True)}
    pieces = {(token, i): piece for token, found in cut.items() for i, piece in enumerate(found)}
    after: dict[Piece, list[Piece]] = {piece: [] for piece in pieces}
    for token in (token for token in cut if cut[token]):
        after[token, len(cut[token]) - 1] += [(name, 0) for name in cut if name in followers[token] and cut[name]]
    led_into = set(itertools.chain.from_iterable(after.values()))
    roots = [piece for piece in pieces if piece not in led_into]
    every = itertools.chain.from_iterable(onward((root,), after) for root in roots)
    ways = list(itertools.islice(every, MOST_WAYS + 1))
    refuse_many(ways)
    drawn = [line_of(np.concatenate([pieces[piece] for piece in way])).simplify(SIMPLIFIED_M) for way in ways]
    return [np.asarray(line.coords) for line in drawn if not line.is_empty]


def refuse_many(ways: list[tuple[Piece, ...]]) -> None:
    if len(ways) > MOST_WAYS:
        raise Stop(f"more than {MOST_WAYS} ways lead through one frame's lanes", LEAVE_OUT)


def inside(line: shapely.LineString, patch: shapely.Polygon) -> list[np.ndarray]:
    """The pieces of a lane within the patch, in its own direction and order; a touch is none."""
    parts = shapely.get_parts(shapely.intersection(line, patch))
    parts = parts[(shapely.get_type_id(parts) == LINE) & (shapely.length(parts) > 0)]
    found = []
    for piece in (np.asarray(part.coords) for part in parts):
        start_m, end_m = shapely.line_locate_point(line, shapely.points(piece[[0, -1]]))
        found.append((min(start_m, end_m), piece if start_m <= end_m else piece[::-1]))
    return [piece for _, piece in sorted(found, key=lambda one: one[0])]


def onward(way: tuple[Piece, ...], after: Mapping[Piece, list[Piece]]) -> Iterator[tuple[Piece, ...]]:
    """The ways that go on from the end of this one to where nothing follows; none passes a piece twice."""
    if not after[way[-1]]:
        yield way
    for piece in after[way[-1]]:
        if piece not in way:
            yield from onward((*way, piece), after)
