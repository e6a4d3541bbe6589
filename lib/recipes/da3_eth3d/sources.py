"""Where the base weights (files.py) and the scenes come from."""

from lib.core.records import Asset
from lib.recipes.da3_eth3d import files
from lib.recipes.da3_eth3d.config import Config
from lib.scenes import sources


def assets(config: Config) -> list[Asset]:
    return [files.base(config), *sources.of_data(config)]
