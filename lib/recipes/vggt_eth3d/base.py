"""Where the base weights come from, and which of their files is opened."""

from pathlib import Path

from lib.core.errors import Stop
from lib.core.records import Asset
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.sections import LICENCES, WEIGHT_SUFFIXES


def base(config: Config) -> Asset:
    weights = config.model.weights
    if weights == "demo":
        folder, licence = "lib/recipes/vggt_eth3d/demo", "MIT (trained by this project on box worlds)"
        return Asset("base", "shipped", source=folder, files={"base.safetensors": ""}, licence=licence)
    if weights in LICENCES:
        return Asset(
            "base",
            "hub",
            source=weights,
            revision=config.model.revision,
            files={"model.safetensors": ""},
            licence=LICENCES[weights],
            how_to_get=f"from huggingface.co/{weights}",
            size_bytes=5_030_000_000,  # 1 257 million numbers in fp32, the track head included
        )
    path, how = Path(weights), f"set model.weights to {', '.join(LICENCES)}, or to your own model.safetensors"
    own = path.parent if path.suffix in WEIGHT_SUFFIXES else path
    name = weight_file(config, own) if own.is_dir() else path.name
    return Asset("base", "folder", source=str(own), files={name: ""}, how_to_get=how)


def weight_file(config: Config, folder: Path) -> str:
    """The one file of the base's folder that is loaded, the same in step 2, which records it, and later.

    Stop: model.weights is a folder with no weight file, or with several.
    """
    weights = config.model.weights
    if weights == "demo" or weights in LICENCES:
        return "base.safetensors" if weights == "demo" else "model.safetensors"
    if Path(weights).suffix in WEIGHT_SUFFIXES:
        return Path(weights).name
    found = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len(found) != 1:
        holds = f"{len(found)} weight files ({', '.join(found[:5])})" if found else "no weight file"
        raise Stop(f"model.weights={weights}: {folder} holds {holds}", "name the file itself in model.weights")
    return found[0]
