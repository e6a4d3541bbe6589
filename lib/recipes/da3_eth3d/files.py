"""Where the weights of Depth Anything 3 come from, and which of their files is opened."""

from pathlib import Path

from lib.core.records import Asset
from lib.recipes.da3_eth3d.base import FILE_BYTES, LICENCE
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.size import NAMES
from lib.scenes import base as bases


def base(config: Config) -> Asset:
    model = config.model
    if model.weights == "demo":
        return bases.shipped("lib/recipes/da3_eth3d/demo")
    if model.weights in NAMES:
        return bases.of_hub(model, LICENCE, FILE_BYTES[model.weights])
    return bases.own(model, tuple(NAMES))


def weight_file(config: Config, folder: Path) -> str:
    """As `lib.scenes.base.weight_file`."""
    return bases.weight_file(config.model, folder, tuple(NAMES))
