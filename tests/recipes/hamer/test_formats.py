"""Readers: the true file formats, written by hand here, and what is refused."""

import dataclasses
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.recipes.hamer import formats
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.hand import stand_in_hand

MEAN = np.linspace(0, 0.5, 45).astype(np.float32)
HAND = dataclasses.replace(stand_in_hand(), hands_mean=MEAN)


def read(form: str, root, **settings):
    return list(formats.hands(DataConfig(format=form, **settings), root, HAND))


def jpeg(side: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def freihand(tmp_path):
    joints = np.zeros((2, 21, 3))
    joints[:, :, 0] = np.linspace(-0.08, 0.08, 21)
    joints[:, :, 1] = np.linspace(0, 0.06, 21)
    joints[:, :, 2] = 0.8
    camera = [[500.0, 0, 112], [0, 500, 112], [0, 0, 1]]
    mano = [[list(np.arange(61) / 100)]] * 2
    for name, value in {"xyz": joints.tolist(), "K": [camera] * 2, "mano": mano}.items():
        (tmp_path / f"training_{name}.json").write_text(json.dumps(value))
    (tmp_path / "training" / "rgb").mkdir(parents=True)
    for number in range(8):  # two frames in four versions
        (tmp_path / "training" / "rgb" / f"{number:08d}.jpg").write_bytes(jpeg(224))
    return tmp_path


def test_freihand_versions_share_frame_and_group(freihand):
    found = read("freihand", freihand)
    assert [hand.name for hand in found] == [f"training/{number:08d}" for number in range(8)]
    assert {hand.group for hand in found} == {"frames-00"}
    np.testing.assert_array_equal(found[1].labels.hand_pose, found[7].labels.hand_pose)


def test_freihand_pose_gets_the_mean_hand_and_points_the_camera(freihand):
    hand = read("freihand", freihand)[0]
    np.testing.assert_allclose(hand.labels.hand_pose[:3], [0, 0.01, 0.02], atol=1e-7)
    np.testing.assert_allclose(hand.labels.hand_pose[3:], np.arange(3, 48) / 100 + MEAN, atol=1e-6)
    np.testing.assert_allclose(hand.labels.betas, np.arange(48, 58) / 100, atol=1e-6)
    np.testing.assert_allclose(hand.labels.keypoints_2d[0], [500 * -0.08 / 0.8 + 112, 112, 1], atol=1e-4)
    assert hand.side_px == pytest.approx(2 * 100 * 256 / 192)  # 100 px wide: grows to the backbone's aspect


def test_freihand_folder_without_tables_is_named(tmp_path):
    with pytest.raises(Stop, match=r"training_xyz\.json or training_K\.json is missing"):
        read("freihand", tmp_path)


def evaluation_file(root, **changes):
    columns = {
        "imgname": np.array(["anna/1.jpg", "bert/1.jpg"]), "center": np.array([[20.0, 18], [22, 20]]),
        "scale": np.array([[12.0, 30], [30, 12]]),
        "right": np.array([1, 0]), "betas": np.zeros((2, 10)), "has_betas": np.array([1, 0]),
    } | changes  # fmt: skip
    np.savez(root / "eval.npz", **columns)
    return root


def test_evaluation_file_boxes_are_pixels_and_grow(tmp_path):
    one, other = read("hamer_npz", evaluation_file(tmp_path))
    assert (one.side_px, other.side_px) == (30, 40)  # 30 x 256 / 192
    assert (one.right, other.right, one.group) == (True, False, "anna")
    assert (one.labels.has_betas, other.labels.has_betas, one.labels.has_pose) == (True, False, False)


def test_object_arrays_are_refused_with_advice(tmp_path):
    evaluation_file(tmp_path, right=np.array([1, None], object))
    with pytest.raises(Stop, match="right is an array of Python objects") as stopped:
        read("hamer_npz", tmp_path)
    assert "allow_pickle=True" in stopped.value.command  # for the person, on a file that the person trusts


def test_extra_info_is_never_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return exec, ("raise SystemExit('the file ran code')",)

    assert len(read("hamer_npz", evaluation_file(tmp_path, extra_info=np.array([Harm(), 1], object)))) == 2


def dictionary(**changes):
    points = np.stack([np.linspace(5, 30, 21), np.linspace(8, 30, 21), np.linspace(0.1, 1, 21)], 1, dtype=np.float32)
    loss = np.array({"reprojection_loss": 10.0}, object)
    return {
        "keypoints_2d": points, "keypoints_3d": np.ones((21, 4), np.float32), "center": np.array([18.0, 19.0]),
        "scale": np.array([0.2, 0.1]),
        "hand_pose": np.zeros(48), "betas": np.zeros(10), "right": 1, "has_hand_pose": np.float32(1), "has_betas": 1.0,
        "extra_info": {"fitting_loss": loss},
    } | changes  # fmt: skip


def write_tar(path, payload: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in (("000_1.jpg", jpeg()), ("000_1.data.pyd", payload)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_tar_members_are_read_with_the_original_filters(tmp_path):
    hands = [
        dictionary(),
        dictionary(right=0, betas=np.full(10, 3.5)),
        dictionary(extra_info={"fitting_loss": np.array({"reprojection_loss": 40000.0}, object)}),
    ]
    write_tar(tmp_path / "000.tar", pickle.dumps(hands, protocol=4))
    one, large, unfit = read("hamer_tar", tmp_path)
    assert one.side_px == pytest.approx(40) and one.labels.has_pose  # 0.2 x 200, no growth
    assert ((one.labels.keypoints_2d[:, 2] == 0) == (np.linspace(0.1, 1, 21) < 0.3)).all()
    assert not large.right and not large.labels.has_pose and not large.labels.has_betas
    assert not unfit.labels.has_pose and not unfit.labels.keypoints_2d[:, 2].any()


def test_newer_pickle_protocols_are_read(tmp_path):
    write_tar(tmp_path / "000.tar", pickle.dumps([dictionary()], protocol=5))
    assert len(read("hamer_tar", tmp_path)) == 1


def test_tar_with_a_foreign_pickle_is_refused(tmp_path):
    write_tar(tmp_path / "000.tar", b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(Stop, match=r"names os\.system, which could run code"):
        read("hamer_tar", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_tar_with_a_truncated_member_is_named(tmp_path):
    write_tar(tmp_path / "000.tar", pickle.dumps([dictionary()] * 20))
    content = (tmp_path / "000.tar").read_bytes()
    (tmp_path / "000.tar").write_bytes(content[:3000])
    with pytest.raises(Stop, match=r"000\.tar ends in the middle"):
        read("hamer_tar", tmp_path)


def test_folder_reads_boxes_keypoints_and_groups(labelled):
    found = read("folder", labelled())
    assert [hand.group for hand in found] == ["p0", "p1", "p2", "p3"]
    assert found[0].centre.tolist() == [70, 70] and found[0].side_px == pytest.approx(2 * 60 * 256 / 192)
    assert (found[0].labels.keypoints_3d[:, 3] == 1).all()


def test_csv_and_whole_images_are_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(60))
    (tmp_path / "hands.csv").write_text(
        "file,hand,x0,y0,x1,y1,group\na.jpg,left,10,10,40,50,anna\na.jpg,right,,,,,bert\n"
    )
    box, whole = read("folder", tmp_path)
    assert not box.right and box.centre.tolist() == [25, 30] and box.side_px == 80
    assert whole.centre.tolist() == [29.5, 29.5] and whole.side_px == 60


@pytest.mark.parametrize("file", ["../outside.jpg", "a/../../outside.jpg", "/etc/hostname"])
@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_list_that_leads_out_of_its_folder_is_refused(tmp_path, file, form):
    (tmp_path / "outside.jpg").write_bytes(jpeg())
    root = tmp_path / "hands"
    root.mkdir()
    if form == "json":
        (root / "hands.json").write_text(json.dumps([{"file": file, "hand": "left", "group": "p"}]))
    else:
        (root / "hands.csv").write_text(f"file,hand,group\n{file},left,p\n")
    with pytest.raises(Stop, match="which is not below"):
        read("folder", root)


def test_a_data_folder_that_is_not_there_and_two_hands_of_one_name_are_refused(tmp_path, monkeypatch):
    with pytest.raises(Stop, match=r"the data folder .*absent does not exist"):
        read("folder", tmp_path / "absent")
    twice = [formats.attempt("a#0", "p", tmp_path / "a", "a", lambda hand: None) for _ in range(2)]
    monkeypatch.setitem(formats.READERS, "made", lambda data, root: iter(twice))
    with pytest.raises(Stop, match="two hands are called a#0"):
        read("made", tmp_path)


def test_missing_list_is_named(tmp_path):
    with pytest.raises(Stop, match=r"neither hands\.json nor hands\.csv"):
        read("folder", tmp_path)


def test_group_pattern_must_match(labelled):
    def nameless(entries):
        for entry in entries:
            entry["group"] = ""

    root = labelled(nameless)
    assert [hand.group for hand in read("folder", root, group_pattern=r"(\d)\.png")] == ["0", "1", "2", "3"]
    with pytest.raises(Stop, match=r"finds no group in '0\.png'"):
        read("folder", root, group_pattern=r"person-(\d)")


def test_a_group_is_guessed_in_no_format(freihand, tmp_path):
    (tmp_path / "npz").mkdir()
    (tmp_path / "tar").mkdir()
    evaluation_file(tmp_path / "npz")
    write_tar(tmp_path / "tar" / "000.tar", pickle.dumps([dictionary()]))
    for form, root in (("freihand", freihand), ("hamer_npz", tmp_path / "npz"), ("hamer_tar", tmp_path / "tar")):
        with pytest.raises(Stop, match="finds no group in"):
            read(form, root, group_pattern=r"person-(\d)")


@pytest.mark.parametrize(("changes", "right", "both"), [
    ({}, True, True), ({"right": 0}, False, True), ({"has_hand_pose": 0}, True, False), ({"has_betas": 0}, True, False),
])  # fmt: skip
def test_flags_of_a_tar_say_side_and_labels(tmp_path, changes, right, both):
    """Pose and shape together or neither, as HaMeR has it."""
    write_tar(tmp_path / "000.tar", pickle.dumps([dictionary(**changes)]))
    [hand] = read("hamer_tar", tmp_path)
    assert (hand.right, hand.labels.has_pose, hand.labels.has_betas) == (right, both, both)


@pytest.mark.parametrize("name", ["right", "has_hand_pose", "has_betas"])
def test_a_flag_of_a_tar_that_is_neither_yes_nor_no_is_a_fault(tmp_path, name):
    write_tar(tmp_path / "000.tar", pickle.dumps([dictionary(**{name: 7})]))
    assert read("hamer_tar", tmp_path)[0].fault == f"{name} is [7.0] instead of 0 or 1"
