"""Hands: MANO's files, lists and archives of labels, published sets, and what a person corrected on the page."""

import io
import json
import pickle
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.records import Parts
from lib.recipes.hamer import formats, mano_file, propose
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.hand import stand_in_hand
from tests.fuzz_reader import Reader, finite, points, save_picture

HAND = stand_in_hand()


class Ch:
    """Pickles as chumpy.ch.Ch does."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


def make_mano_pickle(folder: Path) -> None:
    import scipy.sparse

    content = {name: getattr(HAND, name) for name in mano_file.SHAPES if name != "kintree_table"}
    content |= {"kintree_table": np.array([[4294967295, *mano_file.PARENTS[1:]], range(16)], np.int64)}
    content |= {"J_regressor": scipy.sparse.csc_matrix(HAND.J_regressor), "shapedirs": Ch(x=HAND.shapedirs)}
    fake = types.ModuleType("chumpy.ch")
    fake.__dict__["Ch"], Ch.__module__ = Ch, "chumpy.ch"
    sys.modules["chumpy"], sys.modules["chumpy.ch"] = types.ModuleType("chumpy"), fake
    try:
        (folder / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(content, protocol=2))
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def make_mano_npz(folder: Path) -> None:
    content = {name: getattr(HAND, name) for name in mano_file.SHAPES if name != "kintree_table"}
    np.savez(folder / "MANO_RIGHT.npz", kintree_table=np.array([[-1, *mano_file.PARENTS[1:]], range(16)]), **content)


def read_mano(folder: Path) -> Any:
    return mano_file.read(next(folder.glob("MANO_RIGHT.*")))


def wrong_mano(hand: Any) -> str:
    shapes = {name: shape for name, shape in mano_file.SHAPES.items() if name != "kintree_table"}
    odd = [name for name, shape in shapes.items() if getattr(hand, name).shape != shape]
    return f"{odd[0]} has another shape" if odd else finite(getattr(hand, name) for name in shapes)


def hands(form: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        return list(formats.hands(DataConfig(format=form), folder, HAND))

    return read


def wrong_hands(found: list[Any]) -> str:
    for hand in found:
        labels, shapes = hand.labels, ((21, 3), (21, 4), (48,), (10,))
        arrays = (labels.keypoints_2d, labels.keypoints_3d, labels.hand_pose, labels.betas)
        if not hand.fault and tuple(one.shape for one in arrays) != shapes:
            return f"labels of the shapes {[one.shape for one in arrays]}"
        weights_of = np.concatenate([one[:, -1] for one in arrays[:2]]) if not hand.fault else np.zeros(1)
        if not ((weights_of >= 0) & (weights_of <= 1) | np.isnan(weights_of)).all():  # NaN is skipped by name later
            return "a weight outside [0, 1]"
    return ""


def faults_of(found: list[Any]) -> list[str]:
    return [hand.fault for hand in found]


def make_hands_json(folder: Path) -> None:
    flat, bone = (20 + 300 * points(2)).tolist(), points(3).tolist()
    entry = {"file": "0.png", "hand": "right", "box": [2, 3, 30, 28], "group": "p0", "keypoints_2d": flat}
    entry |= {"keypoints_3d": bone, "hand_pose": [0.0] * 48, "betas": [0.0] * 10}
    save_picture(folder / "0.png")
    (folder / "hands.json").write_text(json.dumps([entry, {"file": "0.png", "hand": "left"}]))


def make_hands_csv(folder: Path) -> None:
    save_picture(folder / "0.png")
    (folder / "hands.csv").write_text("file,hand,x0,y0,x1,y1,group\n0.png,right,1,2,30,29,a\n0.png,left,,,,,b\n")


def make_freihand(folder: Path) -> None:
    joints = points(3) + np.array([0, 0, 0.8])
    content = {"xyz": [joints.tolist()], "K": [[[500.0, 0, 112], [0, 500, 112], [0, 0, 1]]], "mano": [[[0.1] * 61]]}
    for name, value in content.items():
        (folder / f"training_{name}.json").write_text(json.dumps(value))
    for number in range(4):
        save_picture(folder / "training" / "rgb" / f"{number:08d}.jpg")


def make_hands_npz(folder: Path) -> None:
    np.savez(
        folder / "eval.npz", imgname=np.array(["a/1.jpg", "b/1.jpg"]), center=np.full((2, 2), 20.0),
        scale=np.full((2, 2), 30.0), right=np.array([1, 0]), betas=np.zeros((2, 10)), has_betas=np.array([1, 0]),
        hand_pose=np.zeros((2, 48)), has_hand_pose=np.array([1, 1]),
        hand_keypoints_2d=np.concatenate([20 + np.stack([points(2)] * 2), np.ones((2, 21, 1))], 2),
        hand_keypoints_3d=np.concatenate([np.stack([points(3)] * 2), np.ones((2, 21, 1))], 2),
    )  # fmt: skip


def make_hands_tar(folder: Path) -> None:
    one = np.ones((21, 1))
    labels = {
        "keypoints_2d": np.concatenate([points(2), one], 1), "keypoints_3d": np.concatenate([points(3), one], 1),
        "center": np.zeros(2), "scale": np.ones(2), "right": 1.0, "betas": np.zeros(10), "has_betas": 1.0,
        "hand_pose": np.zeros(48), "has_hand_pose": 1.0, "extra_info": {},
    }  # fmt: skip
    save_picture(folder / "x.jpg", 16)
    members = {"0.jpg": (folder / "x.jpg").read_bytes(), "0.data.pyd": pickle.dumps([labels])}
    (folder / "x.jpg").unlink()
    with tarfile.open(folder / "000.tar", "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


# ---------------------------------------------------------------------------------------------- published sets

CAMERA = np.array([[400.0, 0, 80], [0, 400, 80], [0, 0, 1]])


def make_coco(folder: Path) -> None:
    hand = np.hstack([20 + 300 * points(2), np.full((21, 1), 2)]).ravel().tolist()
    each = {"id": 1, "image_id": 3, "righthand_valid": True, "righthand_kpts": hand, "lefthand_valid": False}
    content = {"images": [{"id": 3, "file_name": "3.jpg"}], "annotations": [each]}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "coco_wholebody_val_v1.0.json").write_text(json.dumps(content))
    save_picture(folder / "val2017" / "3.jpg")


def make_ho3d(folder: Path) -> None:
    """One frame to train on, and one of the evaluation set."""
    known = {"handJoints3D": points(3) * [1, -1, -1], "handPose": np.zeros(48), "handBeta": np.zeros(10)}
    tested = {"handBoundingBox": [2, 3, 30, 28], "handJoints3D": points(3)[0]}
    for part, take, found in (
        ("train", "S1", known | {"camMat": CAMERA}),
        ("evaluation", "S2", tested | {"camMat": CAMERA}),
    ):
        save_picture(folder / part / take / "rgb" / "0000.jpg")
        (folder / part / take / "meta").mkdir()
        (folder / part / take / "meta" / "0000.pkl").write_bytes(pickle.dumps(found, protocol=2))
    (folder / "evaluation.txt").write_text("S2/0000\n")


def make_dexycb(folder: Path) -> None:
    sequence = folder / "2020-subject-01" / "take"
    save_picture(sequence / "cam" / "color_000000.jpg")
    (sequence / "meta.yml").write_text("mano_sides:\n- right\nmano_calib:\n- c1\n")
    (folder / "calibration" / "mano_c1").mkdir(parents=True)
    (folder / "calibration" / "mano_c1" / "mano.yml").write_text("betas:\n" + "- 0.5\n" * 10)
    pixels, joints, pose = 20 + 300 * points(2)[None], points(3)[None], np.full((1, 51), 0.1)
    np.savez(sequence / "cam" / "labels_000000.npz", joint_2d=pixels, joint_3d=joints, pose_m=pose)


def make_interhand(folder: Path) -> None:
    world = {"world_coord": (1000 * np.vstack([points(3)] * 2)).tolist(), "joint_valid": [1] * 42}
    lens = {"camrot": np.eye(3).tolist(), "campos": [0.0, 0, -500], "focal": [400, 400], "princpt": [80, 80]}
    image = {"id": 1, "file_name": "0.jpg", "capture": 0, "camera": "c", "frame_idx": 7}
    content = {
        "data": {"images": [image], "annotations": [{"image_id": 1, "hand_type": "interacting", "bbox": [0, 0, 1, 1]}]},
        "camera": {"0": {name: {"c": value} for name, value in lens.items()}},
        "joint_3d": {"0": {"7": world}},
        "MANO_NeuralAnnot": {"0": {"7": {"right": {"pose": [0.1] * 48, "shape": [0.0] * 10}, "left": None}}},
    }
    (folder / "annotations" / "train").mkdir(parents=True)
    for name, value in content.items():
        (folder / "annotations" / "train" / f"InterHand2.6M_train_{name}.json").write_text(json.dumps(value))
    save_picture(folder / "images" / "train" / "0.jpg")


# ---------------------------------------------------------------------------------------------- the page of drafts


class Network:
    """Answers as HaMeR does, always the same."""

    mano = HAND

    @property
    def backbone(self) -> Any:
        import torch

        return types.SimpleNamespace(pos_embed=torch.zeros(1))

    def __call__(self, images: Any) -> dict[str, Any]:
        import torch

        count, turns = len(images), torch.eye(3).expand(len(images), 16, 3, 3)
        return {
            "pred_keypoints_2d": torch.zeros(count, 21, 2), "pred_keypoints_3d": torch.zeros(count, 21, 3),
            "global_orient": turns[:, :1], "hand_pose": turns[:, 1:], "betas": torch.zeros(count, 10),
        }  # fmt: skip


def make_proposals(folder: Path) -> None:
    """What the page saved: a hand that a person corrected, a draft, and one that was rejected."""
    points_px = (20 + 300 * points(2)).tolist()
    corrected = {"file": "0.png", "hand": "right", "box": [2, 3, 30, 28], "keypoints_2d": points_px}
    draft = corrected | {"file": "1.png", "hand": "left", "draft": True, "confidence": 0.5}
    for name in ("0.png", "1.png"):
        save_picture(folder / name)
    (folder / "hands.json").write_text(json.dumps([corrected, draft, draft | {"file": "0.png", "rejected": True}]))


def read_proposals(folder: Path) -> Any:
    """The next round: what is accepted is kept, the rest drafted again, and both are on the page."""
    wishes = {"every": "1", "box": "", "detector": ""}
    propose.propose(Config(), lambda: Parts({"hamer": Network()}), str(folder), "", wishes)
    page = (folder / "label.html").read_text(encoding="utf-8")
    return json.loads((folder / "hands.json").read_text(encoding="utf-8")), page


def wrong_proposals(found: Any) -> str:
    """A hand that the list has and the page has not."""
    entries, page = found
    names = [json.dumps(entry["file"]).replace("<", "\\u003c") for entry in entries]
    return next((f"the page lacks {name}" for name in names if name not in page), "")


HANDS = {
    "mano_pickle": Reader(make_mano_pickle, read_mano, wrong_mano, shared="mano"),
    "mano_npz": Reader(make_mano_npz, read_mano, wrong_mano, shared="mano"),
    "hands_json": Reader(make_hands_json, hands("folder"), wrong_hands, "*.json", "hamer_folder", faults_of),
    "hands_csv": Reader(make_hands_csv, hands("folder"), wrong_hands, "*.csv", "hamer_folder", faults_of),
    "hands_npz": Reader(make_hands_npz, hands("hamer_npz"), wrong_hands, "*.npz", "hamer_npz", faults_of),
    "hands_tar": Reader(make_hands_tar, hands("hamer_tar"), wrong_hands, "*.tar", "hamer_tar", faults_of),
    "freihand": Reader(make_freihand, hands("freihand"), wrong_hands, "*.json", "hamer_freihand", faults_of),
    "coco": Reader(make_coco, hands("coco_wholebody"), wrong_hands, "annotations/*", reasons=faults_of),
    "ho3d": Reader(make_ho3d, hands("ho3d"), wrong_hands, "**/*.[pt]*", reasons=faults_of),
    "dexycb": Reader(make_dexycb, hands("dexycb"), wrong_hands, "**/*.[yn]*", reasons=faults_of),
    "interhand": Reader(make_interhand, hands("interhand"), wrong_hands, "annotations/*/*", reasons=faults_of),
    "proposals": Reader(make_proposals, read_proposals, wrong_proposals, "*.json"),
}
