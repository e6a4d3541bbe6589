"""Where the base weights (base.py) and the scenes come from."""

from lib.core.records import Asset
from lib.recipes.vggt_eth3d.base import base
from lib.recipes.vggt_eth3d.config import Config
from lib.scenes.sources import of_data


def assets(config: Config) -> list[Asset]:
    return [base(config), *of_data(config)]
