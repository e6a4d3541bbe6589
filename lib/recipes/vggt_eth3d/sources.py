"""Where the base weights and the scenes come from."""
from collections.abc import Callable
from pathlib import Path

from lib.recipes import Archive, Asset
from lib.recipes.vggt_eth3d.config import Config

LICENCES = {
    "facebook/VGGT-1B": "VGGT licence, non-commercial",
    "facebook/VGGT-1B-Commercial": "VGGT licence, commercial use allowed, not military (accept it on the model page first)",
}
ETH3D_PAGE = "https://www.eth3d.net/datasets"
DEPTH_MB = {"facade": 804, "electro": 656, "delivery_area": 388}  # of <scene>_dslr_depth.7z; of the others the page states it


def assets(cfg: Config) -> list[Asset]:
    return [base(cfg), scenes(cfg), *regions(cfg)]


def base(cfg: Config) -> Asset:
    weights = cfg.model.weights
    if weights == "demo":
        licence = "MIT (trained by this project on box worlds)"
        return Asset("base", "shipped", source="lib/recipes/vggt_eth3d/demo", files={"base.safetensors": ""}, licence=licence)
    if weights in LICENCES:
        return Asset(
            "base", "hub", source=weights, revision=cfg.model.revision, files={"model.safetensors": ""}, licence=LICENCES[weights],
            how_to_get=f"about 5 GB from huggingface.co/{weights}",
        )  # fmt: skip
    path = Path(weights)
    folder, name = (path, "*") if path.is_dir() else (path.parent, path.name)
    return Asset("base", "folder", source=str(folder), files={name: ""}, how_to_get="set model.weights to a model.safetensors or model.pt")


def scenes(cfg: Config) -> Asset:
    if cfg.data.root:
        how = "set data.root to the folder that holds one folder per scene"
        return Asset("scenes", "folder", source=cfg.data.root, files=folders(cfg), how_to_get=how)
    if cfg.data.stand_in:
        names, views = cfg.data.scenes + cfg.data.val_scenes, cfg.data.stand_in_views
        made_from = f"streets {names} {views}"
        return Asset("scenes", "made", stand_in=streets(names, views), made_from=made_from, licence="MIT (rendered by this project)")
    return Asset(
        "scenes", "licensed", files=folders(cfg), licence="ETH3D, research use (CC BY-NC-SA 4.0)", archives=eth3d_archives(cfg),
        how_to_get=f"archives from {ETH3D_PAGE}, to be placed as they are (step 2 unpacks them), or unpacked",
    )  # fmt: skip


def eth3d_archives(cfg: Config) -> tuple[Archive, ...]:
    """Photographs with their cameras are required. Dense depth needs the depth and, for the lens that it was seen through, the
    distorted photographs' cameras; or the laser scans."""
    found = []
    for scene in cfg.data.scenes + cfg.data.val_scenes:
        photographs = (f"{scene}/images/dslr_images_undistorted/*", f"{scene}/dslr_calibration_undistorted/*")
        found.append(Archive(f"{scene}_dslr_undistorted.7z", photographs, within="multi_view_training_dslr_undistorted.7z"))
        depth, size = (f"{scene}/ground_truth_depth/dslr_images/*",), DEPTH_MB.get(scene, 0) * 10**6
        found.append(Archive(f"{scene}_dslr_depth.7z", depth, size, required=False))
        lens = (f"{scene}/dslr_calibration_jpg/*",)
        found.append(Archive(f"{scene}_dslr_jpg.7z", lens, within="multi_view_training_dslr_jpg.7z", required=False))
        found.append(Archive(f"{scene}_dslr_scan_eval.7z", (f"{scene}/dslr_scan_eval/*",), required=False))
    return tuple(found)


def regions(cfg: Config) -> list[Asset]:
    if not cfg.data.region_masks:
        return []
    how = "set data.region_masks to the folder that holds <scene>/<photograph>.png"
    return [Asset("regions", "folder", source=cfg.data.region_masks, files={"**/*.png": ""}, how_to_get=how)]


def folders(cfg: Config) -> dict[str, str]:
    """Every file of the named scenes, whatever their layout."""
    return {f"{name}/**/*": "" for name in cfg.data.scenes + cfg.data.val_scenes}


def streets(names: list[str], views: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from lib.recipes.vggt_eth3d import demo

        demo.write_scenes(folder, names, views)

    return write
