"""Where VGGT's weights come from, and which of their files is opened."""

from pathlib import Path

from lib.core.records import Asset
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.sections import LICENCES
from lib.scenes import base as bases

SIZE_BYTES = 5_030_000_000  # 1 257 million numbers in fp32, the track head included


def base(config: Config) -> Asset:
    weights = config.model.weights
    if weights == "demo":
        return bases.shipped("lib/recipes/vggt_eth3d/demo")
    if weights in LICENCES:
        return bases.of_hub(config.model, LICENCES[weights], SIZE_BYTES)
    return bases.own(config.model, tuple(LICENCES))


def weight_file(config: Config, folder: Path) -> str:
    """As `lib.scenes.base.weight_file`."""
    return bases.weight_file(config.model, folder, tuple(LICENCES))
