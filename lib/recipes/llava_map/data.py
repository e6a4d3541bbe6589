"""Step 3: key frames to resized pictures, cameras and map vectors (arrays.py), and the split.

What is on disk is not made again. `overlays/` shows ground truth drawn into the six pictures: look at it before
training.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.core.records import Record, Split
from lib.core.run import atomic
from lib.recipes.llava_map import geometry, splits
from lib.recipes.llava_map.arrays import lines_of, read_arrays, read_pictures, resized, write_arrays
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.roadmap import CLASSES, RoadMap, Vector
from lib.recipes.llava_map.tables import Frame, read_frames

JPEG_QUALITY = 95
# a held-out frame this near to a training frame has been seen, says the literature on the official split's leak
NEAR_M = 5.0


def prepare(config: Config, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """Every key frame, by scene and time. Frames with a missing picture or pose are named and skipped."""
    root = asset_dirs["nuscenes"]
    frames, skipped = read_frames(root, config.data.version)
    if not frames:
        why = next(iter(skipped.values()), "no samples")
        raise Stop(
            f"{root / config.data.version} has no usable key frame ({why})", "set data.root to a whole nuScenes folder"
        )
    maps: dict[str, RoadMap] = {}
    every = max(1, len(frames) // max(config.data.overlays, 1))
    for number, frame in enumerate(frames):
        if frame.location not in maps:
            maps[frame.location] = RoadMap.read(root / "maps" / "expansion" / f"{frame.location}.json")
        record = prepare_frame(config, frame, maps[frame.location], root, out)
        if record.status == "ok" and config.data.overlays and number % every == 0:
            overlay(config, frame, out)
        yield record
    for token, reason in skipped.items():
        yield Record(token, reason.split(":")[0], f"asset:nuscenes/{token}", "", status="skipped", reason=reason)


def prepare_frame(config: Config, frame: Frame, road_map: RoadMap, root: Path, out: Path) -> Record:
    front = frame.cameras[0].filename
    record = Record(f"{frame.scene}/{frame.token}", frame.scene, f"asset:nuscenes/{front}", sha256(root / front))
    arrays = out / frame.scene / f"{frame.token}.npz"
    size_px = (config.data.width_px, config.data.height_px)
    if not arrays.exists():  # written after the pictures
        vectors = vectors_of(config, frame, road_map)
        try:
            for camera in frame.cameras:
                keep_picture(root / camera.filename, picture_path(out, frame, camera.channel), size_px)
        except OSError as error:
            record.status, record.reason = "skipped", f"{camera.filename} cannot be decoded ({error})"
            return record
        write_arrays(arrays, frame, vectors, size_px)
    record.columns = columns_of(frame, read_arrays(arrays)["labels"])
    return record


def columns_of(frame: Frame, labels: np.ndarray) -> dict[str, Any]:
    """What manifest.csv says of a frame: where and when it is, and how many lines of each class it has."""
    x_m, y_m = frame.world_from_bev[:2, 3]
    place = {"location": frame.location, "x_m": round(float(x_m), 2), "y_m": round(float(y_m), 2)}
    counts = np.bincount(labels, minlength=len(CLASSES)).tolist()
    return place | {"timestamp_us": frame.timestamp_us} | dict(zip(CLASSES, counts, strict=True))


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def picture_path(out: Path, frame: Frame, channel: str) -> Path:
    return out / frame.scene / frame.token / f"{channel}.jpg"


def vectors_of(config: Config, frame: Frame, road_map: RoadMap) -> list[Vector]:
    """The frame's map vectors. Stop where there are more than instance queries: MapTR never truncates, nor do we."""
    x_m, y_m = frame.world_from_bev[:2, 3]
    vectors = road_map.vectors(x_m, y_m, geometry.yaw_rad(frame.world_from_bev), config.data.half_extent_m)
    if len(vectors) > config.model.instances:
        cause = f"{frame.scene}/{frame.token} has {len(vectors)} map elements"
        raise Stop(
            f"{cause}, and model.instances is {config.model.instances}",
            f"set model.instances={len(vectors)} or more",
        )
    return vectors


