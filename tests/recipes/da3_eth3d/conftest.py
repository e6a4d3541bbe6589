"""The streets of tests/scenes, a base of the demo's size with random weights, and their configuration."""

import pytest
import torch
from safetensors.torch import save_file

from lib.core.config import from_dotted
from lib.core.records import Manifest
from lib.recipes.da3_eth3d.config import DEMO, PRESETS, Config
from lib.recipes.da3_eth3d.model import DA3
from lib.recipes.da3_eth3d.sections import DEMO_SIZE
from lib.scenes.data import prepare
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
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    save_file(
        {f"model.{name}": value for name, value in DA3(DEMO_SIZE).state_dict().items()}, folder / "base.safetensors"
    )
    return {"base": folder}


@pytest.fixture(scope="session")
def manifest(rendered, made, tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("prepared")
    records = list(prepare(made(), {"scenes": rendered}, folder))
    for record in records:
        record.split = "test" if record.group == "harbour" else "train"
    return Manifest(records, folder)
