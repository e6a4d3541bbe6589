import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from lib.core.errors import Stop
from lib.scenes import colmap
from lib.scenes.data import prepare, say_what_is_taken_for_metres, split, summarise_data


def prepared(config, root, out):
    return list(prepare(config, {"scenes": root}, out))


def contents(folder):
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_every_image_gets_a_record_and_arrays_at_network_resolution(rendered, settings, tmp_path):
    records = prepared(settings(), rendered, tmp_path)
    assert [record.sample_id for record in records[:2]] == ["linden/DSC_0001", "linden/DSC_0002"]
    assert {record.group for record in records} == {"linden", "harbour"} and len(records) == 12
    assert records[0].source == "asset:scenes/linden/images/dslr_images_undistorted/DSC_0001.JPG"
    hashes = {record.perceptual_hash for record in records}
    assert len(records[0].sha256) == 64 and len(hashes) == 12 and {len(one) for one in hashes} == {64}
    image, depth = (np.load(tmp_path / "linden" / f"DSC_0001.{kind}.npy", mmap_mode="r") for kind in ("image", "depth"))
    assert (image.shape, image.dtype, depth.shape, depth.dtype) == ((84, 126, 3), np.uint8, (84, 126), np.float32)
    summary = summarise_data(settings(), records)["linden"]
    assert summary.pop("valid_share") > 0.8 and summary.pop("kept_share") == 1
    assert summary == {"images": 6, "skipped": 0, "depth": "map", "unit": "m"}


def test_interrupted_preparation_continues_without_doing_a_view_twice(rendered, settings, tmp_path):
    whole = prepared(settings(), rendered, tmp_path / "whole")
    first = list(itertools.islice(prepare(settings(), {"scenes": rendered}, tmp_path / "parts"), 4))
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*.npy")}
    assert len(kept) == 8 and not (tmp_path / "parts" / "linden" / "scene.json").exists()
    second = prepared(settings(), rendered, tmp_path / "parts")
    assert second == whole and first == whole[:4]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def damage_image(scene):
    (scene / "images/dslr_images_undistorted/DSC_0002.JPG").write_bytes(b"broken")


def remove_image(scene):
    (scene / "images/dslr_images_undistorted/DSC_0002.JPG").unlink()


def blacken_image(scene):
    path = scene / "images/dslr_images_undistorted/DSC_0002.JPG"
    Image.new("RGB", (216, 144)).save(path)


def truncate_depth(scene):
    path = scene / "ground_truth_depth/dslr_images/DSC_0002.JPG"
    path.write_bytes(path.read_bytes()[:-1000])


FAULTS = [
    (damage_image, "it is damaged"),
    (remove_image, "listed but absent"),
    (blacken_image, "one colour"),
    (truncate_depth, "bytes, but 216 x 144 x 4"),
]


@pytest.mark.parametrize("fault, reason", FAULTS)
def test_bad_file_is_named_skipped_and_counted(streets, settings, tmp_path, fault, reason):
    fault(streets / "linden")
    records = prepared(settings(), streets, tmp_path / "out")
    skipped = [record for record in records if record.status == "skipped"]
    assert [record.sample_id for record in skipped] == ["linden/DSC_0002"]
    assert "DSC_0002.JPG" in skipped[0].reason and reason in skipped[0].reason
    assert summarise_data(settings(), records)["linden"]["skipped"] == 1
    stored = json.loads((tmp_path / "out" / "linden" / "scene.json").read_text())
    assert "DSC_0002" not in stored["views"] and np.array(stored["covisibility"]).shape == (5, 5)
    assert not (tmp_path / "out" / "linden" / "DSC_0002.depth.npy").exists()


def test_a_wide_crop_of_portrait_photographs_is_said_and_stored(rendered, settings, tmp_path, capsys):
    whole = prepared(settings(), rendered, tmp_path / "whole")
    assert "cropped" not in capsys.readouterr().out
    records = prepared(settings(model__image_width_px=84, model__image_height_px=84), rendered, tmp_path / "square")
    assert [found[0].columns["kept_share"] for found in (whole, records)] == pytest.approx([1, 2 / 3], abs=0.01)
    said = "linden: 67% of the photographs' area is seen, the rest is cropped: they have 216 x 144 px"
    assert f"{said}, the network 84 x 84 (model.image_width_px, model.image_height_px)" in capsys.readouterr().out
    assert {record.columns["masked_share"] for record in records} == {0}


