"""Where the base weights, MANO and the hands come from."""
from collections.abc import Callable
from pathlib import Path

from lib.recipes import Asset
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.mano_file import MD5

CHECKPOINTS = {
    "hamer": (
        "hamer.ckpt", "HaMeR, MIT (trained with MANO: non-commercial)",
        (
            "download https://www.cs.utexas.edu/~pavlakos/hamer/data/hamer_demo_data.tar.gz (5.8 GB), unpack it and put "
            "hamer_ckpts/checkpoints/hamer.ckpt here"
        ),
    ),
    "vitpose": (
        "vitpose_backbone.pth", "ViTPose, Apache-2.0",
        "put the ViT-H backbone of ViTPose here as vitpose_backbone.pth, or set model.checkpoint to its path",
    ),
}  # fmt: skip


def assets(config: Config) -> list[Asset]:
    return [base(config), *([] if config.model.mano == "stand_in" else [mano()]), data(config)]


def base(config: Config) -> Asset:
    if config.model.checkpoint:
        path = Path(config.model.checkpoint)
        return Asset("base", "folder", source=str(path.parent), files={path.name: ""}, how_to_get="set model.checkpoint to the file")
    if config.model.init == "demo":
        licence = "MIT (trained by this project on made-up hands)"
        return Asset("base", "shipped", source="lib/recipes/hamer/demo", files={"base.safetensors": ""}, licence=licence)
    name, licence, how_to_get = CHECKPOINTS[config.model.init]
    return Asset("base", "licensed", files={name: ""}, licence=licence, how_to_get=how_to_get)


def mano() -> Asset:
    return Asset(
        "mano", "licensed", files={"MANO_RIGHT.*": ""}, licence="MANO licence: registration, non-commercial, no redistribution",
        how_to_get=f"register at https://mano.is.tue.mpg.de, download Models & Code and put MANO_RIGHT.pkl (MD5 {MD5}) here; "
        "until then model.mano=stand_in runs with a made-up hand",
    )  # fmt: skip


def data(config: Config) -> Asset:
    made = config.data
    if made.format == "made":
        text = f"gloved hands {made.made_subjects} x {made.made_hands} at {made.made_px} px"
        draw = gloves(made.made_subjects, made.made_hands, made.made_px)
        return Asset("data", "made", stand_in=draw, made_from=text, licence="MIT (drawn by this project)")
    folder, pattern = root(config)
    source = str(folder) if made.root else ""
    how_to_get = f"hands as {made.format} (lib/recipes/hamer/formats.py), or set data.root"
    return Asset("data", "folder", source=source, files={pattern: ""}, how_to_get=how_to_get)


def root(config: Config) -> tuple[Path, str]:
    """The folder of the user's data and the files in it that belong to the asset; data.root may name one .npz or .tar."""
    path = Path(config.data.root)
    return (path.parent, path.name) if path.suffix in (".npz", ".tar") else (path, "**/*")


def gloves(subjects: int, hands: int, side_px: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from lib.recipes.hamer import demo

        demo.write(folder, subjects, hands, side_px)

    return write
