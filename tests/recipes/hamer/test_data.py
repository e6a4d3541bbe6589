"""What is skipped, shards, the split."""

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.recipes.hamer import crop, data, labelled
from tests.recipes.hamer.conftest import flat_only, records_of


def edit_first(**changes):
    return lambda entries: entries[0].update(changes)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"box": [50, 50, 50, 50], "keypoints_2d": None}, "the box has no area"),
    ({"box": [900, 50, 960, 90], "keypoints_2d": None}, "lies outside the image of 160 x 140 px"),
    (
        {"keypoints_2d": [[900.0, 20.0 * i] for i in range(21)]},
        "2D keypoints lie outside the crop: pixels of the whole image are expected",
    ),
    ({"keypoints_2d": [[0.02 * i, 0.5] for i in range(21)]}, "the 2D keypoints lie within 5 % of the crop"),
    ({"keypoints_3d": (10.0 * np.cumsum(np.ones((21, 3)), 0)).tolist()}, "3D keypoints are expected in metres"),
    ({"keypoints_3d": [[float("nan")] * 3] * 21}, "a label is not finite"),
    ({"file": "absent.png"}, "the image is missing"),
])  # fmt: skip
def test_unusable_hand_is_skipped_with_its_reason(folder, changes, reason):
    _, records = folder(edit_first(**changes))
    assert records[0].status == "skipped" and reason in records[0].reason
    assert [record.status for record in records[1:]] == ["ok"] * 3


def test_file_that_is_no_picture_is_skipped(folder, tmp_path, configure, labelled):
    root = labelled()
    (root / "0.png").write_bytes((root / "0.png").read_bytes()[:500])
    config = configure(data__format="folder", data__root=str(root))
    records = records_of(config, root, tmp_path / "prepared")
    assert records[0].status == "skipped" and "cannot be decoded" in records[0].reason


def test_data_that_is_mostly_unusable_stops_the_run(folder, tmp_path):
    config, records = folder(lambda entries: [entry.update(keypoints_2d=[[0.4, 0.5]] * 21) for entry in entries])
    with pytest.raises(Stop, match="4 of 4 hands cannot be used"):
        data.split(config, records, tmp_path)


def test_finished_shard_is_read_back_and_foreign_one_refused(configure, made, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SHARD", 4)
    config, out = configure(), tmp_path / "prepared"
    first = records_of(config, made, out)
    assert len(list(out.glob("shard-*.safetensors"))) == 3
    monkeypatch.setattr(data, "one", None)  # nothing may be made again
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
    hand = labelled.Hand("a", "g", b"", "a", True, np.array([500.0, 450.0]), 400.0, labels)
    found = data.window(picture, hand, labels, 128)
    x, y = found["keypoints_2d"][0, :2]
    assert found["side_px"] == pytest.approx(400 / 3)
    brightest = np.unravel_index(found["pixels"][..., 0].argmax(), found["pixels"].shape[:2])
    assert abs(brightest[1] - x) <= 0.5 and abs(brightest[0] - y) <= 0.5


def test_split_holds_out_whole_groups_and_names_unknown_ones(manifest, configure):
    config, prepared = manifest
    assert data.split(config, prepared.records, prepared.arrays).val_groups == ("subject-02",)
    with pytest.raises(Stop, match="names 'subject-9'; there are: subject-00, subject-01, subject-02"):
        data.split(configure(data__val_groups=["subject-9"]), prepared.records, prepared.arrays)


def test_data_without_the_asked_truth_is_refused(folder, tmp_path):
    config, records = folder(flat_only)
    with pytest.raises(Stop, match="no hand has keypoints in 3d"):
        data.split(config, records, tmp_path)
