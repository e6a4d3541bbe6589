"""Where the base weights and the images come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.core.records import Asset
from lib.recipes.vavae_microdoppler.config import PUBLISHED, PUBLISHED_DIT, Config, DataConfig

PUBLISHED_FILE = "vavae-imagenet256-f16d32-dinov2.pt"
OTHER_VISIONS = {"dinov2_base": "facebook/dinov2-base", "dinov2_small": "facebook/dinov2-small"}
OURS = "MIT (trained by this project on textures)"


def assets(config: Config) -> list[Asset]:
    """The base, the images, and where the settings ask for them a LightningDiT and another vision network."""
    wanted = [base(config), images(config)]
    if "dit" in config.train.stages and config.model.dit_weights != "scratch":
        wanted.append(dit(config))
    if config.model.vf in OTHER_VISIONS:
        files = ("config.json", "model.safetensors")
        wanted.append(from_hub("vision", OTHER_VISIONS[config.model.vf], files, "Apache-2.0"))
    return wanted


def from_hub(name: str, source: str, files: tuple[str, ...], licence: str, size: str = "", note: str = "") -> Asset:
    """size and note: "2 GB " before and "; what is in it" behind the address."""
    how = f"{size}from huggingface.co/{source}{note}"
    return Asset(name, "hub", source, "main", dict.fromkeys(files, ""), licence, how)


def base(config: Config) -> Asset:
    weights = config.model.weights
    if weights == "demo":
        files = {"autoencoder.safetensors": "", "vision.safetensors": ""}
        return Asset("base", "shipped", "lib/recipes/vavae_microdoppler/demo_autoencoder", files=files, licence=OURS)
    if weights == PUBLISHED:
        licence, note = "MIT (LightningDiT), DINOv2 Apache-2.0", "; it holds DINOv2, LPIPS and the critic as well"
        return from_hub("base", weights, (PUBLISHED_FILE,), licence, "2 GB ", note)
    path = Path(weights)
    folder, name = (path, "*") if path.is_dir() else (path.parent, path.name)
    how = "set model.weights to a VA-VAE file in the published format (.pt, .ckpt, .safetensors)"
    return Asset("base", "folder", str(folder), files={name: ""}, how_to_get=how)


def dit(config: Config) -> Asset:
    weights = config.model.dit_weights
    if weights != "published":
        path = Path(weights)
        how = "set model.dit_weights to a LightningDiT file in the published format (.pt, .safetensors)"
        return Asset("dit", "folder", str(path.parent), files={path.name: ""}, how_to_get=how)
    if config.model.weights == "demo":
        source = "lib/recipes/vavae_microdoppler/demo_dit"
        return Asset("dit", "shipped", source, files={"dit.safetensors": ""}, licence=OURS)
    file, note = f"{PUBLISHED_DIT.partition('/')[2]}.pt", "; only the averaged weights are used, 2.7 GB"
    return from_hub("dit", PUBLISHED_DIT, (file,), "MIT (LightningDiT)", "10 GB ", note)


def images(config: Config) -> Asset:
    anything, how = {"**/*": ""}, "set data.root to the folder that holds one folder per user"
    if config.data.root:
        return Asset("data", "folder", config.data.root, files=anything, how_to_get=how)
    if config.data.stand_in:
        walks, write = stand_in(config.data)
        return Asset("data", "made", stand_in=write, made_from=walks, licence="MIT (simulated by this project)")
    how = "set data.root=FOLDER with one folder of spectrograms per user (ID_1 ... ID_31), or use --demo"
    return Asset("data", "folder", files=anything, how_to_get=how)


def stand_in(data: DataConfig) -> tuple[str, Callable[[Path], None]]:
    """(what is simulated, as text; the function that writes it into an empty folder)."""
    walks: dict[str, Any] = {
        "users": data.stand_in_users,
        "recordings": data.stand_in_recordings,
        "windows": data.stand_in_windows,
        "difference": data.stand_in_difference,
        "side_px": data.stand_in_px,
    }

    def write(folder: Path) -> None:
        from lib.recipes.vavae_microdoppler import stand_in

        stand_in.make(folder, stand_in.Walks(**walks))

    return f"walks {walks}", write
