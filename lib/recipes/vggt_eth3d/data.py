"""From scenes to samples: arrays at network resolution (step 3), the split, and frames that see the same things.

In `out` each view has `<scene>/<view>.image.npy` (h, w, 3) uint8, `<view>.depth.npy` (h, w) float32 (0 = unknown) and, with
data.region_masks, `<view>.region.npy` (h, w) bool, which are memory-mapped, and each scene a `scene.json` with cameras and
covisibility. A view that is on disk is not made again.
"""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.errors import Stop
from lib.hashes import sha256_of
from lib.recipes import Record, Split
from lib.recipes.vggt_eth3d import colmap, depth, regions
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.crop import crop, read_image, resample
from lib.run import atomic, read_json, write_json
from lib.split import by_share, look

HELD_OUT = "held-out views"  # the second group of a scene that is alone
MIN_VALID_PX = 10  # a view with less depth teaches and tests nothing
AGREES = 0.1  # relative depth within which two views see the same surface


def prepare(cfg: Config, assets: dict[str, Path], out: Path) -> Iterator[Record]:
    """The arrays of every scene, view by view. `assets["scenes"]` is the folder with one folder per scene."""
    root = assets["scenes"]
    if not root.is_dir():
        raise Stop(f"the folder of scenes {root} is missing", "set data.root to the folder that holds one folder per scene")
    records = []
    for name in cfg.data.scenes + cfg.data.val_scenes:
        for record in prepare_scene(cfg, colmap.read(root / name), out / name, assets.get("regions")):
            records.append(record)
            yield record
    if "regions" in assets:
        regions.report(assets["regions"], records)


def prepare_scene(cfg: Config, scene: colmap.Scene, out: Path, masks: Path | None) -> Iterator[Record]:
    usable, reasons = [], []
    for number, view in enumerate(scene.views):
        record = prepare_view(cfg, scene, view, out, masks)
        record.group = group_of(cfg, scene.name, number, len(scene.views))
        if record.status == "ok":
            usable.append(view)
        else:
            reasons.append(record.reason)
        yield record
    if len(usable) < 2:
        because = f" ({len(reasons)} skipped: {reasons[0]})" if reasons else ""
        cause = f"the scene {scene.folder} has {len(usable)} usable images, but a sample needs two{because}"
        raise Stop(cause, "leave the scene out of data.scenes and data.val_scenes")
    write_scene(cfg, scene, usable, out)


def group_of(cfg: Config, scene: str, number: int, views: int) -> str:
    """The scene; with one scene and none to hold out, the last views (in file order) are a group of their own."""
    alone = len(cfg.data.scenes) == 1 and not cfg.data.val_scenes
    return f"{scene} {HELD_OUT}" if alone and number >= round(views * cfg.data.train_val_split) else scene


def prepare_view(cfg: Config, scene: colmap.Scene, view: colmap.View, out: Path, masks: Path | None) -> Record:
    """Writes the arrays of a view, or says in the record why it cannot be used."""
    import numpy

    source = f"asset:scenes/{scene.name}/{view.image.relative_to(scene.folder).as_posix()}"
    record = Record(f"{scene.name}/{view.name}", scene.name, source, sha256="")
    depth_map = depth.find_depth_map(scene, view, cfg.data.depth_scale)
    region = regions.find(masks, scene, view)
    try:
        frame = crop(view.camera, cfg.model.image_width_px, cfg.model.image_height_px)
        if not (out / f"{view.name}.depth.npy").exists():  # it is written last
            pixels = resample(read_image(view.image, view.camera), view.camera, frame)
            known = depth.known_depth(scene, view, frame, depth_map, depth.dropped_values(cfg.data.drop_obs_masks))
            if (count := int((known > 0).sum())) < MIN_VALID_PX:
                raise Stop(f"{view.image} has {count} pixels of known depth, fewer than {MIN_VALID_PX}")
            save(out / f"{view.name}.image.npy", pixels)
            if masks:
                save(out / f"{view.name}.region.npy", regions.read(region, view.camera, frame))
            save(out / f"{view.name}.depth.npy", known)
    except Stop as stop:
        record.status, record.reason = "skipped", stop.cause
        return record
    image, known = (numpy.load(out / f"{view.name}.{kind}.npy", mmap_mode="r") for kind in ("image", "depth"))
    record.sha256, record.look = sha256_of(view.image), look(image.mean(-1))
    record.columns = {"depth": "map" if depth_map else depth.without_map(scene), "valid_share": round(float((known > 0).mean()), 4)}
    if masks:
        record.columns["region"] = "mask" if region else "none"
    return record


def save(path: Path, array: Any) -> None:
    import numpy

    with atomic(path) as temporary, open(temporary, "wb") as file:
        numpy.save(file, array, allow_pickle=False)


