"""The procedural world: the same bytes again, and what is in the map is painted where the map says."""

import hashlib

import numpy as np
from PIL import Image

from lib.recipes.llava_map import geometry, polylines, render, roadmap, stand_in
from lib.recipes.llava_map.roadmap import RoadMap
from lib.recipes.llava_map.splits import OFFICIAL
from lib.recipes.llava_map.tables import read_frames
from lib.recipes.llava_map.world import build_site


def digest(folder) -> str:
    summed = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        summed.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return summed.hexdigest()


def test_the_same_size_gives_the_same_bytes(tmp_path):
    size = stand_in.Size(train_scenes=1, val_scenes=1, frames=1, image_scale=0.1)
    for name in ("one", "two"):
        stand_in.write(tmp_path / name, size)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_official_lists_have_the_published_lengths():
    assert {name: len(set(scenes)) for name, scenes in OFFICIAL.items()} == {
        "train": 700,
        "val": 150,
        "mini_train": 8,
        "mini_val": 2,
    }
    assert not set(OFFICIAL["train"]) & set(OFFICIAL["val"])


def test_held_out_scenes_drive_where_no_training_scene_does():
    scenes = stand_in.Size(180, 32, 3).scenes()
    train = {location for name, location in scenes if name in OFFICIAL["train"]}
    assert train.isdisjoint(location for name, location in scenes if name in OFFICIAL["val"])


def test_stripes_of_a_crossing_cover_half_of_it():
    from shapely import box, union_all

    stripes = union_all(render.zebra(box(0, 0, 12, 4)))
    assert abs(stripes.intersection(box(0, 0, 12, 4)).area - 24) < 2


def test_solid_centre_lines_land_on_painted_pixels(tmp_path):
    """At 0.3 of nuScenes' picture size, to 20 m: the pixel of a map point must be brighter than asphalt."""
    stand_in.write(tmp_path, stand_in.Size(train_scenes=1, val_scenes=1, frames=2, image_scale=0.3))
    hits, asked = 0, 0
    maps = {
        location: RoadMap.read(tmp_path / "maps" / "expansion" / f"{location}.json") for location in roadmap.LOCATIONS
    }
    for frame in read_frames(tmp_path, stand_in.VERSION)[0]:
        solid = maps[frame.location].lines.geometries
        for camera in frame.cameras:
            picture = np.asarray(Image.open(tmp_path / camera.filename)).astype(float)
            for line in centre_lines(tmp_path, frame.location, solid):
                good, all_ = painted(np.asarray(line.coords), frame, camera, picture)
                hits, asked = hits + good, asked + all_
    assert asked > 300 and hits / asked >= 0.95


def centre_lines(folder, location: str, geometries) -> list:
    """Road dividers alone: lane dividers are dashed."""
    import json

    tables = json.loads((folder / "maps" / "expansion" / f"{location}.json").read_text())
    return list(geometries[: len(tables["road_divider"])])


def painted(line: np.ndarray, frame, camera, picture: np.ndarray) -> tuple[int, int]:
    length_m = np.hypot(*np.diff(line, axis=0).T).sum()
    points = geometry.on_ground(polylines.resample(line, max(2, int(length_m / 0.2))))
    cam_from_world = geometry.inverse(camera.world_from_cam)
    pixels, depth_m, seen = geometry.project(
        geometry.transform(cam_from_world, points), camera.intrinsics, camera.width_px, camera.height_px
    )
    seen &= depth_m < 20
    column, row = pixels[seen].astype(int).T
    colours = picture[row, column]
    # yellow (232, 182, 40) or white (235, 235, 230) against grey asphalt of 60 to 104, in light from 0.75 to 1.15
    return int((colours[:, :2].mean(1) > 115).sum()), int(seen.sum())


def test_sites_differ_and_stay_in_their_place():
    one, other = (build_site(np.random.default_rng(seed), (500.0, 100.0)) for seed in (1, 2))
    assert not one.road.equals(other.road)
    assert one.road.within(build_site(np.random.default_rng(1), (500.0, 100.0)).road.buffer(1e-6))
    assert one.road.centroid.distance(other.road.centroid) < 60


def test_markings_stay_on_the_road():
    for seed in range(12):
        site = build_site(np.random.default_rng(seed), (0.0, 0.0))
        kerbs = site.road.buffer(0.1)
        for name in ("centre_lines", "lane_lines", "crossings", "lanes"):
            assert all(shape.within(kerbs) for shape in getattr(site, name)), (seed, name)
