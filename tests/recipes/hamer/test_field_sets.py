"""Readers of COCO-WholeBody, HO3D, DexYCB and InterHand2.6M: files in their layout, written by hand from known hands,
come back as these hands, and agree by the tests of step 3.
"""

import json
import pickle
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from lib.core.errors import Stop
from lib.core.records import Manifest
from lib.recipes.hamer import data, formats, mano_file
from lib.recipes.hamer.conventions import ORDER
from lib.recipes.hamer.crop import mirrored
from lib.recipes.hamer.data_config import DataConfig

CAMERA = np.array([[400.0, 0, 80], [0, 400, 80], [0, 0, 1]])
FLIP = np.diag([1.0, -1, -1])


@pytest.fixture(scope="module")
def mano(mano_folder):
    return mano_file.read(mano_file.find(mano_folder))


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(str(path)))
    Image.fromarray(random.integers(0, 255, (160, 160, 3), np.uint8)).save(path)


def in_order(points, order):
    """Points (21, d) in OpenPose's order -> as a file in that order has them."""
    found = np.zeros_like(np.asarray(points, float))
    found[list(ORDER[order])] = points
    return found


def own(vector, right):
    return vector if right else mirrored(vector)


SEQUENCES = ("ABF10", "ABF11", "SS2")  # two cameras that saw the same moments, and another person


def write_ho3d(root, hands, mano):
    for number, hand in enumerate(hands):
        picture(root / "train" / SEQUENCES[number % 3] / "rgb" / f"{number:04d}.png")
        pose = np.array(hand["hand_pose"])
        pose[:3] = (Rotation.from_matrix(FLIP) * Rotation.from_rotvec(pose[:3])).as_rotvec()
        joints = in_order(hand["keypoints_3d"], "mano") * [1, -1, -1]
        found = {"handJoints3D": joints, "handPose": pose, "handBeta": np.array(hand["betas"]), "camMat": CAMERA}
        path = root / "train" / SEQUENCES[number % 3] / "meta" / f"{number:04d}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(found, protocol=2))


def write_dexycb(root, hands, mano):
    for number, hand in enumerate(hands):
        right = hand["hand"] == "right"
        sequence = root / f"2020-subject-{number % 3:02d}" / f"take{number}"
        picture(sequence / "cam" / "color_000000.jpg")
        (sequence / "meta.yml").write_text(f"mano_sides:\n- {hand['hand']}\nmano_calib:\n- c{number}\n")
        calibration = root / "calibration" / f"mano_c{number}"
        calibration.mkdir(parents=True)
        (calibration / "mano.yml").write_text(json.dumps({"betas": hand["betas"]}))
        pose = np.array(hand["hand_pose"])
        fingers = own(own(pose[3:], right) - mano.hands_mean, True) @ np.linalg.inv(mano.hands_components)
        whole = np.concatenate([pose[:3], fingers, [0, 0, 0]])
        arrays = {"joint_2d": hand["keypoints_2d"], "joint_3d": hand["keypoints_3d"], "pose_m": whole}
        np.savez(
            sequence / "cam" / "labels_000000.npz",
            **{name: np.asarray(value, np.float32)[None] for name, value in arrays.items()},
        )


def write_interhand(root, hands, mano):
    """Seen by a camera that is turned and away from the world's origin; right and left joints in one table."""
    turn, start = Rotation.from_euler("xyz", [0.4, -0.7, 0.2]).as_matrix(), np.array([100.0, -50, 30])
    images, annotations, world, parameters = [], [], {}, {}
    for number, hand in enumerate(hands):
        right, file = hand["hand"] == "right", f"Capture{number % 3}/seq/cam/{number}.jpg"
        picture(root / "images" / "train" / file)
        image = {"id": number, "file_name": file, "capture": number % 3, "camera": "c1", "frame_idx": number}
        images.append(image | {"subject": str(number % 3 % 2)})  # two captures are of one person
        annotations.append({"image_id": number, "hand_type": hand["hand"], "bbox": [0, 0, 1, 1]})
        joints = 1000 * in_order(hand["keypoints_3d"], "interhand") @ turn + start
        table = np.zeros((42, 3))
        table[:21] = table[21:] = start
        table[slice(0, 21) if right else slice(21, 42)] = joints
        valid = [int(right)] * 21 + [int(not right)] * 21
        pose = np.array(hand["hand_pose"])
        pose[:3] = (Rotation.from_matrix(turn.T) * Rotation.from_rotvec(pose[:3])).as_rotvec()
        pose[3:] -= own(mano.hands_mean, right)
        capture, frame = str(number % 3), str(number)
        world.setdefault(capture, {})[frame] = {"world_coord": table.tolist(), "joint_valid": valid}
        mine = {"pose": pose.tolist(), "shape": hand["betas"]}
        parameters.setdefault(capture, {})[frame] = {hand["hand"]: mine, "left" if right else "right": None}
    lens = {"camrot": turn.tolist(), "campos": start.tolist(), "focal": [400, 400], "princpt": [80, 80]}
    content = {
        "data": {"images": images, "annotations": annotations},
        "camera": {str(k): {name: {"c1": value} for name, value in lens.items()} for k in range(3)},
        "joint_3d": world,
        "MANO_NeuralAnnot": parameters,
    }
    (root / "annotations" / "train").mkdir(parents=True)
    for name, value in content.items():
        (root / "annotations" / "train" / f"InterHand2.6M_train_{name}.json").write_text(json.dumps(value))


