"""Ground truth, matching and average precision of the map recipe at nuScenes size, in seconds of one core:

    python -m tests.bench.map_speed [--nodes 120000] [--frames 2000]

Ground truth is measured on a generated map of at least --nodes nodes, turn by turn with the official devkit's
`get_map_geom`, or where that is not installed with one that works like it, and extrapolated to the 34 149 key frames of
trainval. Seconds are processor time, so a busy machine does not matter.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.recipes.llava_map import losses, metrics, polylines, roadmap, stand_in_tables
from lib.recipes.llava_map.world import SITE_SPACING_M, build_site

KEY_FRAMES, VAL_FRAMES, CORES = 34_149, 6_019, 2
HALF = (15.0, 30.0)
DEVKIT_LAYERS = ["road_divider", "lane_divider", "ped_crossing", "road_segment", "lane"]
ROW, TURNS, DEVKIT_FRAMES = 16, 5, 10  # sites in a row; turns of the comparison, frames of the devkit in each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=120_000)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--scored", type=int, default=VAL_FRAMES)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(ground_truth(Path(folder), args)))
    print(json.dumps(matching()))
    print(json.dumps(precision(args.scored)))


def ground_truth(root: Path, args: argparse.Namespace) -> dict:
    location, nodes, sites = write_map(root, args.nodes)
    road_map = roadmap.RoadMap.read(root / "maps" / "expansion" / f"{location}.json")
    places = [place(number, sites) for number in range(args.frames)]
    share = args.frames // TURNS
    ours, theirs, lines = 0.0, 0.0, 0
    devkit = official(root, location)
    for turn in range(TURNS):
        started = time.process_time()
        for x_m, y_m, yaw in places[turn * share : (turn + 1) * share]:
            vectors = road_map.vectors(x_m, y_m, yaw, HALF)
            for vector in vectors:
                polylines.sampled(vector.vertices, 20, HALF)
            lines += len(vectors)
        ours += time.process_time() - started
        started = time.process_time()
        for x_m, y_m, yaw in places[turn * share : turn * share + DEVKIT_FRAMES]:
            devkit.get_map_geom((x_m, y_m, 60, 30), np.degrees(yaw), DEVKIT_LAYERS)
        theirs += time.process_time() - started
    a_frame = ours / (TURNS * share)
    result = {
        "nodes": nodes,
        "frames": TURNS * share,
        "lines_per_frame": round(lines / (TURNS * share), 1),
        "ms_per_frame": round(1000 * a_frame, 3),
    }
    result["seconds_for_trainval_on_two_cores"] = round(KEY_FRAMES * a_frame / CORES, 1)
    return result | {
        "devkit": "written here, as the official one works" if isinstance(devkit, Devkit) else "official",
        "devkit_ms_per_frame": round(1000 * theirs / (TURNS * DEVKIT_FRAMES), 1),
        "times_faster": round(theirs / (TURNS * DEVKIT_FRAMES) / a_frame),
    }


def write_map(root: Path, wanted: int) -> tuple[str, int, int]:
    expansion, sites = stand_in_tables.Expansion(roadmap.LOCATIONS[0]), 0
    while len(expansion.tables["node"]) < wanted:
        expansion.site(build_site(np.random.default_rng(sites), centre(sites)))
        sites += 1
    stand_in_tables.write_text(
        root / "maps" / "expansion" / f"{expansion.location}.json",
        expansion.written(SITE_SPACING_M * max(ROW, sites / ROW + 1)),
    )
    return expansion.location, len(expansion.tables["node"]), sites


def centre(site: int) -> tuple[float, float]:
    return SITE_SPACING_M * (site % ROW + 0.5), SITE_SPACING_M * (site // ROW + 0.5)


def place(number: int, sites: int) -> tuple[float, float, float]:
    """A position near the middle of a site, where the car would drive, in any heading."""
    rng = np.random.default_rng(number)
    x_m, y_m = centre(int(rng.integers(sites)))
    return x_m + rng.uniform(-30, 30), y_m + rng.uniform(-30, 30), rng.uniform(-np.pi, np.pi)


def official(root: Path, location: str) -> Any:
    """The devkit's map; without one, `Devkit`, and the result says so."""
    if importlib.util.find_spec("nuscenes") is None:
        return Devkit(root / "maps" / "expansion" / f"{location}.json")
    from nuscenes.map_expansion.map_api import NuScenesMap

    return NuScenesMap(str(root), location)


