"""Where base weights and data come from: the assets that step 2 brings, finds or asks the user for. No torch here.

lib.core.records.Asset explains the kinds.
"""

from collections.abc import Callable
from pathlib import Path

from lib.core.records import Asset

from .config import Config


def assets(config: Config) -> list[Asset]:
    """Later steps find each of them as asset_dirs[name]."""
    return [base(config), pictures(config)]


def base(config: Config) -> Asset:
    """CHANGE: published weights, at a fixed commit, so that everybody starts from the same ones:

    Asset("base", "hub", source="owner/model", revision="<commit>", files={"model.safetensors": ""}, licence="MIT")
    """
    if config.model.stand_in:
        return Asset("base", "made", stand_in=made_base(config.model.window_px), made_from=made_from(config))
    how_to_get = "put your base.safetensors here, or set model.folder; model.stand_in=true takes a mean filter"
    return Asset("base", "folder", source=config.model.folder, files={"base.safetensors": ""}, how_to_get=how_to_get)


def pictures(config: Config) -> Asset:
    """CHANGE: the pattern of your files, and the sentence that tells the user what to bring."""
    if config.data.stand_in:
        write = made_pictures(config.data.stand_in_cameras, config.data.stand_in_pictures, config.data.side_px)
        return Asset("pictures", "made", stand_in=write, made_from=made_from(config))
    how_to_get = "put CAMERA/noisy/NAME.png and CAMERA/clean/NAME.png here, or set data.root"
    return Asset("pictures", "folder", source=config.data.root, files={"*/*/*.png": ""}, how_to_get=how_to_get)


def made_from(config: Config) -> str:
    """The settings of the stand-in as text. Another text, or other code behind it, makes it again."""
    data = config.data
    sizes = f"{data.stand_in_cameras} x {data.stand_in_pictures} at {data.side_px} px"
    return f"{sizes}, window {config.model.window_px} px"


def made_base(window_px: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from . import stand_in

        stand_in.write_base(folder, window_px)

    return write


def made_pictures(cameras: int, count: int, side_px: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from . import stand_in

        stand_in.write_pictures(folder, cameras, count, side_px)

    return write
