"""What is skipped, shards, the split."""

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.recipes.hamer import crop, data, formats, labelled, samples, windows
from lib.recipes.hamer.hand import stand_in_hand
from tests.recipes.hamer.conftest import flat_only, records_of


def edit_first(**changes):
    return lambda entries: entries[0].update(changes)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"box": [50, 50, 50, 50], "keypoints_2d": None}, "the box has no area"),
    ({"box": [900, 50, 960, 90], "keypoints_2d": None}, "lies outside the image of 160 x 140 px"),
    (
        {"keypoints_2d": [[400.0, 19.0 * i] for i in range(21)]},
        "2D keypoints lie outside the crop: pixels of the whole image are expected",
    ),
    ({"keypoints_2d": [[9999.0] * 2] + [[60.0 + i, 70] for i in range(20)]}, "a 2D keypoint lies over 3 sides of the"),
    ({"keypoints_2d": [[60 + 0.02 * i, 70] for i in range(21)]}, "the 2D keypoints lie within 5 % of the crop"),
    ({"keypoints_3d": (10.0 * np.cumsum(np.ones((21, 3)), 0)).tolist()}, "3D keypoints are expected in metres"),
    ({"keypoints_3d": [[float("nan")] * 3] * 21}, "a label is not finite"),
    ({"file": "absent.png"}, "the image cannot be used: the file is missing"),
    ({"hand": "rihgt"}, "hand is 'rihgt', but only left and right are known"),
    ({"keypoints_3d": [[0.0, 0, 0]] * 20}, r"keypoints_3d has the shape (20, 3) instead of (21, 3) or (21, 4)"),
    ({"box": [0, 0, 1e6, 1e6], "keypoints_2d": None}, "far larger than the image"),
])  # fmt: skip
def test_unusable_hand_is_skipped_with_its_reason(folder, changes, reason):
    _, records = folder(edit_first(**changes))
    assert records[0].status == "skipped" and reason in records[0].reason
    assert [record.status for record in records[1:]] == ["ok"] * 3


def test_a_hand_that_is_listed_twice_counts_once(folder):
    """Two lists put together: without a word every hand would weigh twice, and intervals be too narrow."""

    def again(entries):
        entries += [dict(entries[0]), entries[1] | {"hand": "left"}, entries[2] | {"draft": True}]

    _, records = folder(again)
    assert [record.status for record in records] == ["ok"] * 4 + ["skipped", "ok", "ok"]
    assert "it is there twice" in records[4].reason


def test_file_that_is_no_picture_is_skipped(folder, tmp_path, configure, labelled):
    root = labelled()
    (root / "0.png").write_bytes((root / "0.png").read_bytes()[:500])
    config = configure(data__format="folder", data__root=str(root))
    records = records_of(config, root, tmp_path / "prepared")
    assert records[0].status == "skipped" and "cannot be decoded" in records[0].reason


def test_data_that_is_mostly_unusable_stops_the_run_with_the_commonest_reason(folder, tmp_path):
    def spoil(entries):
        entries[0]["hand"] = "both"
        for number, entry in enumerate(entries[1:3]):
            entry["file"] = f"absent{number}.png"

    config, records = folder(spoil)
    said = "3 of 4 hands cannot be used; 2 of them like absent0.png#1: the image cannot be used: the file is missing"
    with pytest.raises(Stop, match=said):
        data.split(config, records, tmp_path)
    assert [record.status for record in records] == ["skipped"] * 3 + ["ok"]  # none is dropped


# ---------------------------------------------------------------------------------------------- pictures


def stored(labelled, configure, tmp_path, **images):
    """Records and arrays of a labelled folder of which some pictures are replaced; name -> how it is saved."""
    root = labelled()
    for name, save in images.items():
        save(root / f"{name.removeprefix('p')}.png")
    config = configure(data__format="folder", data__root=str(root))
    records = records_of(config, root, tmp_path / "prepared")
    return records, samples.Shards(tmp_path / "prepared")


