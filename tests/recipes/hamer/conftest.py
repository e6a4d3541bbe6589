"""A very small network, the stand-in hand, and folders of stand-in data."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib.core.config import from_dotted
from lib.core.records import Manifest, Stage
from lib.recipes.hamer import config as settings
from lib.recipes.hamer import data, stand_in
from lib.recipes.hamer.hand import stand_in_hand
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR

STAGE = Stage("adapt", 1)
SMALL = {
    "model.init": "hamer",
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
        record.split = "val" if record.group == "subject-02" else "train"
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
