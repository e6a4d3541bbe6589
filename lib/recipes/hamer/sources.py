"""Where the base weights, MANO and the hands come from."""

from collections.abc import Callable
from pathlib import Path

from lib.core.records import Asset
from lib.recipes.hamer.config import MANO_MD5, Config

CHECKPOINTS = {
    "hamer": (
        "hamer.ckpt",
        "HaMeR, MIT (trained with MANO: non-commercial)",
        "download https://www.cs.utexas.edu/~pavlakos/hamer/data/hamer_demo_data.tar.gz (5.8 GB), unpack it and put "
        "hamer_ckpts/checkpoints/hamer.ckpt here",
    ),
    "vitpose": (
        "vitpose_backbone.pth",
        "ViTPose, Apache-2.0",
        "put the ViT-H backbone of ViTPose here as vitpose_backbone.pth, or set model.checkpoint to its path",
    ),
}


def assets(config: Config) -> list[Asset]:
    return [base(config), *([] if config.model.mano == "stand_in" else [mano()]), data(config)]


def base(config: Config) -> Asset:
    if config.model.checkpoint:
        path = Path(config.model.checkpoint)
        how_to_get = "set model.checkpoint to the file"
        return Asset("base", "folder", source=str(path.parent), files={path.name: ""}, how_to_get=how_to_get)
    if config.model.init == "demo":
        folder, licence = "lib/recipes/hamer/demo", "MIT (trained by this project on pictures of its stand-in hand)"
        return Asset("base", "shipped", source=folder, files={"base.safetensors": ""}, licence=licence)
    name, licence, how_to_get = CHECKPOINTS[config.model.init]
    return Asset("base", "licensed", files={name: ""}, licence=licence, how_to_get=how_to_get)


def mano() -> Asset:
    return Asset(
        "mano",
        "licensed",
        files={"MANO_RIGHT.*": ""},
        licence="MANO licence: registration, non-commercial, no redistribution",
        how_to_get="register at https://mano.is.tue.mpg.de, download Models & Code and put MANO_RIGHT.pkl "
        f"(MD5 {MANO_MD5}) here; until then model.mano=stand_in runs with an invented hand",
    )


def data(config: Config) -> Asset:
    made = config.data
    if made.format == "made":
        text = f"gloved hands {made.stand_in_subjects} x {made.stand_in_hands} at {made.stand_in_px} px"
        draw = gloves(made.stand_in_subjects, made.stand_in_hands, made.stand_in_px)
        return Asset("data", "made", stand_in=draw, made_from=text, licence="MIT (drawn by this project)")
    folder, pattern = root(config)
    source = str(folder) if made.root else ""
    how_to_get = f"hands as {made.format} (lib/recipes/hamer/formats.py), or set data.root"
    return Asset("data", "folder", source=source, files={pattern: ""}, how_to_get=how_to_get)


def root(config: Config) -> tuple[Path, str]:
    """The folder of the user's data, and a glob of the files in it that belong to the asset.

    data.root may name one .npz or .tar instead of a folder.
    """
    path = Path(config.data.root)
    return (path.parent, path.name) if path.suffix in (".npz", ".tar") else (path, "**/*")


def gloves(subjects: int, hands: int, side_px: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from lib.recipes.hamer import stand_in

        stand_in.write(folder, subjects, hands, side_px)

    return write
