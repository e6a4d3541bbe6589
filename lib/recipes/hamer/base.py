"""Where the base weights come from, and which file is opened."""

from pathlib import Path

from lib.core.records import Asset
from lib.recipes.hamer.config import Config

CHECKPOINTS = {
    "hamer": (
        "hamer.ckpt",
        "HaMeR, MIT (trained with MANO: non-commercial)",
        "download https://www.cs.utexas.edu/~pavlakos/hamer/data/hamer_demo_data.tar.gz (5.8 GB), unpack it and put "
        "hamer_ckpts/checkpoints/hamer.ckpt here",
        5_800_000_000,
    ),
    "vitpose": (
        "vitpose_backbone.pth",
        "ViTPose, Apache-2.0",
        "put the ViT-H backbone of ViTPose here as vitpose_backbone.pth, or set model.checkpoint to its path",
        0,
    ),
}


def base(config: Config) -> Asset:
    if config.model.checkpoint:
        path = Path(config.model.checkpoint)
        how_to_get = "set model.checkpoint to the file"
        return Asset("base", "folder", source=str(path.parent), files={path.name: ""}, how_to_get=how_to_get)
    if config.model.init == "demo":
        folder, licence = "lib/recipes/hamer/demo", "MIT (trained by this project on pictures of its stand-in hand)"
        return Asset("base", "shipped", source=folder, files={"base.safetensors": ""}, licence=licence)
    name, licence, how_to_get, size = CHECKPOINTS[config.model.init]
    return Asset("base", "licensed", files={name: ""}, licence=licence, how_to_get=how_to_get, size_bytes=size)
