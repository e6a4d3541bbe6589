"""A very small network, the stand-in hand, and folders of stand-in data."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.config import from_dotted
from lib.core.records import Manifest, Stage
from lib.recipes.hamer import config as settings
from lib.recipes.hamer import data, mano_file, stand_in
from lib.recipes.hamer.hand import stand_in_hand
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR

STAGE = Stage("adapt", 1)
SMALL = {
    "model.init": "hamer",
    "model.checkpoint": "twins/hamer.ckpt",
    "model.mano": "stand_in",
    "model.crop_px": 64,
    "model.width": 32,
    "model.depth": 3,
    "model.heads": 2,
    "model.decoder_width": 32,
    "model.decoder_depth": 2,
    "model.decoder_heads": 2,
    "model.decoder_head_width": 8,
    "model.decoder_mlp": 16,
    "data.format": "made",
    "data.stand_in_subjects": 3,
    "data.stand_in_hands": 3,
    "data.stand_in_px": 96,
    "lora.rank": 2,
    "lora.alpha": 4,
    "lora.dropout": 0.0,
}


@pytest.fixture(scope="session")
def hand():
    return stand_in_hand()


@pytest.fixture
def configure():
    return lambda **changes: from_dotted(
        settings.Config, SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    )


@pytest.fixture
def network(hand):
    def make(config) -> HaMeR:
        torch.manual_seed(0)
        module = HaMeR(config.model, Mano(hand)).eval()
        torch.nn.init.trunc_normal_(module.backbone.pos_embed, std=0.5)
        return module

    return make


@pytest.fixture
def labelled(tmp_path):
    """A folder of pictures with hands.json; `edit(entries)` breaks what a test wants broken."""

    def make(edit=lambda entries: None, count: int = 4):
        root, random = tmp_path / "hands", np.random.default_rng(0)
        root.mkdir()
        flat = np.stack([np.linspace(40, 100, 21), np.linspace(50, 90, 21)], 1)
        bone = np.cumsum(np.full((21, 3), 0.01), 0)
        entries = []
        for i in range(count):
            Image.fromarray(random.integers(0, 255, (140, 160, 3), np.uint8)).save(root / f"{i}.png")
            entry = {"file": f"{i}.png", "hand": "right", "box": [40, 50, 100, 90], "group": f"p{i}"}
            entries.append(entry | {"keypoints_2d": flat.tolist(), "keypoints_3d": bone.tolist()})
        edit(entries)
        (root / "hands.json").write_text(json.dumps(entries))
        return root

    return make


def records_of(config, root, out):
    out.mkdir(exist_ok=True)
    return list(data.prepare(config, {"data": root}, out))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    stand_in.write(root, 3, 3, 96)
    return root


@pytest.fixture
def manifest(configure, made, tmp_path):
    config = configure(data__val_groups=["subject-02"])
    records = records_of(config, made, tmp_path / "prepared")
    for record in records:
        record.split = "test" if record.group == "subject-02" else "train"
    return config, Manifest(records, tmp_path / "prepared")


@pytest.fixture
def folder(configure, labelled, tmp_path):
    """Records of a labelled folder after `edit`."""

    def prepare(edit=lambda entries: None, **settings):
        root = labelled(edit)
        config = configure(data__format="folder", data__root=str(root), **settings)
        return config, records_of(config, root, tmp_path / "prepared")

    return prepare


def flat_only(entries):
    """For `folder`: 2D labels alone."""
    for entry in entries:
        del entry["keypoints_3d"]


@pytest.fixture(scope="session")
def posed():
    """Ten hands of the stand-in under MANO's name, right and left in turn: every label that a file can hold."""
    studio, generator, found = stand_in.Studio(), np.random.default_rng(5), []
    for i in range(10):
        pose = np.concatenate([stand_in.orientation(generator), stand_in.fingers(generator)])
        betas = generator.normal(0, 0.8, 10).clip(-2, 2)
        joints = studio.pose(pose, betas)[2]
        joints = joints - joints.mean(0) + [*generator.uniform(-0.02, 0.02, 2), 0.7]
        if i % 2:
            pose, joints = (pose.reshape(-1, 3) * [1, -1, -1]).ravel(), joints * [-1, 1, 1]
        flat = joints[:, :2] / joints[:, 2:] * 400 + 80
        entry = {"file": f"{i}.png", "hand": "left" if i % 2 else "right", "group": f"p{i}"}
        numbers = {"keypoints_2d": flat, "keypoints_3d": joints, "hand_pose": pose, "betas": betas}
        found.append(entry | {name: value.tolist() for name, value in numbers.items()})
    return found


@pytest.fixture(scope="session")
def mano_folder(hand, tmp_path_factory):
    """MANO_RIGHT.npz: the stand-in's arrays under MANO's names, with components that are no identity."""
    folder = tmp_path_factory.mktemp("mano")
    components = np.linalg.qr(np.random.default_rng(2).normal(size=(45, 45)))[0]
    arrays = {name: getattr(hand, name) for name in mano_file.SHAPES if name != "kintree_table"}
    tree = np.array([[-1, *mano_file.PARENTS[1:]], range(16)])
    np.savez(folder / "MANO_RIGHT.npz", **arrays | {"hands_components": components, "kintree_table": tree})
    return folder


@pytest.fixture
def own(posed, mano_folder, configure, tmp_path):
    """`own(edit, **settings)` -> (config, records) of the posed hands after `edit(entry)` of each, by step 3."""

    def prepare(edit=lambda entry: None, **settings):
        root, random = tmp_path / "own", np.random.default_rng(0)
        if not root.exists():
            root.mkdir()
            for entry in posed:
                Image.fromarray(random.integers(0, 255, (160, 160, 3), np.uint8)).save(root / entry["file"])
        entries = copy.deepcopy(posed)
        for entry in entries:
            edit(entry)
        (root / "hands.json").write_text(json.dumps(entries))
        config = configure(data__format="folder", data__root=str(root), model__mano="licensed", **settings)
        out = tmp_path / f"prepared-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        return config, list(data.prepare(config, {"data": root, "mano": mano_folder}, out))

    return prepare
