"""Where the weights of Depth Anything 3 come from, and which of their files is opened."""

from pathlib import Path

from lib.core.records import Asset
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.sections import BASE_NAME, LICENCE, SIZES, SMALL_NAME
from lib.scenes import base as bases

# Of the published file, from which a wrong one is known at once.
SIZE_BYTES = {SMALL_NAME: 137_248_940, BASE_NAME: 541_518_028}


def base(config: Config) -> Asset:
    model = config.model
    if model.weights == "demo":
        return bases.shipped("lib/recipes/da3_eth3d/demo")
    if model.weights in SIZES:
        return bases.of_hub(model, LICENCE, SIZE_BYTES[model.weights])
    return bases.own(model, tuple(SIZES))


def weight_file(config: Config, folder: Path) -> str:
    """As `lib.scenes.base.weight_file`."""
    return bases.weight_file(config.model, folder, tuple(SIZES))
