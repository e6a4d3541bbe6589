"""One small stand-in data set for all tests of the recipe: three scenes at three locations, one held out."""

import pytest

from lib import config
from lib.recipes import llava_map
from lib.recipes.llava_map import standin

SIZE = standin.Size(train_scenes=3, val_scenes=1, frames=2)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuscenes")
    standin.write(folder, SIZE)
    return folder


@pytest.fixture
def cfg():
    """The demo's settings, for one test to change."""
    return config.compose(llava_map, "stage2", True, "tiny", {})[0]
