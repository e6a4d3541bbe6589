"""From scenes to arrays at network resolution (step 3): what each view shows, which views see the same, the split.

In `out` each view has `<scene>/<view>.image.npy` (h, w, 3) uint8, `<view>.depth.npy` (h, w) float32 in the unit of the
scene (0 = unknown) and, with data.region_masks, `<view>.region.npy` (h, w) bool. Each scene has a `scene.json` with its
cameras and covisibility. A view that is on disk is not made again.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.core.hashes import sha256_of
from lib.core.records import Record, Split
from lib.core.run import atomic, read_json, write_json
from lib.core.words import counted
from lib.data import cores
from lib.data.split import by_share, perceptual_hash
from lib.scenes import agreement, colmap, depth, depth_files, overlap, regions
from lib.scenes.crop import KEPT, Crop, crop, kept_share, read_image, resample, seen
from lib.scenes.sections import OF_MODEL, Settings

HELD_OUT = "held-out views"  # the second group of a scene that is alone
FEWEST_VIEWS = 2  # of a scene: a sample needs two
MIN_VALID_PX = 10  # a view with less depth teaches and tests nothing


def prepare(config: Settings, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """The arrays of every scene, view by view.

    asset_dirs: "scenes" holds one folder per scene, "regions" (optional) the region masks. Stop: a missing folder or a
    damaged scene.
    """
    root, masks = asset_dirs["scenes"], asset_dirs.get("regions")
    if not root.is_dir():
        what_to_do = "set data.root to the folder that holds one folder per scene"
        raise Stop(f"the folder of scenes {root} is missing", what_to_do)
    records: list[Record] = []
    masks_of: dict[str, str] = {}
    for name in config.data.scenes + config.data.val_scenes:
        models = scenes_in(config, root / name)
        depth_files.refuse_strange(models)
        for scene in models:
            masks_of |= {f"{scene.name}/{view.name}": regions.name(scene, view) for view in scene.views}
            for record in prepare_scene(config, scene, out / scene.name, masks):
                records.append(record)
                yield record
    if masks:
        regions.report(masks, records, masks_of)


def scenes_in(config: Settings, folder: Path) -> list[colmap.Scene]:
    """The scene of a folder, or with data.sparse_models=each one for every model.

    Stop: several models are all there is. They show one place, so none can be held out from another, and which views
    of two models show the same cannot be told, so no gap can be left either.
    """
    if config.data.sparse_models == "largest":
        return [colmap.read(folder, "; data.sparse_models=each takes each as a scene")]
    found = colmap.read_all(folder)
    if len(found) > 1 and is_alone(config):
        cause = f"{folder.name} is the only scene, and its {len(found)} models show one place: none can be held out"
        raise Stop(cause, "name another scene in data.val_scenes, or set data.sparse_models=largest")
    return found


def prepare_scene(config: Settings, scene: colmap.Scene, out: Path, masks: Path | None) -> Iterator[Record]:
    """One scene, view by view; its scene.json is written last. Stop: its depth is not what its cameras say."""
    unit = depth.unit(scene, config.data.unit, is_known_data=not config.data.root)
    say_what_is_taken_for_metres(config, scene)
    usable, shares, measured = [], [], set()
    work = partial(prepare_view, scene=scene, masks=masks, out=out)
    for number, record in enumerate(cores.in_order(config, work, scene.views)):
        view = scene.views[number]
        record.group = group_of(config, scene.folder.name, number, len(scene.views))
        record.columns["unit"] = unit
        if record.status == "ok":
            usable.append(view)
            shares.append(record.columns["kept_share"])
            measured |= {view.name} if record.columns["depth"] != depth.POINTS else set()
        yield record
    if len(usable) < FEWEST_VIEWS:
        return  # `split` says so, when the manifest with the reasons is written
    refuse_other_depth(config, scene, [view for view in usable if view.name in measured], out)
    say_what_is_cropped(config, scene, sum(shares) / len(shares))
    write_scene(config, scene, usable, out)


def say_what_is_taken_for_metres(config: Settings, scene: colmap.Scene) -> None:
    """A scale that a person gives says what the values are divided by, and nothing shows that metres come out."""
    if config.data.unit == "auto" and config.data.depth_scale and depth_files.is_scaled(scene):
        said = f"depth over data.depth_scale={config.data.depth_scale:g} is taken to be in metres"
        print(f"  {scene.name}: {said}; if it is not, say data.unit=unknown in step 1", flush=True)


def say_what_is_cropped(config: Settings, scene: colmap.Scene, kept: float) -> None:
    if kept < KEPT:
        size = f"{config.model.image_width_px} x {config.model.image_height_px}"
        of = sorted({f"{view.camera.width} x {view.camera.height}" for view in scene.views})
        said = f"{kept:.0%} of the photographs' area is seen, the rest is cropped: they have {', '.join(of[:3])} px"
        print(f"  {scene.name}: {said}, the network {size} (model.image_width_px, model.image_height_px)", flush=True)


def refuse_other_depth(config: Settings, scene: colmap.Scene, measured: list[colmap.View], out: Path) -> None:
    """Stop: the depth of views is not what the model's points say. measured: those whose depth is not from points."""
    known = {
        view.name: agreement.measured(depth_reader(out, view.name), scene, view, frame_of(config, scene, view))
        for view in (measured if len(scene.points) else ())
    }
    agreement.refuse_other_depth(scene.folder, known)


