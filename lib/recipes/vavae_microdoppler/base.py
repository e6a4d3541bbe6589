"""Where the base weights come from, and which of their files are opened."""

from pathlib import Path

from lib.core.errors import Stop
from lib.core.records import Asset
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.networks_config import PUBLISHED, PUBLISHED_DIT, WEIGHT_TYPES

PUBLISHED_FILE = "vavae-imagenet256-f16d32-dinov2.pt"
# Of a folder that --export merged wrote, the file that holds the rest too.
EXPORTED = {"base": "vavae_encoder_for_dit.safetensors", "dit": "lightningdit.safetensors"}
SOURCES = "sources.json"  # written by lib.data.assets beside what it fetched
OURS = "MIT (trained by this project on textures)"


def base(config: Config) -> Asset:
    """The file in the published format that the networks come from."""
    source = config.model.source
    if source == "demo":
        files = {"autoencoder.safetensors": "", "vision.safetensors": ""}
        return Asset("base", "shipped", "lib/recipes/vavae_microdoppler/demo_autoencoder", files=files, licence=OURS)
    if source == PUBLISHED:
        licence, note = "MIT (LightningDiT), DINOv2 Apache-2.0", "; it holds DINOv2, LPIPS and the critic as well"
        return from_hub("base", source, (PUBLISHED_FILE,), licence, 2_000_000_000, note)
    return own("base", source, "set model.weights to a VA-VAE file in the published format (.pt, .ckpt, .safetensors)")


def dit(config: Config) -> Asset:
    weights = config.model.dit_weights
    if weights != "published":
        return own("dit", weights, "set model.dit_weights to a LightningDiT file in the published format")
    if config.model.is_demo:
        source = "lib/recipes/vavae_microdoppler/demo_dit"
        return Asset("dit", "shipped", source, files={"dit.safetensors": ""}, licence=OURS)
    file, note = f"{PUBLISHED_DIT.partition('/')[2]}.pt", "; only the averaged weights are used, 2.7 GB"
    return from_hub("dit", PUBLISHED_DIT, (file,), "MIT (LightningDiT)", 10_000_000_000, note)


def from_hub(name: str, source: str, files: tuple[str, ...], licence: str, size: int, note: str = "") -> Asset:
    """size: bytes; note: "; what is in it" behind the address."""
    how = f"from huggingface.co/{source}{note}"
    return Asset(name, "hub", source, "main", dict.fromkeys(files, ""), licence, how, size_bytes=size)


def own(name: str, source: str, how: str) -> Asset:
    """A person's own file, alone, or what of their folder is weights."""
    path = Path(source)
    folder, names = (path, chosen(name, path)) if path.is_dir() else (path.parent, [path.name])
    return Asset(name, "folder", str(folder), files=dict.fromkeys(names, ""), how_to_get=how)


def chosen(name: str, folder: Path) -> list[str]:
    """Of a folder: the file of an export, else every file of weights. Stop: there is none, or one is needed."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name.endswith(WEIGHT_TYPES))
    names = [EXPORTED[name]] if EXPORTED[name] in names else names
    if not names or (name == "dit" and len(names) > 1):
        key = {"base": "model.weights", "dit": "model.dit_weights"}[name]
        there = f"{len(names)} files of weights ({', '.join(names[:3])})" if names else "no file of weights"
        raise Stop(f"{folder} holds {there}, and {key} needs one", f"name it: {key}={folder}/NAME")
    return names


def files_of(asset: Asset, folder: Path) -> list[Path]:
    """The files of an asset where step 2 found it. A folder may lie elsewhere than on the machine of step 1."""
    named = [folder / name for name in asset.files if (folder / name).is_file()]
    return named or [folder / name for name in chosen(asset.name, folder)]