def test_16_bit_pictures_are_scaled_and_one_of_one_colour_is_skipped_by_name(labelled, configure, tmp_path):
    levels = np.random.default_rng(1).integers(0, 60_000, (140, 160), np.uint16)
    grey, black = Image.fromarray(levels), Image.new("RGB", (160, 140))
    records, shards = stored(labelled, configure, tmp_path, p1=grey.save, p2=black.save)
    assert [record.status for record in records] == ["ok", "ok", "skipped", "ok"]
    assert records[2].reason == "the image cannot be used: it is a picture of one colour"
    pixels = shards.pixels(records[1])
    low = np.maximum(np.floor(np.array([70.0, 70]) - 160 - 2), 0).astype(int)
    expected = np.round(levels / 257)[low[1] : low[1] + pixels.shape[0], low[0] : low[0] + pixels.shape[1]]
    assert np.abs(pixels - expected[..., None]).max() <= 1


def test_what_lies_under_transparent_pixels_is_not_seen(labelled, configure, tmp_path):
    levels = np.random.default_rng(1).integers(0, 255, (140, 160, 4), np.uint8)
    levels[..., 3] = np.where(np.arange(160) < 80, 0, 255)
    records, shards = stored(labelled, configure, tmp_path, p1=Image.fromarray(levels).save)
    pixels = shards.pixels(records[1])
    assert (pixels[:, :80] == 255).all() and pixels[:, 80:].std() > 50