def keep_picture(source: Path, target: Path, size_px: tuple[int, int]) -> None:
    """JPEG to JPEG of size_px (width, height). OSError where the source cannot be decoded."""
    small = resized(source, size_px)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as temporary:
        small.save(temporary, format="JPEG", quality=JPEG_QUALITY, subsampling=0)


def overlay(config: Config, frame: Frame, out: Path) -> None:
    """Ground truth in the six pictures and from above, as out/overlays/<scene>-<token>.png."""
    path = out / "overlays" / f"{frame.scene}-{frame.token}.png"
    if path.exists():
        return
    from lib.recipes.llava_map import scene_view

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = read_arrays(out / frame.scene / f"{frame.token}.npz")
    scene_view.scene_figure(
        path,
        f"{frame.scene}  {frame.location}  ground truth",
        read_pictures(out / frame.scene / frame.token),
        arrays,
        config.data.half_extent_m,
        truth=list(zip(arrays["labels"].tolist(), lines_of(arrays), strict=True)),
    )


# ---------------------------------------------------------------------------------------------- split


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Held-out scenes: the official list, or the eastern end of each location with a gap to what is trained on."""
    if config.data.split == "geographic":
        return geographic(config, [record for record in records if record.status == "ok"])
    names = "mini_" if config.data.version == "v1.0-mini" else ""
    train, val = set(splits.OFFICIAL[f"{names}train"]), set(splits.OFFICIAL[f"{names}val"])
    foreign = {
        record.sample_id: f"{record.group} is in neither official list of {config.data.version}"
        for record in records
        if record.group not in train | val
    }
    return Split("scene", tuple(sorted(val & {record.group for record in records})), foreign)


def geographic(config: Config, records: list[Record]) -> Split:
    """By location, the scenes with the largest mean x are held out; training scenes that come near them are dropped."""
    held: list[str] = []
    dropped: dict[str, str] = {}
    for location in sorted({record.columns["location"] for record in records}):
        here = [record for record in records if record.columns["location"] == location]
        places = {scene: positions([r for r in here if r.group == scene]) for scene in {r.group for r in here}}
        eastward = sorted(places, key=lambda scene: (places[scene][:, 0].mean(), scene))
        chosen = eastward[-max(1, round(config.data.geographic_share * len(eastward))) :]
        for scene in set(eastward) - set(chosen):
            gap_m = min(nearest_m(places[scene], places[other]).min() for other in chosen)
            if gap_m < config.data.geographic_gap_m:
                dropped |= {r.sample_id: f"{gap_m:.0f} m from a held-out frame" for r in here if r.group == scene}
        held += chosen
    return Split("scene", tuple(sorted(held)), dropped)


def positions(records: list[Record]) -> np.ndarray:
    """Where the frames are in the world: (records, 2), metres."""
    return np.array([[float(record.columns["x_m"]), float(record.columns["y_m"])] for record in records]).reshape(-1, 2)


def nearest_m(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest of the others: (n,), metres; infinite where there are none."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(others).query(points)[0]) if len(others) else np.full(len(points), np.inf)


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    """Lines by class and side, and how much of the held-out ground was driven in training."""
    usable = [record for record in records if record.status == "ok"]
    summary: dict[str, Any] = {
        side: counted([record for record in usable if record.split == side]) for side in ("train", "val")
    }
    return summary | {f"val_share_within_{NEAR_M:.0f}_m_of_train": round(leak(usable), 4)}


def counted(records: list[Record]) -> dict[str, int]:
    counts = np.array([[int(record.columns[name]) for name in CLASSES] for record in records]).reshape(-1, len(CLASSES))
    found = {
        "frames": len(records),
        "scenes": len({record.group for record in records}),
        "most_in_a_frame": int(counts.sum(1).max(initial=0)),
        "frames_without": int((counts.sum(1) == 0).sum()),
    }
    return found | dict(zip(CLASSES, counts.sum(0).tolist(), strict=True))


def leak(records: list[Record]) -> float:
    """Share of held-out frames within NEAR_M of a training frame."""
    near: list[bool] = []
    for location in {record.columns["location"] for record in records}:
        train, val = (
            positions([r for r in records if r.columns["location"] == location and r.split == side])
            for side in ("train", "val")
        )
        near += (nearest_m(val, train) < NEAR_M).tolist() if len(val) else []
    return float(np.mean(near)) if near else 0.0
