"""The streets of tests/scenes, a base of the demo's size with random weights, and their configuration."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib.core.config import from_dotted
from lib.core.records import Manifest
from lib.recipes.da3_eth3d.base import ALIASES
from lib.recipes.da3_eth3d.config import DEMO, PRESETS, Config
from lib.recipes.da3_eth3d.model import DA3
from lib.recipes.da3_eth3d.sections import DEMO_SIZE
from lib.recipes.da3_eth3d.size import SMALL, ModelSize
from lib.scenes.data import prepare
from tests.recipes.da3_eth3d.networks import LITTLE
from tests.scenes.conftest import rendered

__all__ = ["rendered"]


@pytest.fixture(scope="session")
def made():
    """made(preset, **overrides with __ for .) -> Config of the demo on two streets."""

    def make(preset: str = "base_b", **overrides):
        scenes = {"data.scenes": ["linden"], "data.val_scenes": ["harbour"], "data.samples_per_epoch": 8}
        one = {"train.micro_batch": 1, "train.global_batch": 1}
        dotted = {key.replace("__", "."): value for key, value in overrides.items()}
        return from_dotted(Config, PRESETS[preset] | DEMO | scenes | one | dotted)

    return make


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """The folder of a random base, saved with the hub's names."""
    return {"base": random_base(DEMO_SIZE, tmp_path_factory.mktemp("base"))}


@pytest.fixture(scope="session")
def little_places(tmp_path_factory):
    """As `places`, narrow and with the blocks of the published networks."""
    return {"base": random_base(ModelSize(**LITTLE), tmp_path_factory.mktemp("little"))}


@pytest.fixture(scope="session")
def small_places(tmp_path_factory):
    """As `places`, in the full size of SMALL."""
    return {"base": random_base(SMALL, tmp_path_factory.mktemp("small"))}


def random_base(size: ModelSize, folder: Path) -> Path:
    torch.manual_seed(0)
    tensors = {f"model.{name}": value for name, value in DA3(size).state_dict().items()}
    save_file(tensors, folder / "base.safetensors", metadata=ALIASES)
    return folder


@pytest.fixture(scope="session")
def manifest(rendered, made, tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("prepared")
    records = list(prepare(made(), {"scenes": rendered}, folder))
    for record in records:
        record.split = "test" if record.group == "harbour" else "train"
    return Manifest(records, folder)