def depth_reader(out: Path, name: str) -> Callable[[], np.ndarray]:
    return partial(np.load, out / f"{name}.depth.npy", mmap_mode="r")


def is_alone(config: Settings) -> bool:
    return len(config.data.scenes) == 1 and not config.data.val_scenes


def group_of(config: Settings, folder: str, number: int, views: int) -> str:
    """The folder, whose models show one place; of one that is alone, the last views (in file order) are a group of
    their own.
    """
    last = number >= round(views * config.data.train_val_split)
    return f"{folder} {HELD_OUT}" if is_alone(config) and last else folder


def prepare_view(config: Settings, view: colmap.View, scene: colmap.Scene, out: Path, masks: Path | None) -> Record:
    """Writes the arrays of a view, or says in the record why it cannot be used."""
    source = f"asset:scenes/{scene.folder.name}/{view.image.relative_to(scene.folder).as_posix()}"
    record = Record(f"{scene.name}/{view.name}", scene.name, source, sha256="")
    try:
        depth_map = depth_files.find_depth_map(scene, view, config.data.depth_scale)
        if not (out / f"{view.name}.depth.npy").exists():  # it is written last
            write_arrays(config, scene, view, depth_map, masks, out)
    except Stop as stop:
        record.status, record.reason = "skipped", stop.cause + (f" ({stop.command})" if stop.command else "")
        return record
    image, known = (np.load(out / f"{view.name}.{kind}.npy", mmap_mode="r") for kind in ("image", "depth"))
    frame = frame_of(config, scene, view)
    record.sha256, record.perceptual_hash = sha256_of(view.image), perceptual_hash(image.mean(-1))
    record.columns = {
        "depth": "map" if depth_map else depth.without_map(scene),
        "valid_share": round(float((known > 0).mean()), 4),
        "kept_share": round(kept_share(view.camera, frame), 4),  # of the photograph's area, in the network's crop
        "masked_share": round(1 - float(seen(view.camera, frame).mean()), 4),  # of the crop, beside the photograph
    }
    if masks:
        record.columns["region"] = "mask" if regions.find(masks, scene, view) else "none"
    return record


def write_arrays(
    config: Settings,
    scene: colmap.Scene,
    view: colmap.View,
    depth_map: depth_files.DepthMap | None,
    masks: Path | None,
    out: Path,
) -> None:
    """Picture, region and depth of a view at network resolution. Stop: a broken file, or too little depth."""
    frame = frame_of(config, scene, view)
    pixels = resample(read_image(view.image, view.camera, frame), view.camera, frame)
    known = depth.known_depth(scene, view, frame, depth_map, depth.dropped_values(config.data.drop_obs_masks))
    if (count := int((known > 0).sum())) < MIN_VALID_PX:
        raise Stop(f"{view.image} has {count} pixels of known depth, fewer than {MIN_VALID_PX}")
    save(out / f"{view.name}.image.npy", pixels)
    if masks:
        save(out / f"{view.name}.region.npy", regions.read(regions.find(masks, scene, view), view.camera, frame))
    save(out / f"{view.name}.depth.npy", known)


def frame_of(config: Settings, scene: colmap.Scene, view: colmap.View) -> Crop:
    """What the network sees of a view: where photographs of a scene stand and lie, at least KEPT of each."""
    size = config.model.image_width_px, config.model.image_height_px
    frame = crop(view.camera, *size)
    return crop(view.camera, *size, whole=True) if scene.is_mixed and kept_share(view.camera, frame) < KEPT else frame


def save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def write_scene(config: Settings, scene: colmap.Scene, usable: list[colmap.View], out: Path) -> None:
    """scene.json: cameras and covisibility of the usable views."""
    views = {
        view.name: {
            "cam_from_world": view.cam_from_world.tolist(),
            "intrinsics": frame_of(config, scene, view).intrinsics.tolist(),
        }
        for view in usable
    }
    rows = [number for number, view in enumerate(scene.views) if view.name in views]
    if any(len(view.seen) for view in usable):
        shares = colmap.shared_points(scene)[rows][:, rows]
    else:  # no points, or none that says which photographs see it
        shares = overlap.shares(scene.folder, [seen_by(out, name, view) for name, view in views.items()])
    write_json(out / "scene.json", {"views": views, "covisibility": shares.astype(float).round(4).tolist()})


