"""Where the base weights of a recipe of scenes come from, and which of their files is opened."""

from pathlib import Path

from lib.core.errors import Stop
from lib.core.records import Asset
from lib.scenes.sections import NetworkConfig

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")  # of a file; anything else is a folder


def shipped(folder: str) -> Asset:
    """The small base of a demo, in `folder` of this repository."""
    licence = "MIT (trained by this project on box worlds)"
    return Asset("base", "shipped", source=folder, files={"base.safetensors": ""}, licence=licence)


def of_hub(model: NetworkConfig, licence: str, size_bytes: int, sha256: str = "") -> Asset:
    """A published file; sha256 "" where the one of the revision is not known."""
    return Asset(
        "base",
        "hub",
        source=model.weights,
        revision=model.revision,
        files={"model.safetensors": sha256},
        licence=licence,
        how_to_get=f"from huggingface.co/{model.weights}",
        size_bytes=size_bytes,
    )


def own(model: NetworkConfig, published: tuple[str, ...]) -> Asset:
    """A file or a folder of the user's; `published` are the names that could have been meant instead."""
    path, how = Path(model.weights), f"set model.weights to {', '.join(published)}, or to your own model.safetensors"
    folder = path.parent if path.suffix in WEIGHT_SUFFIXES else path
    name = weight_file(model, folder, published) if folder.is_dir() else path.name
    return Asset("base", "folder", source=str(folder), files={name: ""}, how_to_get=how)


def weight_file(model: NetworkConfig, folder: Path, published: tuple[str, ...]) -> str:
    """The one file of the base's folder that is loaded, the same in step 2, which records it, and later.

    Stop: model.weights is a folder with no weight file, or with several.
    """
    weights = model.weights
    if weights == "demo" or weights in published:
        return "base.safetensors" if weights == "demo" else "model.safetensors"
    if Path(weights).suffix in WEIGHT_SUFFIXES:
        return Path(weights).name
    found = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if len(found) != 1:
        holds = f"{len(found)} weight files ({', '.join(found[:5])})" if found else "no weight file"
        raise Stop(f"model.weights={weights}: {folder} holds {holds}", "name the file itself in model.weights")
    return found[0]
