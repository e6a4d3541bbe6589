"""Where the scenes come from. A recipe adds where its base does."""

from collections.abc import Callable
from pathlib import Path

from lib.core.records import Archive, Asset
from lib.scenes.sections import SUMMARY, Settings

ETH3D_PAGE = "https://www.eth3d.net/datasets"
DEPTH_MB = {"facade": 804, "electro": 656, "delivery_area": 388}  # of <scene>_dslr_depth.7z; the page states the others


def of_data(config: Settings) -> list[Asset]:
    """The scenes, and the region masks where some are asked for."""
    return [scenes(config), *regions(config)]


def scenes(config: Settings) -> Asset:
    if config.data.root:
        how = "set data.root to the folder that holds one folder per scene"
        beside = {SUMMARY: ""} if (Path(config.data.root) / SUMMARY).is_file() else {}  # it may say what depth is in
        return Asset("scenes", "folder", source=config.data.root, files=folders(config) | beside, how_to_get=how)
    if config.data.stand_in:
        names, views = config.data.scenes + config.data.val_scenes, config.data.stand_in_views
        made_from, licence = f"streets {names} {views}", "MIT (rendered by this project)"
        return Asset("scenes", "made", stand_in=streets(names, views), made_from=made_from, licence=licence)
    return Asset(
        "scenes",
        "licensed",
        files=folders(config),
        licence="ETH3D, research use (CC BY-NC-SA 4.0)",
        archives=eth3d_archives(config),
        how_to_get=f"archives from {ETH3D_PAGE}, to be placed as they are (step 2 unpacks them), or unpacked",
    )


def eth3d_archives(config: Settings) -> tuple[Archive, ...]:
    """Photographs with their cameras are required. Dense depth needs either the laser scans, or the depth maps together
    with the cameras of the distorted photographs, through whose lens they were seen.
    """
    found = []
    for scene in config.data.scenes + config.data.val_scenes:
        photographs = (f"{scene}/images/dslr_images_undistorted/*", f"{scene}/dslr_calibration_undistorted/*")
        depth, size = (f"{scene}/ground_truth_depth/dslr_images/*",), DEPTH_MB.get(scene, 0) * 10**6
        lens, scans = (f"{scene}/dslr_calibration_jpg/*",), (f"{scene}/dslr_scan_eval/*",)
        all_photographs, all_lenses = (f"multi_view_training_dslr_{kind}.7z" for kind in ("undistorted", "jpg"))
        found += [
            Archive(f"{scene}_dslr_undistorted.7z", photographs, within=all_photographs),
            Archive(f"{scene}_dslr_depth.7z", depth, size, required=False),
            Archive(f"{scene}_dslr_jpg.7z", lens, within=all_lenses, required=False),
            Archive(f"{scene}_dslr_scan_eval.7z", scans, required=False),
        ]
    return tuple(found)


def regions(config: Settings) -> list[Asset]:
    if not config.data.region_masks:
        return []
    how = "set data.region_masks to the folder that holds <scene>/<photograph>.png"
    return [Asset("regions", "folder", source=config.data.region_masks, files={"**/*.png": ""}, how_to_get=how)]


def folders(config: Settings) -> dict[str, str]:
    """Every file of the named scenes, whatever their layout. `**` alone does not enter images/ where it is a link."""
    names = config.data.scenes + config.data.val_scenes
    return dict.fromkeys([f"{name}/{part}**/*" for name in names for part in ("", "*/")], "")


def streets(names: list[str], views: int) -> Callable[[Path], None]:
    """What renders these procedural scenes into an empty folder."""

    def write(folder: Path) -> None:
        from lib.scenes import stand_in

        stand_in.write_scenes(folder, names, views)

    return write