def seen_by(out: Path, name: str, view: dict[str, Any]) -> overlap.Seen:
    return overlap.Seen(depth_reader(out, name)(), np.array(view["intrinsics"]), np.array(view["cam_from_world"]))


def split(config: Settings, records: list[Record], out: Path) -> Split:
    """By scene: the named ones, or whole scenes by share.

    A scene that is alone is cut into two groups of views with a gap, and the views of the gap are named. So are those
    of a model that is too short, beside a longer one. Stop: a scene has fewer than two usable views, the gap leaves
    fewer to train on, or nothing is held out.
    """
    short = short_models(config, records)
    if config.data.val_scenes:
        return Split("scene", tuple(config.data.val_scenes), short)
    if len(config.data.scenes) > 1:
        shared = by_share(records, "scene", 1 - config.data.train_val_split, config.train.seed)
        return replace(shared, dropped=short)
    scene = config.data.scenes[0]
    held_out = f"{scene} {HELD_OUT}"
    dropped = gap(config, records, read_json(out / scene / "scene.json"), held_out)
    return Split("views of one scene, with a gap", (held_out,), dropped)


def short_models(config: Settings, records: list[Record]) -> dict[str, str]:
    """Usable views of models with fewer than FEWEST_VIEWS of them: sample id -> reason. Stop: their scene has no
    other.
    """
    images, usable = Counter(map(scene_of, records)), Counter(scene_of(one) for one in records if one.status == "ok")
    for folder in config.data.scenes + config.data.val_scenes:
        models = [scene for scene in images if folder_of(config, scene) == folder]
        most = max(models, key=lambda scene: usable[scene], default=folder)
        if usable[most] < FEWEST_VIEWS:
            counts = f"{counted(usable[most], 'usable image')} of {images[most]}"
            cause = f"the scene {most} has {counts}, but a sample needs two"
            raise Stop(cause, "leave the scene out of data.scenes and data.val_scenes, or mend its images")
    reason = "the model {} has {}, but a sample needs two"
    return {
        one.sample_id: reason.format(scene_of(one), counted(usable[scene_of(one)], "usable image"))
        for one in records
        if one.status == "ok" and usable[scene_of(one)] < FEWEST_VIEWS
    }


def scene_of(record: Record) -> str:
    return record.sample_id.partition("/")[0]


def folder_of(config: Settings, scene: str) -> str:
    return scene.partition(OF_MODEL)[0] if config.data.sparse_models == "each" else scene


def gap(config: Settings, records: list[Record], stored: dict[str, Any], held_out: str) -> dict[str, str]:
    """Training views that share much with a held-out view: sample id -> reason. `stored` is the scene.json."""
    record_of = {record.sample_id.partition("/")[2]: record for record in records}
    views = [record_of[name] for name in stored["views"]]
    outside = [number for number, view in enumerate(views) if view.group == held_out]
    training = [number for number in range(len(views)) if number not in outside]
    dropped = {}
    for number in training:
        share, nearest = max(((stored["covisibility"][number][other], other) for other in outside), default=(0, 0))
        if share > config.data.gap_covisibility:
            twin = views[nearest].sample_id
            dropped[views[number].sample_id] = f"shares {share:.0%} of what it sees with the held-out view {twin}"
    left = len(training) - len(dropped)
    if not outside or left < 2:
        counts = f"{len(outside)} held out, {len(dropped)} dropped for the gap, {left} left to train"
        what_to_do = "change data.gap_covisibility or name a scene in data.val_scenes"
        raise Stop(f"the views of the only scene cannot be split: {counts}", what_to_do)
    return dropped


def summarise_data(config: Settings, records: list[Record]) -> dict[str, Any]:
    """Per scene: usable and skipped images, where depth comes from and in which unit, and mean shares: of the pixels
    that have it, of the photograph that is seen, and where the lens is wide of the crop that it does not fill.
    """
    summary = {}
    for name in dict.fromkeys(map(scene_of, records)):
        mine = [record for record in records if scene_of(record) == name]
        usable = [record for record in mine if record.status == "ok"]
        means = {
            name: round(sum(float(record.columns[name]) for record in usable) / max(len(usable), 1), 4)
            for name in ("valid_share", "kept_share", "masked_share")
        }
        counts: dict[str, Any] = {
            "images": len(usable),
            "skipped": len(mine) - len(usable),
            "depth": " and ".join(sorted({record.columns["depth"] for record in usable})),
            "unit": " and ".join(sorted({record.columns["unit"] or "unknown" for record in usable})),
            "valid_share": means["valid_share"],
            "kept_share": means["kept_share"],
        }
        if means["masked_share"]:
            counts["masked_share"] = means["masked_share"]
        if config.data.region_masks:
            counts["without_region_mask"] = sum(record.columns["region"] == "none" for record in usable)
        summary[name] = counts
    return summary
