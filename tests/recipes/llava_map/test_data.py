"""Step 3: what is stored, and who is held out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.core.records import Record
from lib.recipes.llava_map import arrays, data, roadmap, stand_in
from lib.recipes.llava_map.tables import read_frames

NOWHERE = Path("/nowhere")  # the split looks at records alone


def test_every_frame_is_prepared_with_cameras_pictures_and_lines(manifest, config):
    assert len(manifest.records) == 7 and all(record.status == "ok" for record in manifest.records)
    record = manifest.records[0]
    stored = arrays.read_arrays(manifest.arrays / f"{record.sample_id}.npz")
    size_px = config.data.height_px, config.data.width_px
    assert arrays.read_pictures(manifest.arrays / record.sample_id).shape == (6, 3, *size_px)
    counted = sum(int(record.columns[name]) for name in roadmap.CLASSES)
    assert counted == len(stored["labels"]) == len(arrays.lines_of(stored)) > 0


def test_intrinsics_follow_the_resize_on_each_axis(manifest, world, config):
    """400 x 225 to 200 x 112: the factors differ."""
    stored = arrays.read_arrays(manifest.arrays / f"{manifest.records[0].sample_id}.npz")["intrinsics"][0]
    token = manifest.records[0].sample_id.partition("/")[2]
    frame = next(frame for frame in read_frames(world, stand_in.VERSION)[0] if frame.token == token)
    original = frame.cameras[0].intrinsics
    assert np.allclose(stored[0], original[0] * config.data.width_px / 400)
    assert np.allclose(stored[1], original[1] * config.data.height_px / 225)


def test_an_overlay_is_there_to_be_looked_at(manifest):
    [picture] = (manifest.arrays / "overlays").glob("*.png")
    with Image.open(picture) as image:
        assert min(image.size) > 400


def test_prepared_frames_are_not_made_again(manifest, world, config):
    before = {path: path.stat().st_mtime_ns for path in manifest.arrays.rglob("*.npz")}
    list(data.prepare(config, {"nuscenes": world}, manifest.arrays))
    assert {path: path.stat().st_mtime_ns for path in manifest.arrays.rglob("*.npz")} == before


def test_broken_picture_is_skipped_and_named(world, tmp_path, config):
    root = shutil.copytree(world, tmp_path / "nuscenes")
    broken = next((root / "samples" / "CAM_BACK").glob("*.jpg"))
    broken.write_bytes(broken.read_bytes()[:100])
    skipped = [
        record for record in data.prepare(config, {"nuscenes": root}, tmp_path / "out") if record.status == "skipped"
    ]
    assert len(skipped) == 1 and broken.name in skipped[0].reason


def test_more_lines_than_queries_stop_the_run(world, tmp_path, config):
    config.model.instances = 1
    with pytest.raises(Stop, match=r"model\.instances is 1"):
        list(data.prepare(config, {"nuscenes": world}, tmp_path))


def test_missing_map_of_a_location_stops_the_run(world, tmp_path, config):
    root = shutil.copytree(world, tmp_path / "nuscenes")
    (root / "maps" / "expansion" / "boston-seaport.json").unlink()
    with pytest.raises(Stop, match=r"boston-seaport\.json is missing"):
        list(data.prepare(config, {"nuscenes": root}, tmp_path / "out"))


# ---------------------------------------------------------------------------------------------- split


def scenes(places: dict[str, list[tuple[float, float]]]) -> list[Record]:
    found = []
    for scene, points in places.items():
        found += [
            Record(f"{scene}/{i}", scene, "", "", columns={"location": "boston-seaport", "x_m": x, "y_m": y})
            for i, (x, y) in enumerate(points)
        ]
    return found


def test_official_split_follows_scene_names(config):
    records = scenes({"scene-0001": [(0, 0)], "scene-0003": [(9, 9)], "scene-0077": [(5, 5)]})  # train, val, test
    wish = data.split(config, records, NOWHERE)
    assert wish.val_groups == ("scene-0003",)
    assert list(wish.dropped) == ["scene-0077/0"] and "neither official list" in wish.dropped["scene-0077/0"]


def test_mini_has_its_own_official_split(config):
    """The first eight and the last two of the table, as the seed took them, are not it."""
    config.data.version = "v1.0-mini"
    records = scenes({name: [(0, 0)] for name in ("scene-0061", "scene-0103", "scene-0916", "scene-1100")})
    wish = data.split(config, records, NOWHERE)
    assert wish.val_groups == ("scene-0103", "scene-0916") and not wish.dropped


def test_geographic_split_holds_out_the_east_with_a_gap(config):
    config.data.split, config.data.geographic_share = "geographic", 0.25
    records = scenes(
        {"west": [(0, 0), (10, 0)], "middle": [(300, 0)], "near": [(960, 0), (930, 0)], "east": [(1000, 0), (1010, 0)]}
    )
    wish = data.split(config, records, NOWHERE)
    assert wish.val_groups == ("east",)
    assert sorted(wish.dropped) == ["near/0", "near/1"] and wish.dropped["near/0"] == "40 m from a held-out frame"


def test_share_of_seen_ground_is_told(config):
    records = scenes({"scene-0001": [(0, 0), (100, 0)], "scene-0003": [(3, 0), (50, 0)]})
    for record in records:
        record.split = "val" if record.group == "scene-0003" else "train"
        record.columns |= dict.fromkeys(roadmap.CLASSES, 1)
    summary = data.summarise_data(config, records)
    assert summary["val_share_within_5_m_of_train"] == 0.5 and summary["train"]["most_in_a_frame"] == 3