def write_coco(root, hands, mano):
    images, annotations = [], []
    for number, hand in enumerate(hands):
        picture(root / "val2017" / f"{number:012d}.jpg")
        images.append({"id": number, "file_name": f"{number:012d}.jpg"})
        points = np.hstack([hand["keypoints_2d"], np.full((21, 1), 1 + number % 2)])
        other = "left" if hand["hand"] == "right" else "right"
        mine = {f"{hand['hand']}hand_kpts": points.ravel().tolist(), f"{hand['hand']}hand_valid": True}
        annotations.append({"id": number, "image_id": number, f"{other}hand_valid": False} | mine)
    (root / "annotations").mkdir(parents=True)
    content = {"images": images, "annotations": annotations}
    (root / "annotations" / "coco_wholebody_val_v1.0.json").write_text(json.dumps(content))


WRITERS = {"ho3d": write_ho3d, "dexycb": write_dexycb, "interhand": write_interhand, "coco_wholebody": write_coco}
SETS = pytest.mark.parametrize("form", list(WRITERS))


@pytest.fixture
def written(posed, mano, tmp_path):
    def make(form):
        hands = [hand for hand in posed if form != "ho3d" or hand["hand"] == "right"]
        WRITERS[form](tmp_path / form, hands, mano)
        return tmp_path / form, hands

    return make


def read(form, root, mano, **settings):
    return list(formats.hands(DataConfig(format=form, truth="2d", **settings), root, mano))


@SETS
def test_hands_come_back_in_our_conventions(written, mano, form):
    root, hands = written(form)
    found = read(form, root, mano)
    assert len(found) == len(hands)
    for hand in found:
        assert not hand.fault
        points = hand.labels.keypoints_2d[:, :2]
        truth = min(hands, key=lambda each: np.abs(points - each["keypoints_2d"]).sum())
        np.testing.assert_allclose(points, truth["keypoints_2d"], atol=1e-2)
        assert hand.right == (truth["hand"] == "right") and hand.side_px > 10
        if form == "coco_wholebody":
            assert not hand.labels.has_pose and not hand.labels.keypoints_3d.any()
            continue
        np.testing.assert_allclose(hand.labels.keypoints_3d[:, :3], truth["keypoints_3d"], atol=1e-5)
        assert hand.labels.has_pose and hand.labels.has_betas == (hand.right or form != "dexycb")
        one, other = (np.reshape(each, (16, 3)) for each in (hand.labels.hand_pose, truth["hand_pose"]))
        assert (Rotation.from_rotvec(one) * Rotation.from_rotvec(other).inv()).magnitude().max() < 1e-4
        np.testing.assert_allclose(hand.labels.betas, truth["betas"], atol=1e-5)
    groups = {hand.group for hand in found}
    assert {"ho3d": {"ABF", "SS"}, "interhand": {"Subject0", "Subject1"}}.get(form, groups) == groups and len(
        groups
    ) > 1


@SETS
def test_labels_agree_by_the_tests_of_step_3(written, configure, mano_folder, tmp_path, form):
    root, _ = written(form)
    truth = "2d" if form == "coco_wholebody" else "3d"
    config = configure(data__format=form, data__root=str(root), model__mano="licensed", data__truth=truth)
    (tmp_path / "out").mkdir()
    records = list(data.prepare(config, {"data": root, "mano": mano_folder}, tmp_path / "out"))
    assert {record.status for record in records} == {"ok"}
    data.split(config, records, tmp_path)
    if form != "coco_wholebody":
        assert max(float(record.columns["fit_3d_onto_2d"]) for record in records) < 0.01
        posed = [record for record in records if record.columns["pose_onto_3d_mm"] != ""]
        assert posed and max(float(record.columns["pose_onto_3d_mm"]) for record in posed) < 0.1


