"""Where the base weights (base.py), MANO and the hands come from."""

from collections.abc import Callable
from pathlib import Path

from lib.core.records import Asset
from lib.recipes.hamer.base import base
from lib.recipes.hamer.config import MANO_MD5, Config


def assets(config: Config) -> list[Asset]:
    return [base(config), *([] if config.model.mano == "stand_in" else [mano()]), data(config)]


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