def write_scene(cfg: Config, scene: colmap.Scene, usable: list[colmap.View], out: Path) -> None:
    """Cameras and covisibility of the usable views, written last."""
    width, height = cfg.model.image_width_px, cfg.model.image_height_px
    intrinsics = [crop(view.camera, width, height).intrinsics.tolist() for view in usable]
    views = {view.name: {"cam_from_world": view.cam_from_world.tolist(), "intrinsics": k} for view, k in zip(usable, intrinsics)}
    rows = [number for number, view in enumerate(scene.views) if view.name in views]
    shares = colmap.shared_points(scene)[rows][:, rows] if len(scene.points) else shared_depth(out, views)
    write_json(out / "scene.json", {"views": views, "covisibility": shares.astype(float).round(4).tolist()})


def shared_depth(out: Path, views: dict[str, dict]) -> Any:
    """(views, views), for scenes without points: the share of one view's surface that the other sees too, the smaller of both ways."""
    import numpy

    depths = [numpy.load(out / f"{name}.depth.npy", mmap_mode="r") for name in views]
    poses = [numpy.array(view["cam_from_world"]) for view in views.values()]
    cameras = [numpy.array(view["intrinsics"]) for view in views.values()]
    shares = numpy.eye(len(views), dtype=numpy.float32)
    for i in range(len(views)):
        world = surface(depths[i], cameras[i], poses[i])
        for j in range(len(views)):
            shares[i, j] = seen_share(world, depths[j], cameras[j], poses[j])
    return numpy.minimum(shares, shares.T)


def surface(known: Any, camera: Any, cam_from_world: Any) -> Any:
    """(n, 3): every fourth known pixel in each direction, in the world."""
    import numpy

    row, column = numpy.nonzero(known[::4, ::4])
    z = known[::4, ::4][row, column].astype(numpy.float64)
    pixels = numpy.stack([column * 4 * z, row * 4 * z, z], 1)
    return (pixels @ numpy.linalg.inv(camera).T - cam_from_world[:, 3]) @ cam_from_world[:, :3]


def seen_share(world: Any, known: Any, camera: Any, cam_from_world: Any) -> float:
    """The share of world points that lie on the surface which a view sees."""
    import numpy

    cam = world @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    cam = cam[cam[:, 2] > 0]
    column, row = numpy.rint((cam @ camera.T)[:, :2] / cam[:, 2:]).T
    inside = (column >= 0) & (column < known.shape[1]) & (row >= 0) & (row < known.shape[0])
    there = known[row[inside].astype(int), column[inside].astype(int)]
    return float((numpy.abs(there / cam[inside, 2] - 1) < AGREES).sum() / max(len(world), 1))


def split(cfg: Config, records: list[Record], arrays: Path) -> Split:
    """By scene: the named ones, or whole scenes by share. A scene that is alone is cut into two groups of views with a gap, and
    the views of the gap are named."""
    if cfg.data.val_scenes:
        return Split("scene", tuple(cfg.data.val_scenes))
    if len(cfg.data.scenes) > 1:
        return by_share(records, "scene", 1 - cfg.data.train_val_split, cfg.train.seed)
    scene = cfg.data.scenes[0]
    held_out = f"{scene} {HELD_OUT}"
    return Split("views of one scene, with a gap", (held_out,), gap(cfg, records, read_json(arrays / scene / "scene.json"), held_out))


def gap(cfg: Config, records: list[Record], stored: dict[str, Any], held_out: str) -> dict[str, str]:
    """Training views that share much with a held-out view: sample id -> reason. `stored` is the scene.json."""
    record_of = {record.sample_id.partition("/")[2]: record for record in records}
    views = [record_of[name] for name in stored["views"]]
    outside = [number for number, view in enumerate(views) if view.group == held_out]
    training = [number for number in range(len(views)) if number not in outside]
    dropped = {}
    for number in training:
        share, nearest = max(((stored["covisibility"][number][other], other) for other in outside), default=(0, 0))
        if share > cfg.data.gap_covisibility:
            dropped[views[number].sample_id] = f"shares {share:.0%} of what it sees with the held-out view {views[nearest].sample_id}"
    left = len(training) - len(dropped)
    if not outside or left < 2:
        counts = f"{len(outside)} held out, {len(dropped)} dropped for the gap, {left} left to train"
        raise Stop(f"the views of the only scene make no split: {counts}", "change data.gap_covisibility or name a scene in data.val_scenes")
    return dropped


def summarise_data(cfg: Config, records: list[Record]) -> dict[str, dict[str, Any]]:
    """Per scene: usable and skipped images, where depth comes from, and the mean share of pixels that have it."""
    summary = {}
    for name in cfg.data.scenes + cfg.data.val_scenes:
        mine = [record for record in records if record.sample_id.startswith(f"{name}/")]
        usable = [record for record in mine if record.status == "ok"]
        counts = {
            "images": len(usable), "skipped": len(mine) - len(usable),
            "depth": " and ".join(sorted({record.columns["depth"] for record in usable})),
            "valid_share": round(sum(float(record.columns["valid_share"]) for record in usable) / max(len(usable), 1), 4),
        }  # fmt: skip
        if cfg.data.region_masks:
            counts["without_region_mask"] = sum(record.columns["region"] == "none" for record in usable)
        summary[name] = counts
    return summary
