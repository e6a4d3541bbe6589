"""Damaged files and entries: one sentence that names them, or one hand with a fault; no exception of another kind."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest

from lib.core.errors import Stop
from tests.recipes.hamer.test_formats import dictionary, evaluation_file, freihand, jpeg, read, write_tar

__all__ = ["freihand"]  # a fixture


@pytest.mark.parametrize(("content", "message"), [
    (b"not a zip", "an .npz is a zip archive, and this is none"), (b"", "an .npz is a zip archive"),
])  # fmt: skip
def test_evaluation_file_that_is_no_archive_is_named(tmp_path, content, message):
    (tmp_path / "eval.npz").write_bytes(content)
    with pytest.raises(Stop, match=rf"eval\.npz is damaged: {message}"):
        read("hamer_npz", tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"right": np.array(1)}, r"right has the shape \(\); a row for each imgname"),
    ({"imgname": np.array([["a.jpg"], ["b.jpg"]])}, r"imgname has the shape \(2, 1\)"),
    ({"center": np.zeros(2)}, r"center has the shape \(2,\)"),
    ({"scale": np.zeros((1, 2))}, r"scale has the shape \(1, 2\)"),
    ({"hand_keypoints_2d": np.zeros((2, 20, 3))}, r"hand_keypoints_2d has the shape \(2, 20, 3\)"),
    ({"betas": np.array([["x"] * 10] * 2)}, "betas holds <U1 instead of numbers"),
    ({"imgname": np.array([1, 2])}, "imgname holds int64 instead of text"),
    ({"imgname": np.array(["a.jpg", ""])}, "imgname number 1 is '', which names no file"),
])  # fmt: skip
def test_column_of_another_shape_or_kind_is_named(tmp_path, changes, message):
    with pytest.raises(Stop, match=message):
        read("hamer_npz", evaluation_file(tmp_path, **changes))


def test_array_that_claims_more_than_the_file_holds_is_refused_before_it_is_read(tmp_path):
    import zipfile

    evaluation_file(tmp_path)
    with zipfile.ZipFile(tmp_path / "eval.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["center.npy"] = members["center.npy"].replace(b"(2, 2)", b"(2, 9999999999)")
    with zipfile.ZipFile(tmp_path / "eval.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(Stop, match=r"center\.npy claims 159999999984 bytes"):
        read("hamer_npz", tmp_path)


def test_encrypted_arrays_are_refused(tmp_path):
    """zipfile's word for it is a RuntimeError."""
    evaluation_file(tmp_path)
    content = (tmp_path / "eval.npz").read_bytes()
    for begin, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of each member, here and in the directory
        head, *parts = content.split(begin)
        content = head + b"".join(begin + one[: at - 4] + bytes([one[at - 4] | 1]) + one[at - 3 :] for one in parts)
    (tmp_path / "eval.npz").write_bytes(content)
    with pytest.raises(Stop, match=r"eval\.npz is damaged .*encrypted"):
        read("hamer_npz", tmp_path)


def test_row_with_a_wrong_number_is_one_hand_with_a_fault(tmp_path):
    one, other = read("hamer_npz", evaluation_file(tmp_path, right=np.array([1, 7])))
    assert not one.fault and other.fault == "right is [7.0] instead of 0 or 1"