def test_a_sideways_photograph_is_turned_upright_before_its_boxes_are_applied(labelled, configure, tmp_path):
    """EXIF orientation 6: the camera stored the picture turned by 90 degrees."""
    upright = np.random.default_rng(1).integers(0, 255, (140, 160, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    sideways = Image.fromarray(np.rot90(upright))
    records, shards = stored(labelled, configure, tmp_path, p1=lambda path: sideways.save(path, exif=exif))
    assert records[1].status == "ok" and shards.pixels(records[1]).shape == (140, 160, 3)
    assert (shards.pixels(records[1]) == upright).all()


def test_a_picture_without_box_is_measured_upright(labelled, configure, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    root = labelled(lambda entries: [entry.update(box=None, keypoints_2d=None) for entry in entries])
    Image.new("RGB", (60, 100), (1, 2, 3)).save(root / "0.png", exif=exif)
    [hand, *_] = formats.hands(configure(data__format="folder").data, root, stand_in_hand())
    assert hand.centre.tolist() == [49.5, 29.5] and hand.side_px == 100


def test_a_decompression_bomb_is_skipped_by_name(labelled, configure, tmp_path):
    bomb = Image.new("1", (14000, 14000))
    records, _ = stored(labelled, configure, tmp_path, p1=bomb.save)
    assert records[1].status == "skipped" and "too large to be read" in records[1].reason


def test_finished_shard_is_read_back_and_foreign_one_refused(configure, made, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 4)
    config, out = configure(), tmp_path / "prepared"
    first = records_of(config, made, out)
    assert len(list(out.glob("shard-*.safetensors"))) == 3
    monkeypatch.setattr(data, "write_shard", None)  # nothing may be made again
    assert records_of(config, made, out) == first
    (out / "shard-00000.safetensors").rename(out / "shard-00001.safetensors")
    (out / "shard-00000.safetensors").write_bytes((out / "shard-00002.safetensors").read_bytes())
    with pytest.raises(Stop, match="made from other data"):
        records_of(config, made, out)


def test_large_boxes_are_reduced_and_labels_go_along(configure, tmp_path):
    picture = np.zeros((900, 900, 3), np.uint8)
    picture[449:452, 599:602] = 255  # around pixel (600, 450)
    labels = crop.Labels()
    labels.keypoints_2d[0] = [600, 450, 1]
    hand = labelled.Hand("a", "g", b"", "a", True, np.array([500.0, 450.0]), 400.0)
    found = windows.window(picture, hand, labels, 128)
    x, y = found["keypoints_2d"][0, :2]
    assert found["side_px"] == pytest.approx(400 / 3)
    brightest = np.unravel_index(found["pixels"][..., 0].argmax(), found["pixels"].shape[:2])
    assert abs(brightest[1] - x) <= 0.5 and abs(brightest[0] - y) <= 0.5


def test_split_holds_out_whole_groups_and_names_unknown_ones(manifest, configure):
    config, prepared = manifest
    assert data.split(config, prepared.records, prepared.arrays).val_groups == ("subject-02",)
    with pytest.raises(Stop, match="names 'subject-9'; there are: subject-00, subject-01, subject-02"):
        data.split(configure(data__val_groups=["subject-9"]), prepared.records, prepared.arrays)


@pytest.mark.parametrize(("times", "boxes", "said"), [
    (2, False, "90 % of the hands lie in the upper left quarter of their pictures"),
    (2, True, "upper left quarter"),
    (0.5, False, r"most hands reach 1\.29 times as far as their pictures"),
    (0.5, True, "times as far as their pictures: their labels are of larger ones"),
])  # fmt: skip
def test_labels_of_pictures_of_another_size_stop_step_3(labelled, configure, tmp_path, times, boxes, said):
    """Photographs that somebody has reduced or enlarged, beside the list of those that were labelled."""

    def keep_boxes(entries):
        for entry in entries if boxes else ():
            del entry["keypoints_2d"], entry["keypoints_3d"]

    root = labelled(keep_boxes, count=20)
    for path in root.glob("*.png"):
        picture = Image.open(path)
        picture.resize((round(picture.width * times), round(picture.height * times))).save(path)
    settings = {"data__format": "folder", "data__root": str(root), "data__truth": "2d"}
    records = records_of(configure(**settings), root, tmp_path / "prepared")
    assert {record.status for record in records} == {"ok"}
    with pytest.raises(Stop, match=said):
        data.split(configure(**settings), records, tmp_path)
    assert data.split(configure(**settings, data__trust_labels=True), records, tmp_path).val_groups


def test_a_list_that_names_no_person_says_how_to_name_one(folder, tmp_path):
    def nameless(entries):
        for entry in entries:
            del entry["group"]

    config, records = folder(nameless)
    with pytest.raises(Stop, match="every hand is of one group") as stopped:
        data.split(config, records, tmp_path)
    assert '"group"' in stopped.value.command


def test_data_without_the_asked_truth_is_refused(folder, tmp_path):
    config, records = folder(flat_only)
    with pytest.raises(Stop, match="no hand has keypoints in 3d"):
        data.split(config, records, tmp_path)


def test_confidences_as_stored_lie_between_0_and_1(folder, tmp_path):
    def visibility(entries):
        for number, entry in enumerate(entries):
            seen = [-1 if joint == 7 else 1 + (joint + number) % 2 for joint in range(21)]
            entry["keypoints_2d"] = [[*point, level] for point, level in zip(entry["keypoints_2d"], seen, strict=True)]

    _, records = folder(visibility)
    shards = samples.Shards(tmp_path / "prepared")
    weights = np.stack([shards.labels(record).keypoints_2d[:, 2] for record in records])
    assert set(np.unique(weights).tolist()) == {0.0, 0.5, 1.0} and (weights[:, 7] == 0).all()


def test_a_mesh_needs_pose_and_shape(folder):
    def pose_alone(entries):
        entries[0]["hand_pose"] = [0.0] * 48

    _, records = folder(pose_alone)
    assert not any(record.columns["mesh"] for record in records)


def test_the_sides_are_counted(manifest):
    config, prepared = manifest
    prepared.records[0].split = "select"
    assert data.summarise_data(config, prepared.records)["hands by side"] == {"select": 1, "train": 5, "test": 3}
