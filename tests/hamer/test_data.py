"""Checks at the border, shards, the split."""
import dataclasses

import numpy
import pytest

from lib.errors import Stop
from lib.recipes.hamer import crop, data, demo, formats
from lib.recipes.hamer.hand import stand_in
from tests.hamer.conftest import flat_only, records_of


def edit_first(**changes):
    return lambda entries: entries[0].update(changes)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"box": [50, 50, 50, 50], "keypoints_2d": None}, "the box has no area"),
    ({"box": [900, 50, 960, 90], "keypoints_2d": None}, "lies outside the image of 160 x 140 px"),
    ({"keypoints_2d": [[900.0, 20.0 * i] for i in range(21)]}, "2D keypoints lie outside the crop: pixels of the whole image are expected"),
    ({"keypoints_2d": [[0.02 * i, 0.5] for i in range(21)]}, "the 2D keypoints lie within 5 % of the crop"),
    ({"keypoints_3d": (10.0 * numpy.cumsum(numpy.ones((21, 3)), 0)).tolist()}, "3D keypoints are expected in metres"),
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


def test_data_that_is_mostly_unusable_stops_the_run(folder):
    config, records = folder(lambda entries: [entry.update(keypoints_2d=[[0.4, 0.5]] * 21) for entry in entries])
    with pytest.raises(Stop, match="4 of 4 hands cannot be used"):
        data.split(config, records)


def hand_of(pose=None, betas=None, right=True, joints=None):
    labels = crop.Labels(
        hand_pose=pose if pose is not None else numpy.zeros(48),
        betas=betas if betas is not None else numpy.zeros(10),
        has_pose=True,
        has_betas=True,
    )
    if joints is not None:
        labels.keypoints_3d = numpy.hstack([joints, numpy.ones((21, 1))])
    return formats.Hand("a", "g", b"", "a", right, numpy.zeros(2), 10.0, labels)


def test_impossible_pose_or_shape_is_dropped_with_a_note():
    degrees = numpy.zeros(48)
    degrees[5] = 40.0
    for hand, note in ((hand_of(pose=degrees), "radians"), (hand_of(betas=numpy.full(10, 3.1)), "beyond 3")):
        labels, notes = data.checked(hand, trusted=True)
        assert not labels.has_pose and not labels.has_betas and note in notes[0]
    wrist = numpy.zeros(48)
    wrist[0] = 4.0  # a wrist may turn by more than pi: matrices are compared
    assert data.checked(hand_of(pose=wrist), trusted=True)[0].has_pose


def test_numbers_of_another_hand_model_are_not_used(configure):
    labels, notes = data.checked(hand_of(), *data.doubt(configure(data__format="hamer_npz"), stand_in()))
    assert not labels.has_pose and not labels.has_betas and "another hand model" in notes[0]
    assert data.doubt(configure(), stand_in()) == (True, "")


def test_freihand_labels_of_another_mano_version_are_used_with_a_note(configure):
    mano = dataclasses.replace(stand_in(), name="MANO", of_freihand=False)
    labels, notes = data.checked(hand_of(), *data.doubt(configure(data__format="freihand", model__mano="licensed"), mano))
    assert labels.has_pose and labels.has_betas and "another version of MANO" in notes[0]


def test_left_hand_called_right_is_noticed():
    generator = numpy.random.default_rng(0)
    studio, noticed = demo.Studio(), []
    for _ in range(20):
        pose = numpy.concatenate([demo.orientation(generator), demo.fingers(generator)])
        pose[5::3] = numpy.abs(pose[5::3]).clip(0.5) + 0.3  # clearly bent fingers
        joints = studio.pose(pose, numpy.zeros(10))[2]
        assert not data.looks_like_the_other_hand(hand_of(joints=joints, right=True))
        noticed.append(data.looks_like_the_other_hand(hand_of(joints=joints * [-1, 1, 1], right=True)))
        assert not data.looks_like_the_other_hand(hand_of(joints=joints * [-1, 1, 1], right=False))
    assert all(noticed)


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
    picture = numpy.zeros((900, 900, 3), numpy.uint8)
    picture[449:452, 599:602] = 255  # around pixel (600, 450)
    labels = crop.Labels()
    labels.keypoints_2d[0] = [600, 450, 1]
    hand = formats.Hand("a", "g", b"", "a", True, numpy.array([500.0, 450.0]), 400.0, labels)
    found = data.window(picture, hand, labels, 128)
    x, y = found["keypoints_2d"][0, :2]
    assert found["side_px"] == pytest.approx(400 / 3)
    brightest = numpy.unravel_index(found["pixels"][..., 0].argmax(), found["pixels"].shape[:2])
    assert abs(brightest[1] - x) <= 0.5 and abs(brightest[0] - y) <= 0.5


def test_split_holds_out_whole_groups_and_names_unknown_ones(manifest, configure):
    config, prepared = manifest
    assert data.split(config, prepared.records).val_groups == ("subject-02",)
    with pytest.raises(Stop, match="names 'subject-9'; there are: subject-00, subject-01, subject-02"):
        data.split(configure(data__val_groups=["subject-9"]), prepared.records)


def test_data_without_the_asked_truth_is_refused(folder):
    config, records = folder(flat_only)
    with pytest.raises(Stop, match="no hand has keypoints in 3d"):
        data.split(config, records)