@pytest.mark.parametrize(("name", "content"), [
    ("xyz", "5"), ("K", '{"a": 1}'), ("mano", "[1"), ("K", "\ud800"), ("xyz", "[" * 100_000),
])  # fmt: skip
def test_freihand_table_that_is_none_is_named(freihand, name, content):
    (freihand / f"training_{name}.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(Stop, match=rf"training_{name}\.json is not"):
        read("freihand", freihand)


def test_freihand_entry_that_cannot_be_read_is_one_hand_with_a_fault(freihand):
    tables = json.loads((freihand / "training_xyz.json").read_text())
    (freihand / "training_xyz.json").write_text(json.dumps([tables[0], [[1, 2]]]))
    found = read("freihand", freihand)
    assert [bool(hand.fault) for hand in found] == [False, True] * 4
    assert found[1].fault == "xyz has the shape (1, 2) instead of (21, 3)"


@pytest.mark.parametrize(("payload", "fault"), [
    (["text"], "its labels in data.pyd are not a dictionary"),
    ([dictionary(keypoints_2d=np.zeros((20, 3)))], "keypoints_2d has the shape (20, 3) instead of (21, 3)"),
    ([dictionary(scale="x")], "scale is not a table of numbers"),
    ([{}], "its labels cannot be read (KeyError: 'keypoints_2d')"),
    ([dictionary(keypoints_3d=np.full((21, 4), 2.0))], "confidences of 000.tar/000_1#0 go up to 2: unit ends at 1"),
])  # fmt: skip
def test_tar_record_that_cannot_be_read_is_one_hand_with_a_fault(tmp_path, payload, fault):
    write_tar(tmp_path / "000.tar", pickle.dumps([*payload, dictionary()]))
    bad, good = read("hamer_tar", tmp_path)
    assert fault in bad.fault and not good.fault


def test_tar_sample_without_labels_is_one_hand_with_a_fault(tmp_path):
    write_tar(tmp_path / "000.tar", pickle.dumps([dictionary()]))
    with tarfile.open(tmp_path / "000.tar", "a") as archive:
        member = tarfile.TarInfo("000_2.jpg")
        member.size = len(jpeg())
        archive.addfile(member, io.BytesIO(jpeg()))
    assert [hand.fault for hand in read("hamer_tar", tmp_path)] == ["", "the tar holds no data.pyd for it"]


def test_confidences_of_tars_are_converted_when_said(tmp_path):
    points = np.full((21, 3), 20.0, np.float32)
    points[:, 2] = 80
    write_tar(
        tmp_path / "000.tar", pickle.dumps([dictionary(keypoints_2d=points, keypoints_3d=np.full((21, 4), 100.0))])
    )
    [hand] = read("hamer_tar", tmp_path, confidence="percent")
    assert np.allclose(hand.labels.keypoints_2d[:, 2], 0.8) and (hand.labels.keypoints_3d[:, 3] == 1).all()


@pytest.mark.parametrize(("text", "message"), [
    ("file,hand,x0,y0,x1\na.jpg,left,1,2,3\n", "has the columns x0, y0, x1 but not all of"),
    ("file,hand\n\0\n", "names? a file|comma-separated"), ("file|hand\na.jpg|left\n", "number 0 does not"),
])  # fmt: skip
def test_csv_that_is_no_table_of_hands_is_named(tmp_path, text, message):
    (tmp_path / "hands.csv").write_text(text)
    with pytest.raises(Stop, match=message):
        read("folder", tmp_path)


@pytest.mark.parametrize("file", [7, None, "", ["a"], "a\nb", "\ud800"])
def test_entry_without_a_name_is_counted(labelled, file):
    with pytest.raises(Stop, match="a list of hands that each name a file: number 2 does not"):
        read("folder", labelled(lambda entries: entries[2].update(file=file)))


@pytest.mark.parametrize(("changes", "fault"), [
    ({"keypoints_2d": "none"}, "keypoints_2d is not a table of numbers"),
    ({"keypoints_3d": [[1, 2, 3], [4]]}, "keypoints_3d is not a table of numbers"),
    ({"betas": [0] * 9}, "betas has the shape (9,) instead of (10,) or (1, 10)"),
    ({"hand_pose": [0] * 60}, "hand_pose holds 60 numbers instead of 48"),
    ({"box": [1, 2, 3]}, "box has the shape (3,) instead of (4,)"),
    ({"box": [0, 0, 1e300, 5]}, "which no picture has"),
    ({"box": None, "keypoints_2d": None, "file": "absent.png"}, "the picture cannot be used: the file is missing"),
])  # fmt: skip
def test_entry_that_cannot_be_read_is_one_hand_with_a_fault(labelled, changes, fault):
    found = read("folder", labelled(lambda entries: entries[1].update(changes)))
    assert [bool(hand.fault) for hand in found] == [False, True, False, False] and fault in found[1].fault


def test_confidences_have_one_scale_in_the_whole_file(labelled):
    """A hand of which every joint is only labelled, not visible, shows 1 alone; the others show that 2 is certain."""

    def visibility(entries):
        for number, entry in enumerate(entries):
            entry["keypoints_2d"] = [[*point, 2 if number else 1] for point in entry["keypoints_2d"]]

    found = read("folder", labelled(visibility))
    assert [float(hand.labels.keypoints_2d[:, 2].mean()) for hand in found] == [0.5, 1, 1, 1]


def test_confidences_of_no_known_scale_are_refused(labelled):
    def seven(entries):
        entries[3]["keypoints_2d"] = [[*point, 7] for point in entries[3]["keypoints_2d"]]

    with pytest.raises(Stop, match="the confidences of keypoints_2d go up to 7"):
        read("folder", labelled(seven))


def test_missing_points_of_two_columns_are_no_points(labelled):
    def miss(entries):
        entries[0]["keypoints_2d"][3:5] = [[0, 0], [-1, -1]]

    found = read("folder", labelled(miss))
    assert np.flatnonzero(found[0].labels.keypoints_2d[:, 2] == 0).tolist() == [3, 4]


def test_csv_that_is_no_text_is_named(tmp_path):
    (tmp_path / "hands.csv").write_bytes(b"file,hand\n\xff\xfe.jpg,left\n")
    with pytest.raises(Stop, match=r"hands\.csv is not a table of comma-separated values"):
        read("folder", tmp_path)


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff", b"[" * 100_000])
def test_a_table_of_labels_that_is_cut_is_named(tmp_path, content):
    (tmp_path / "hands.json").write_bytes(content)
    with pytest.raises(Stop, match=r"hands\.json is not complete JSON"):
        read("folder", tmp_path)
