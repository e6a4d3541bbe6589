"""Where the base weights and the scenes come from."""
from collections.abc import Callable
from pathlib import Path

from lib.recipes import Asset
from lib.recipes.vggt_eth3d.config import Config

# Pinned commits of the model repositories; another one is another base.
REVISIONS = {
    "facebook/VGGT-1B": "860abec7937da0a4c03c41d3c269c366e82abdf9",
    "facebook/VGGT-1B-Commercial": "main",
}
LICENCES = {
    "facebook/VGGT-1B": "VGGT licence, non-commercial",
    "facebook/VGGT-1B-Commercial": "VGGT licence, commercial use allowed, not military (accept it on the model page first)",
}
ETH3D_PAGE = "https://www.eth3d.net/datasets"


def assets(cfg: Config) -> list[Asset]:
    return [base(cfg), scenes(cfg)]


def base(cfg: Config) -> Asset:
    weights = cfg.model.weights
    if weights == "demo":
        return Asset("base", "shipped", source="lib/recipes/vggt_eth3d/demo", files={"base.safetensors": ""}, licence="MIT (trained by this project on box worlds)")
    if weights in REVISIONS:
        return Asset("base", "hub", source=weights, revision=REVISIONS[weights], files={"model.safetensors": ""}, licence=LICENCES[weights], how_to_get=f"about 5 GB from huggingface.co/{weights}")
    path = Path(weights)
    folder, name = (path, "*") if path.is_dir() else (path.parent, path.name)
    return Asset("base", "folder", source=str(folder), files={name: ""}, how_to_get="set model.weights to a model.safetensors or model.pt")


def scenes(cfg: Config) -> Asset:
    if cfg.data.root:
        return Asset("scenes", "folder", source=cfg.data.root, files=folders(cfg), how_to_get="set data.root to the folder that holds one folder per scene")
    if cfg.data.stand_in:
        names = cfg.data.scenes + cfg.data.val_scenes
        return Asset("scenes", "made", stand_in=streets(names, cfg.data.stand_in_views), made_from=f"streets {names} {cfg.data.stand_in_views}", licence="MIT (rendered by this project)")
    return Asset(
        "scenes", "licensed", files=folders(cfg), licence="ETH3D, research use (CC BY-NC-SA 4.0)",
        how_to_get=f"from {ETH3D_PAGE}: multi_view_training_dslr_undistorted.7z, and for dense depth <scene>_dslr_depth.7z of each scene; unpack them here",
    )  # fmt: skip


def folders(cfg: Config) -> dict[str, str]:
    """Every file of the named scenes, whatever their layout."""
    return {f"{name}/**/*": "" for name in cfg.data.scenes + cfg.data.val_scenes}


def streets(names: list[str], views: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from lib.recipes.vggt_eth3d import demo

        demo.write_scenes(folder, names, views)

    return write
