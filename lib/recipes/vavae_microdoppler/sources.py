"""Where the base weights (base.py) and the images come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.core.records import Asset
from lib.recipes.vavae_microdoppler.base import base, dit, from_hub
from lib.recipes.vavae_microdoppler.config import Config, DataConfig

OTHER_VISIONS = {  # name -> (hub repository, bytes)
    "dinov2_base": ("facebook/dinov2-base", 346_000_000),
    "dinov2_small": ("facebook/dinov2-small", 88_000_000),
}


def assets(config: Config) -> list[Asset]:
    """The base, the images, and where the settings ask for them a LightningDiT and another vision network."""
    wanted = [base(config), images(config)]
    if config.data.split:
        path = Path(config.data.split)
        how = "set data.split to the file, or to nothing"
        wanted.append(Asset("split", "folder", str(path.parent), files={path.name: ""}, how_to_get=how))
    if "dit" in config.train.stages and config.model.dit_weights != "scratch":
        wanted.append(dit(config))
    if config.model.vf in OTHER_VISIONS:
        files = ("config.json", "model.safetensors")
        repository, size = OTHER_VISIONS[config.model.vf]
        wanted.append(from_hub("vision", repository, files, "Apache-2.0", size))
    return wanted


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
