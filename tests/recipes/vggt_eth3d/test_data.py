import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.core.order import Key
from lib.core.records import Manifest
from lib.recipes.vggt_eth3d.data import prepare, seen_share, split, summarise_data, surface
from lib.recipes.vggt_eth3d.samples import sampler
from tests.recipes.vggt_eth3d.conftest import STAGE


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
    assert summary.pop("valid_share") > 0.8 and summary == {"images": 6, "skipped": 0, "depth": "map"}


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


def truncate_depth(scene):
    path = scene / "ground_truth_depth/dslr_images/DSC_0002.JPG"
    path.write_bytes(path.read_bytes()[:-1000])


FAULTS = [
    (damage_image, "cannot be decoded"),
    (remove_image, "listed but absent"),
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


def test_scene_with_one_usable_image_is_refused(streets, settings, tmp_path):
    for number in range(2, 7):
        (streets / f"linden/images/dslr_images_undistorted/DSC_000{number}.JPG").unlink()
    with pytest.raises(Stop, match=r"linden has 1 usable images.*5 skipped.*DSC_0002\.JPG is listed but absent"):
        prepared(settings(), streets, tmp_path / "out")


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


# ---------------------------------------------------------------------------------------------- regions


def write_masks(folder, scene, names, size=(216, 144)):
    """The left half of the photograph is the region."""
    (folder / scene).mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = 1
    for name in names:
        Image.fromarray(mask).save(folder / scene / f"{name}.png")


def with_regions(settings, rendered, masks, out):
    return list(prepare(settings(data__region_masks=str(masks)), {"scenes": rendered, "regions": masks}, out))


def test_region_masks_are_cropped_like_their_photographs(rendered, settings, tmp_path, capsys):
    masks, out = tmp_path / "masks", tmp_path / "out"
    write_masks(masks, "linden", [f"DSC_000{i}" for i in range(1, 6)])
    write_masks(masks, "harbour", ["DSC_0001", "DSC_9999"])
    records = with_regions(settings, rendered, masks, out)
    assert [record.columns["region"] for record in records] == ["mask"] * 5 + ["none"] + ["mask"] + ["none"] * 5
    region = np.load(out / "linden" / "DSC_0001.region.npy")
    assert region.dtype == bool
    assert region[:, :62].all() and not region[:, 65:].any()  # the principal point is in column 63
    assert not np.load(out / "linden" / "DSC_0006.region.npy").any()
    said = capsys.readouterr().out
    assert "6 of 12 photographs have no region mask" in said and "linden/DSC_0006" in said
    assert "1 region masks belong to no photograph: harbour/DSC_9999" in said
    summary = summarise_data(settings(data__region_masks=str(masks)), records)
    assert [summary[scene]["without_region_mask"] for scene in ("linden", "harbour")] == [1, 5]


def test_samples_carry_the_region_when_there_are_masks(rendered, settings, tmp_path):
    write_masks(tmp_path / "masks", "linden", [f"DSC_000{i}" for i in range(1, 7)])
    records = with_regions(settings, rendered, tmp_path / "masks", tmp_path / "out")
    for record in records:
        record.split = "val" if record.group == "harbour" else "train"
    for config, present in ((settings(data__region_masks="masks", data__scale_jitter=0.3), True), (settings(), False)):
        sample = sampler(config, STAGE, Manifest(records, tmp_path / "out"), "train").draw(0, Key(1, 0, 0))
        assert ("region" in sample) == present
        if present:
            region = sample["region"]
            assert region.shape == (3, 84, 126) and region[:, :, :60].all() and not region[:, :, 67:].any()


def test_masks_that_belong_to_no_photograph_at_all_are_refused(rendered, settings, tmp_path):
    write_masks(tmp_path / "masks", "linden", ["IMG_1"])
    said = r"no mask in .* belongs to a photograph: there is no linden/DSC_0001\.png, but linden/IMG_1\.png"
    with pytest.raises(Stop, match=said):
        with_regions(settings, rendered, tmp_path / "masks", tmp_path / "out")


def test_mask_of_another_size_is_refused_with_its_view(rendered, settings, tmp_path):
    write_masks(tmp_path / "masks", "linden", ["DSC_0001"])
    write_masks(tmp_path / "masks", "linden", ["DSC_0002"], size=(108, 72))
    records = with_regions(settings, rendered, tmp_path / "masks", tmp_path / "out")
    skipped = [record for record in records if record.status == "skipped"]
    assert [record.sample_id for record in skipped] == ["linden/DSC_0002"]
    assert "DSC_0002.png is 108 x 72 pixels" in skipped[0].reason


def test_several_scenes_without_named_ones_split_by_share(rendered, settings, tmp_path):
    config = settings(data__scenes=["linden", "harbour"], data__val_scenes=[], data__train_val_split=0.6)
    wish = split(config, prepared(config, rendered, tmp_path), tmp_path)
    assert wish.by == "scene" and not wish.dropped
    assert len(wish.val_groups) == 1 and set(wish.val_groups) < {"linden", "harbour"}


def test_scenes_split_by_name(settings):
    wish = split(settings(), [], Path())
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


def test_seen_share_is_one_from_the_same_place_half_after_half_a_width_and_none_from_behind():
    camera = np.array([[40.0, 0, 40], [0, 40, 30], [0, 0, 1]])
    wall = np.full((60, 80), 10.0, np.float32)  # 10 away: 80 px are 20 wide
    here = np.eye(3, 4)
    aside = here.copy()
    aside[0, 3] = -10
    behind = np.diag([-1.0, 1, -1]) @ here
    world = surface(wall, camera, here)
    assert seen_share(world, wall, camera, here) == 1
    assert seen_share(world, wall, camera, aside) == pytest.approx(0.5)
    assert seen_share(world, wall, camera, behind) == 0
    assert seen_share(world, wall * 2, camera, here) == 0  # another surface in front


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
