"""One small stand-in data set for all tests of the recipe: three scenes at three locations, one held out."""

import pytest
import torch

from lib import recipes
from lib.core.config import compose
from lib.core.records import Manifest
from lib.recipes.llava_map import data, model, pretrain, stand_in

SIZE = stand_in.Size(train_scenes=3, val_scenes=1, frames=2)


def tiny_demo():
    """The demo's settings, for one test to change."""
    return compose(recipes.load("llava_map"), "stage2", True, "tiny", {})[0]


@pytest.fixture
def config():
    return tiny_demo()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuscenes")
    stand_in.write(folder, SIZE)
    return folder


@pytest.fixture(scope="session")
def manifest(world, tmp_path_factory) -> Manifest:
    """The world after step 3."""
    config, out = tiny_demo(), tmp_path_factory.mktemp("prepared")
    records = list(data.prepare(config, {"nuscenes": world}, out))
    wish = data.split(config, records, out)
    sides = dict.fromkeys(wish.val_groups, "test") | dict.fromkeys(wish.select_groups, "select")
    for record in records:
        record.split = sides.get(record.group, "train")
    return Manifest(records, out)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A base in the shipped format, with an untrained image encoder."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    parts = model.published_parts(tiny_demo())
    pretrain.write(parts["image"].eval(), parts["qformer"], folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(base):
    return base / "tokenizer.json"