@SETS
def test_a_set_that_is_not_there_or_damaged_is_one_sentence(written, mano, tmp_path, form):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stop, match="is not a folder of"):
        read(form, tmp_path / "empty", mano)
    root, _ = written(form)
    lists = sorted(path for path in root.rglob("*") if path.suffix in (".json", ".yml", ".pkl", ".npz"))
    for path in lists[:3]:
        content = path.read_bytes()
        for damage in (b"", content[: len(content) // 2], b"[]", b'{"images": 3}'):
            if "MANO" in path.name and damage.startswith(b"{"):
                continue  # captures without parameters are in order
            path.write_bytes(damage)
            try:
                faults = [hand.fault for hand in read(form, root, mano)]
            except Stop as stop:
                faults = [stop.cause]
            assert any(faults), (path.name, damage)
        path.write_bytes(content)


@SETS
def test_a_group_is_guessed_in_none_of_them(written, mano, form):
    root, _ = written(form)
    with pytest.raises(Stop, match="finds no group in"):
        read(form, root, mano, group_pattern=r"nobody-(\d)")


def test_ho3ds_evaluation_set_is_boxes_that_teach_nothing(written, configure, mano, mano_folder, tmp_path):
    root, hands = written("ho3d")
    box = [0.0, 0.0, 90.0, 70.0]  # a corner of the picture is a place as any other
    for number in range(2):
        meta = root / "evaluation" / "SM1" / "meta" / f"{number:04d}.pkl"
        picture(root / "evaluation" / "SM1" / "rgb" / f"{number:04d}.png")
        meta.parent.mkdir(exist_ok=True)
        meta.write_bytes(pickle.dumps({"handBoundingBox": box, "handJoints3D": np.zeros(3)}, protocol=2))
    with pytest.raises(Stop, match=r"evaluation\.txt does not list the evaluation set"):
        read("ho3d", root, mano)
    (root / "evaluation.txt").write_text("SM1/0000\nSM1/0001\nSM1/0002\n\n")
    found = read("ho3d", root, mano)
    assert len(found) == len(hands) + 3 and "No such file" in found[-1].fault
    assert found[-2].centre.tolist() == [45, 35] and found[-2].side_px >= 90 and not found[-2].fault
    config = configure(data__format="ho3d", data__root=str(root), model__mano="licensed")
    (tmp_path / "out").mkdir()
    records = list(data.prepare(config, {"data": root, "mano": mano_folder}, tmp_path / "out"))
    boxes = [record for record in records if record.group == "SM" and record.status == "ok"]
    assert len(boxes) == 2 and {record.columns["labelled"] for record in boxes} == {0}
    assert "SM" not in data.split(config, records, tmp_path).val_groups
    for record in boxes:
        record.split = "train"
    assert data.taught(Manifest(boxes, tmp_path)) == []


@pytest.mark.parametrize("box", [[], [1, 2, 3], [5, 5, 5, 9], [9, 9, 1, 1], [0, 0, np.nan, 9], "none", None])
def test_a_box_of_the_evaluation_set_that_is_none_is_a_fault(written, mano, box):
    root, _ = written("ho3d")
    meta = root / "evaluation" / "SM1" / "meta" / "0000.pkl"
    meta.parent.mkdir(parents=True)
    meta.write_bytes(pickle.dumps({"handBoundingBox": box}, protocol=2))
    for text, said in (
        ("SM1/0000", "handBoundingBox"),
        ("", ""),
        ("SM1", "SEQUENCE/NUMBER"),
        ("a/b/c", "SEQUENCE/NUMBER"),
    ):
        (root / "evaluation.txt").write_text(text)
        try:
            faults = [hand.fault for hand in read("ho3d", root, mano) if hand.group == "SM"]
        except Stop as stop:
            faults = [stop.cause]
        assert said in "".join(faults) and bool(faults) == bool(text)


def test_a_frame_without_a_hand_is_a_fault_and_no_place(written, mano):
    root, _ = written("ho3d")
    first = min(root.rglob("*.pkl"))
    first.write_bytes(pickle.dumps({"handJoints3D": None, "handPose": None}, protocol=2))
    assert read("ho3d", root, mano)[0].fault == "the frame has no annotated hand"
    root, _ = written("dexycb")
    labels = min(root.rglob("*.npz"))
    shapes = {"joint_2d": (1, 21, 2), "joint_3d": (1, 21, 3)}
    arrays = {name: np.full(shape, -1, np.float32) for name, shape in shapes.items()}
    np.savez(labels, **arrays, pose_m=np.zeros((1, 51), np.float32))
    assert read("dexycb", root, mano)[0].fault == "the frame has no annotated hand"


@pytest.mark.parametrize(("old", "new", "said"), [
    (b"'fortran_order': False", b"'fortran_order': False, (", "damaged"),  # no Python: a TokenError of numpy's
    (b"(1, 51)", b"(9999999999, 51)", r"pose_m\.npy claims \d+ bytes"),
])  # fmt: skip
def test_a_frame_whose_arrays_are_damaged_is_a_fault_among_others(written, mano, old, new, said):
    root, _ = written("dexycb")
    labels = min(root.rglob("*.npz"))
    with zipfile.ZipFile(labels) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(labels, "w") as archive:
        for name, content in members.items():
            assert name != "pose_m.npy" or old in content
            archive.writestr(name, content.replace(old, new) if name == "pose_m.npy" else content)
    faults = [hand.fault for hand in read("dexycb", root, mano)]
    assert re.search(rf"labels_000000\.npz is damaged.*{said}|{said}", faults[0]) and not any(faults[1:])


def test_a_calibration_of_hundreds_of_brackets_is_one_sentence(written, mano):
    root, _ = written("dexycb")
    min(root.rglob("mano.yml")).write_text("[" * 600)
    with pytest.raises(Stop, match=r"mano\.yml cannot be read"):
        read("dexycb", root, mano)