class Devkit:
    """What the official devkit does for a frame: every record of a layer becomes a shape, is tested against the patch
    and cut by it, and what is left is turned into the car's frame. Nothing is kept between frames.
    """

    def __init__(self, file: Path):
        self.tables = json.loads(file.read_text())
        self.nodes = {node["token"]: (node["x"], node["y"]) for node in self.tables["node"]}
        self.polygons = {polygon["token"]: polygon for polygon in self.tables["polygon"]}
        self.lines = {line["token"]: line for line in self.tables["line"]}

    def get_map_geom(self, box: tuple[float, float, float, float], angle_deg: float, layers: list[str]) -> list[Any]:
        from shapely import affinity, geometry

        x_m, y_m, height_m, width_m = box
        upright = geometry.box(x_m - width_m / 2, y_m - height_m / 2, x_m + width_m / 2, y_m + height_m / 2)
        patch, found = affinity.rotate(upright, angle_deg, origin=(x_m, y_m)), []
        for layer in layers:
            for shape in self.shapes(layer):
                if shape.is_valid and shape.intersects(patch):
                    turned = affinity.rotate(shape.intersection(patch), -angle_deg, origin=(x_m, y_m))
                    found.append(affinity.affine_transform(turned, [1, 0, 0, 1, -x_m, -y_m]))
        return found

    def shapes(self, layer: str) -> Iterator[Any]:
        from shapely import geometry

        for record in self.tables[layer]:
            if "line_token" in record:
                yield geometry.LineString(self.at(self.lines[record["line_token"]]["node_tokens"]))
            else:
                polygon = self.polygons[record["polygon_token"]]
                holes = [self.at(hole["node_tokens"]) for hole in polygon["holes"]]
                yield geometry.Polygon(self.at(polygon["exterior_node_tokens"]), holes)

    def at(self, tokens: list[str]) -> list[tuple[float, float]]:
        return [self.nodes[token] for token in tokens]


def matching() -> dict:
    """50 queries against 15 lines, 10 of them closed (38 orders each), forward and Hungarian."""
    rng = np.random.default_rng(0)
    ring = np.array([[0.0, 0], [4, 0], [4, 3], [0, 3], [0, 0]])
    curves = [ring + rng.uniform(-10, 10, 2) for _ in range(10)] + [rng.uniform(-15, 15, (4, 2)) for _ in range(5)]
    orders = polylines.padded([polylines.orders(curve, 20, HALF) for curve in curves], 20)
    truth = losses.Truth(torch.tensor([1] * 10 + [0] * 5), (torch.from_numpy(orders) / torch.tensor(HALF) + 1) / 2)
    logits, points = torch.randn(50, 3), torch.rand(50, 20, 2)
    repeats = 200
    started = time.process_time()
    for _ in range(repeats):
        losses.match(logits, points, truth, losses.Weights())
    return {"matching_ms_per_frame_and_layer": round(1000 * (time.process_time() - started) / repeats, 2)}


def precision(frames: int) -> dict:
    """50 predictions a frame near 9 lines, as on the validation split; extrapolated from fewer frames."""
    rng = np.random.default_rng(0)
    by_class: list[list[Any]] = [[], [], []]
    started = time.process_time()
    for _ in range(frames):
        truth = [(int(label), line(rng)) for label in rng.integers(0, 3, 9)]
        labels, scores = rng.integers(0, 3, 50), rng.random(50)
        predicted = [truth[i % 9][1] + rng.normal(0, 1, 2) for i in range(50)]
        for label in range(3):
            mine = np.flatnonzero(labels == label)
            similarities = metrics.similarity(
                [predicted[i] for i in mine], [curve for other, curve in truth if other == label]
            )
            by_class[label].append((scores[mine], metrics.hits(similarities, scores[mine]), similarities.shape[1]))
    merged = [
        metrics.Detections(
            np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found]), sum(f[2] for f in found)
        )
        for found in by_class
    ]
    table = metrics.table(merged)
    seconds = time.process_time() - started
    return {
        "frames": frames,
        "seconds_for_validation": round(seconds * VAL_FRAMES / frames, 1),
        "mAP": round(table["mAP"], 3),
    }


def line(rng: np.random.Generator) -> np.ndarray:
    return np.stack(
        [np.full(20, rng.uniform(-15, 15)) + np.cumsum(rng.normal(0, 0.3, 20)), np.linspace(-30, 30, 20)], axis=1
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
