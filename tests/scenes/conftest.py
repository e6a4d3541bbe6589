"""Two small procedural streets in ETH3D's layout, made once for all tests of this folder, and their configuration."""

import shutil

import pytest

from lib.core.config import from_dotted
from lib.core.records import Stage
from lib.recipes.vggt_eth3d.config import DEMO, PRESETS, Config
from lib.scenes import stand_in

VIEWS = 6
STAGE = Stage("adapt", 1, kind="m")  # what is held out is in metres
UNKNOWN = Stage("adapt", 1)  # its unit is not known


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streets")
    stand_in.write_scenes(folder, ["linden", "harbour"], VIEWS)
    return folder


@pytest.fixture
def streets(rendered, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(rendered, tmp_path / "streets")


@pytest.fixture(scope="session")
def settings():
    """settings(**overrides with __ for .) -> Config of the demo on the two streets."""

    def make(**overrides):
        small = {"data.samples_per_epoch": 8, "model.image_width_px": 126, "model.image_height_px": 84}
        scenes = {"data.scenes": ["linden"], "data.val_scenes": ["harbour"], "data.frames": [3, 3]}
        dotted = {key.replace("__", "."): value for key, value in overrides.items()}
        return from_dotted(Config, PRESETS["strategy_b"] | DEMO | scenes | small | dotted)

    return make