def colmap_scene(folder, cameras, size=(168, 126), scale=1.0, seed=0):
    """Six photographs of noise that look the same way, and 400 points before them, as COLMAP's text model."""
    generator = np.random.default_rng(seed)
    (folder / "sparse" / "0").mkdir(parents=True)
    (folder / "images").mkdir()
    points = np.stack([*generator.uniform(-3, 3, (2, 400)), generator.uniform(6, 9, 400)], 1) * scale
    lines, tracks = [], " ".join(f"5 5 {i + 1}" for i in range(400))
    for i in range(6):
        noise = generator.integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).save(folder / "images" / f"{i}.png")
        lines += [f"{i + 1} 1 0 0 0 {-0.2 * i * scale} 0 0 1 {i}.png", tracks]
    (folder / "sparse" / "0" / "cameras.txt").write_text(f"1 {cameras}\n")
    (folder / "sparse" / "0" / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{i + 1} {x} {y} {z} 9 9 9 0.1" for i, (x, y, z) in enumerate(points)]
    (folder / "sparse" / "0" / "points3D.txt").write_text("\n".join(rows) + "\n")
    return points


@pytest.mark.parametrize("cameras, masked", [
    ("SIMPLE_RADIAL 168 126 92 84 63 -0.25", True), ("RADIAL_FISHEYE 168 126 110 84 63 0.02 0", False),
    ("OPENCV_FISHEYE 168 126 50 50 84 63 0.01 0 0 0", False), ("PINHOLE 168 126 150 150 84 63", False),
])  # fmt: skip
def test_every_view_of_a_wide_lens_is_used(settings, tmp_path, cameras, masked):
    colmap_scene(tmp_path / "in" / "linden", cameras)
    shutil.copytree(tmp_path / "in" / "linden", tmp_path / "in" / "harbour")
    config = settings(data__root=str(tmp_path / "in"), model__image_width_px=112)
    records = prepared(config, tmp_path / "in", tmp_path / "out")
    assert [record.status for record in records] == ["ok"] * 12
    assert {record.columns["masked_share"] > 0 for record in records} == {masked}
    assert {record.columns["unit"] for record in records} == {""}
    depth = np.load(tmp_path / "out" / "linden" / "0.depth.npy")
    assert np.isfinite(depth).all() and (depth > 0).sum() > 100
    summary = summarise_data(config, records)["linden"]
    assert summary["unit"] == "unknown" and ("masked_share" in summary) == masked


def test_a_standing_photograph_among_lying_ones_is_prepared_whole(rendered, settings, tmp_path):
    """The same photograph, turned by a quarter: the others keep their arrays, and its depth is what it was, turned."""
    plain = plain_layout(rendered / "linden", tmp_path / "lying" / "linden")
    turned = shutil.copytree(plain, tmp_path / "mixed" / "linden")
    stand_up(turned, "DSC_0002.JPG")
    config = settings(data__scenes=["linden"], data__val_scenes=[])
    lying, mixed = (
        prepared(config, root, out) for root, out in ((plain.parent, tmp_path / "a"), (turned.parent, tmp_path / "b"))
    )
    kept = [{record.sample_id: record.columns["kept_share"] for record in records} for records in (lying, mixed)]
    assert kept[1] == kept[0] and mixed[1].columns["masked_share"] > 0.4
    arrays = [contents(out / "linden") for out in (tmp_path / "a", tmp_path / "b")]
    other = {name for name in arrays[0] if arrays[0][name] != arrays[1].get(name)}
    assert other == {"DSC_0002.image.npy", "DSC_0002.depth.npy", "scene.json"}
    whole, small = (np.load(tmp_path / out / "linden" / "DSC_0002.depth.npy") for out in "ab")
    rows, columns = np.nonzero(small)
    assert len(rows) > 30 and abs(columns - 63).max() <= 84 / 126 * 42 + 1  # 84 px high, so 56 wide
    # One pixel of the standing picture is 1.5 of the lying one; it is turned clockwise about the principal point.
    row, column = np.rint(42 - 1.5 * (columns - 63)).astype(int), np.rint(63 + 1.5 * (rows - 42)).astype(int)
    there = whole[row.clip(0, 83), column.clip(0, 125)]
    both = there > 0
    assert both.sum() > 5 and np.median(np.abs(small[rows, columns][both] / there[both] - 1)) < 0.02


def plain_layout(street, folder):
    """images/ and sparse/0 alone: depth comes from points."""
    shutil.copytree(street / "images", folder / "images")
    shutil.copytree(street / "dslr_calibration_undistorted", folder / "sparse" / "0")
    return folder


def stand_up(scene, name):
    """Turns a photograph clockwise, with its camera: x' = height - y, y' = x."""
    [path] = scene.rglob(name)
    Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path, quality=95)
    cameras, images = (scene / "sparse" / "0" / f"{part}.txt" for part in ("cameras", "images"))
    [camera] = [line.split() for line in cameras.read_text().splitlines() if not line.startswith("#")]
    _, model, width, height, fx, fy, cx, cy = camera
    assert model == "PINHOLE"
    cameras.write_text(cameras.read_text() + f"9 PINHOLE {height} {width} {fy} {fx} {float(height) - float(cy)} {cx}\n")
    lines = images.read_text().splitlines()
    [at] = [number for number, line in enumerate(lines) if line.endswith(name)]
    number, *pose, _, called = lines[at].split()
    quarter = Rotation.from_matrix([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    w, x, y, z = map(float, pose[:4])
    x, y, z, w = (quarter * Rotation.from_quat([x, y, z, w])).as_quat()
    t = quarter.apply(np.array(pose[4:7], float))
    lines[at] = f"{number} {w} {x} {y} {z} {t[0]} {t[1]} {t[2]} 9 {called}"
    keypoints = np.array(lines[at + 1].split(), float).reshape(-1, 3)
    turned = [f"{float(height) - y} {x} {point:.0f}" for x, y, point in keypoints]
    lines[at + 1] = " ".join(turned)
    images.write_text("\n".join(lines) + "\n")


def test_depth_and_poses_in_two_units_are_refused(settings, tmp_path, capsys):
    """16-bit depth in metres beside a model in a unit of its own."""
    points = colmap_scene(tmp_path / "in" / "linden", "PINHOLE 168 126 150 150 84 63", scale=0.2)
    shutil.copytree(tmp_path / "in" / "linden", tmp_path / "in" / "harbour")
    (tmp_path / "in" / "linden" / "depth").mkdir()
    for i in range(6):
        depth = np.zeros((126, 168), np.uint16)
        x, y, z = (points - np.array([0.04 * i, 0, 0])).T
        column, row = (150 * x / z + 84).astype(int), (150 * y / z + 63).astype(int)
        inside = (column >= 0) & (column < 168) & (row >= 0) & (row < 126)
        depth[row[inside], column[inside]] = 1000 * 5 * z[inside]  # millimetres: the model is 0.2 of it
        Image.fromarray(depth).save(tmp_path / "in" / "linden" / "depth" / f"{i}.png")
    config = settings(data__root=str(tmp_path / "in"), model__image_width_px=112, data__depth_scale=1000.0)
    with pytest.raises(Stop, match=r"linden is (4\.9|5|5\.0)\d* times what its COLMAP model says"):
        prepared(config, tmp_path / "in", tmp_path / "out")
    shown = capsys.readouterr().out
    assert "linden: depth over data.depth_scale=1000 is taken to be in metres" in shown
    say_what_is_taken_for_metres(config, colmap.read(tmp_path / "in" / "harbour"))
    assert not capsys.readouterr().out


def test_scene_with_one_usable_image_is_refused_when_its_reasons_are_known(streets, settings, tmp_path):
    for number in range(2, 7):
        (streets / f"linden/images/dslr_images_undistorted/DSC_000{number}.JPG").unlink()
    records = prepared(settings(), streets, tmp_path / "out")
    assert sum("is listed but absent" in record.reason for record in records) == 5
    with pytest.raises(Stop, match=r"the scene linden has 1 usable image of 6, but a sample needs two"):
        split(settings(), records, tmp_path / "out")


def test_depth_without_a_scale_skips_its_views_and_says_what_to_set(settings, tmp_path):
    colmap_scene(tmp_path / "in" / "linden", "PINHOLE 168 126 150 150 84 63")
    shutil.copytree(tmp_path / "in" / "linden", tmp_path / "in" / "harbour")
    (tmp_path / "in" / "linden" / "depth").mkdir()
    Image.fromarray(np.full((126, 168), 900, np.uint16)).save(tmp_path / "in" / "linden" / "depth" / "3.png")
    config = settings(data__root=str(tmp_path / "in"), model__image_width_px=112)
    [skipped] = [r for r in prepared(config, tmp_path / "in", tmp_path / "out") if r.status == "skipped"]
    assert skipped.sample_id == "linden/3"
    assert "needs a scale" in skipped.reason and "(set data.depth_scale)" in skipped.reason


def test_missing_data_root_is_refused(settings, tmp_path):
    with pytest.raises(Stop, match="nowhere is missing") as stop:
        prepared(settings(), tmp_path / "nowhere", tmp_path / "out")
    assert "data.root" in stop.value.command


def test_without_a_depth_map_the_points_give_depth(streets, settings, tmp_path):
    dense = prepared(settings(), streets, tmp_path / "dense")
    shutil.rmtree(streets / "linden" / "ground_truth_depth")
    sparse = prepared(settings(), streets, tmp_path / "sparse")
    assert (dense[0].columns["depth"], sparse[0].columns["depth"]) == ("map", "points")
    assert 0 < sparse[0].columns["valid_share"] < 0.1 < dense[0].columns["valid_share"]
    a, b = (np.load(tmp_path / kind / "linden" / "DSC_0001.depth.npy") for kind in ("dense", "sparse"))
    both = (a > 0) & (b > 0)
    assert both.sum() > 50 and np.median(np.abs(a[both] / b[both] - 1)) < 0.005


def test_several_scenes_without_named_ones_split_by_share(rendered, settings, tmp_path):
    config = settings(data__scenes=["linden", "harbour"], data__val_scenes=[], data__train_val_split=0.6)
    wish = split(config, prepared(config, rendered, tmp_path), tmp_path)
    assert wish.by == "scene" and not wish.dropped
    assert len(wish.val_groups) == 1 and set(wish.val_groups) < {"linden", "harbour"}


def test_scenes_split_by_name(rendered, settings, tmp_path):
    wish = split(settings(), prepared(settings(), rendered, tmp_path), Path())
    assert (wish.by, wish.val_groups, wish.dropped) == ("scene", ("harbour",), {})


def test_single_scene_splits_into_views_with_a_gap(rendered, settings, tmp_path):
    config = settings(data__val_scenes=[], data__train_val_split=0.7, data__gap_covisibility=0.5)
    records = prepared(config, rendered, tmp_path)
    stored = json.loads((tmp_path / "linden" / "scene.json").read_text())
    apart = np.abs(np.subtract.outer(range(6), range(6)))
    stored["covisibility"] = np.maximum(0, 1 - 0.3 * apart).tolist()  # neighbours share 70 %, the next ones 40 %
    (tmp_path / "linden" / "scene.json").write_text(json.dumps(stored))
    wish = split(config, records, tmp_path)
    held_out = [record.sample_id for record in records if record.group in wish.val_groups]
    assert held_out == ["linden/DSC_0005", "linden/DSC_0006"] and "gap" in wish.by
    reason = "shares 70% of what it sees with the held-out view linden/DSC_0005"
    assert wish.dropped == {"linden/DSC_0004": reason}


def test_single_scene_whose_views_all_overlap_is_refused(rendered, settings, tmp_path):
    config = settings(data__val_scenes=[], data__gap_covisibility=0.01)
    records = prepared(config, rendered, tmp_path)
    with pytest.raises(Stop, match="dropped for the gap, 0 left to train"):
        split(config, records, tmp_path)


def test_covisibility_comes_from_depth_where_there_are_no_points(streets, settings, tmp_path):
    prepared(settings(), streets, tmp_path / "points")
    for model in ("dslr_calibration_undistorted", "dslr_calibration_jpg"):
        (streets / "linden" / model / "points3D.txt").write_text("")
        images = streets / "linden" / model / "images.txt"
        images.write_text("".join(line + "\n\n" for line in images.read_text().split("\n") if ".JPG" in line))
    prepared(settings(), streets, tmp_path / "depth")
    stored = [json.loads((tmp_path / kind / "linden" / "scene.json").read_text()) for kind in ("points", "depth")]
    points, depth = (np.array(scene["covisibility"]) for scene in stored)
    np.testing.assert_array_equal(depth, depth.T)
    assert (depth.diagonal() == 1).all() and 0 < depth.min() < 0.5
    assert points.sum(0).argmin() == depth.sum(0).argmin()  # both find the same loner


def test_points_that_no_photograph_says_it_sees_leave_covisibility_to_depth(settings, tmp_path):
    """Some programs export points without tracks."""
    for number, name in enumerate(("linden", "harbour")):
        points = colmap_scene(tmp_path / "in" / name, "PINHOLE 168 126 150 150 84 63", seed=number)
        images = tmp_path / "in" / name / "sparse" / "0" / "images.txt"
        images.write_text("\n".join(line if ".png" in line else "" for line in images.read_text().splitlines()) + "\n")
        (tmp_path / "in" / name / "depth").mkdir()
        for i in range(6):
            wall = np.full((126, 168), points[:, 2].mean(), np.float32)
            np.save(tmp_path / "in" / name / "depth" / f"{i}.npy", wall)
    prepared(settings(data__root=str(tmp_path / "in"), model__image_width_px=112), tmp_path / "in", tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "linden" / "scene.json").read_text())
    assert np.array(stored["covisibility"]).min() > 0.5
    (tmp_path / "in" / "linden" / "depth").rename(tmp_path / "in" / "linden" / "depths")
    (tmp_path / "in" / "linden" / "depth").mkdir()
    np.save(tmp_path / "in" / "linden" / "depth" / "0-depth.npy", np.ones((126, 168)))
    with pytest.raises(Stop, match=r"there is depth/0-depth\.npy"):
        prepared(settings(data__root=str(tmp_path / "in")), tmp_path / "in", tmp_path / "other")
