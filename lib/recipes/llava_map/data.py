"""Step 3: key frames to resized pictures, cameras and map vectors (arrays.py), and the split.

What is on disk is not made again. `overlays/` shows ground truth drawn into the six pictures: look at it before
training.
"""

import functools
import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from lib.core.errors import Stop
from lib.core.records import Record, Split
from lib.core.run import atomic
from lib.data import cores, pictures
from lib.recipes.llava_map import geometry, splits
from lib.recipes.llava_map.arrays import lines_of, read_arrays, read_pictures, resized, write_arrays
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.roadmap import RoadMap, Vector
from lib.recipes.llava_map.tables import TAGS, Camera, Frame, read_frames

JPEG_QUALITY = 95
# a held-out frame this near to a training frame has been seen, says the literature on the official split's leak
NEAR_M = 5.0
NEAR_ROAD_M = 2.0  # of the lidar, which may stand beside the edge of what the map calls road
FEWEST_ON_ROADS = 0.3  # of a location's frames; parking lots are no roads, and about a fifth of any place is one


def prepare(config: Config, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """Every key frame, by scene and time. Frames with a missing picture or pose are named and skipped."""
    root = asset_dirs["nuscenes"]
    frames, skipped = read_frames(root, config.data.version)
    if not frames:
        why = next(iter(skipped.values()), "no samples")
        raise Stop(
            f"{root / config.data.version} has no usable key frame ({why})", "set data.root to a whole nuScenes folder"
        )
    every = max(1, len(frames) // max(config.data.overlays, 1))
    road_map.cache_clear()  # the folder may be another one than last time
    refuse_other_maps(config, root, frames)
    drawn = [config.data.overlays > 0 and number % every == 0 for number in range(len(frames))]
    yield from cores.in_order(config, partial(prepare_frame, root=root, out=out), zip(frames, drawn, strict=True))
    for token, reason in skipped.items():
        yield Record(token, reason.split(":")[0], f"asset:nuscenes/{token}", "", status="skipped", reason=reason)


def refuse_other_maps(config: Config, root: Path, frames: list[Frame]) -> None:
    """Stop: the cars of a location hardly ever stand on a road of its map.

    It is another location's, or the poses are in another unit or frame. A map that does not fit has lines as well, and
    a network learns from them without a word.
    """
    for location in sorted({frame.location for frame in frames}):
        places = np.array([frame.world_from_bev[:2, 3] for frame in frames if frame.location == location])
        path = map_path(root, location)
        share = road_map(path, config.data.centreline).share_on_roads(places, NEAR_ROAD_M)
        if share < FEWEST_ON_ROADS:
            cause = f"{share:.0%} of the {len(places)} key frames of {location} lie on a road of {path}"
            raise Stop(cause, "see that log.json names the map's location, and that ego poses are metres in its frame")


def map_path(root: Path, location: str) -> Path:
    return root / "maps" / "expansion" / f"{location}.json"


def prepare_frame(config: Config, shown: tuple[Frame, bool], root: Path, out: Path) -> Record:
    """shown: a key frame, and whether an overlay of it is drawn."""
    frame, drawn = shown
    front = frame.cameras[0].filename
    record = Record(f"{frame.scene}/{frame.token}", frame.scene, f"asset:nuscenes/{front}", sha256(root / front))
    arrays = out / frame.scene / f"{frame.token}.npz"
    size_px = (config.data.width_px, config.data.height_px)
    if not arrays.exists():  # written after the pictures
        try:
            here = road_map(map_path(root, frame.location), config.data.centreline)
            vectors = vectors_of(config, frame, here)
            for camera in frame.cameras:
                keep_picture(root, camera, picture_path(out, frame, camera.channel), size_px)
        except pictures.Unreadable as reason:
            record.status, record.reason = "skipped", f"{camera.filename}: {reason}"
            return record
        except shapely.errors.GEOSException as error:
            record.status, record.reason = "skipped", f"the map of {frame.location} cannot be cut here ({error})"
            return record
        write_arrays(arrays, frame, vectors, size_px)
    record.columns = columns_of(frame, read_arrays(arrays)["labels"], config.data.classes)
    if drawn:
        overlay(config, frame, out)
    return record


@functools.lru_cache(maxsize=4)  # nuScenes' locations
def road_map(path: Path, centreline: bool) -> RoadMap:
    return RoadMap.read(path, centreline)


def columns_of(frame: Frame, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """What manifest.csv says of a frame: where and when it is, and how many lines of each class it has."""
    x_m, y_m = frame.world_from_bev[:2, 3]
    place = {"location": frame.location, "x_m": round(float(x_m), 2), "y_m": round(float(y_m), 2)}
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    tags = {tag: int(tag in frame.tags) for tag in TAGS}
    return place | {"timestamp_us": frame.timestamp_us} | tags | dict(zip(classes, counts, strict=True))


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


def keep_picture(root: Path, camera: Camera, target: Path, size_px: tuple[int, int]) -> None:
    """A camera's picture as a JPEG of size_px (width, height). Unreadable: it cannot be used, or is of one colour."""
    small = resized(root, camera, size_px)
    pictures.refuse_one_colour(small)
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
        config.data,
        truth=list(zip(arrays["labels"].tolist(), lines_of(arrays), strict=True)),
    )


# ---------------------------------------------------------------------------------------------- split


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Held-out scenes: a published list, or the eastern end of each location with a gap to what is trained on."""
    usable = [record for record in records if record.status == "ok"]
    if config.data.split == "geographic":
        return geographic(config, usable)
    train, held = splits.lists(config.data.split, config.data.version)
    foreign = {
        record.sample_id: f"{record.group} is in neither {config.data.split} list of {config.data.version}"
        for record in records
        if record.group not in train | held
    }
    choosing = spread_scenes(config, [record for record in usable if record.group in train])
    return Split("scene", tuple(sorted(held & {record.group for record in records})), foreign, tuple(choosing))


def spread_scenes(config: Config, records: list[Record]) -> list[str]:
    """Scenes that choose the checkpoint: of every location its share, evenly over its scenes, sorted.

    No more scenes than samples are scored during training: of trainval's 700, 684 are left to train on. [] where
    there are fewer than three scenes.
    """
    scenes = dict(sorted({record.group: str(record.columns["location"]) for record in records}.items()))
    count = min(round(config.eval.select_share * len(scenes)), config.eval.select_samples)
    if len(scenes) < 3 or not config.eval.select_share:
        return []
    by_location = sorted(scenes, key=lambda scene: (scenes[scene], scene))
    return sorted(by_location[i] for i in evenly(max(count, 1), len(by_location)))


def evenly(count: int, length: int) -> list[int]:
    """The middles of `count` equal parts of range(length)."""
    return [int((number + 0.5) * length / count) for number in range(count)]


def geographic(config: Config, records: list[Record]) -> Split:
    """By location, the scenes with the largest mean x are held out; the next ones choose the checkpoint.

    Scenes in between that come near either are dropped, so that neither side was driven through in training.
    """
    held: list[str] = []
    choosing: list[str] = []
    dropped: dict[str, str] = {}
    for location in sorted({record.columns["location"] for record in records}):
        here = [record for record in records if record.columns["location"] == location]
        frames: dict[str, list[Record]] = {}
        for record in here:
            frames.setdefault(record.group, []).append(record)
        places = {scene: positions(mine) for scene, mine in frames.items()}
        east = eastern(places, config.data.geographic_share)
        near = near_to(config, places, east)
        gone = {*east, *near}
        rest = {scene: places[scene] for scene in places if scene not in gone}
        if config.eval.select_share and len(rest) > 2:
            chosen = eastern(rest, config.eval.select_share)
            near |= near_to(config, rest, chosen)
            choosing += chosen
        held += east
        dropped |= {r.sample_id: f"{near[r.group]:.0f} m from a held-out frame" for r in here if r.group in near}
    return Split("scene", tuple(sorted(held)), dropped, tuple(sorted(choosing)))


def eastern(places: dict[str, np.ndarray], share: float) -> list[str]:
    """A share of the scenes, at least one: those with the largest mean x."""
    eastward = sorted(places, key=lambda scene: (places[scene][:, 0].mean(), scene))
    return eastward[-max(1, round(share * len(eastward))) :]


def near_to(config: Config, places: dict[str, np.ndarray], chosen: list[str]) -> dict[str, float]:
    """Scene -> metres to the nearest frame of the chosen ones, for the other scenes that are within the gap."""
    apart = set(chosen)
    others = [scene for scene in places if scene not in apart]
    if not others:
        return {}
    frames = [places[scene] for scene in others]
    gaps_m = nearest_m(np.concatenate(frames), np.concatenate([places[scene] for scene in chosen]))
    smallest_m = np.minimum.reduceat(gaps_m, np.cumsum([0, *map(len, frames[:-1])]))
    return {
        scene: float(gap_m)
        for scene, gap_m in zip(others, smallest_m, strict=True)
        if gap_m < config.data.geographic_gap_m
    }


def positions(records: list[Record]) -> np.ndarray:
    """Where the frames are in the world: (records, 2), metres."""
    return np.array([[float(record.columns["x_m"]), float(record.columns["y_m"])] for record in records]).reshape(-1, 2)


def nearest_m(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest of the others: (n,), metres; infinite where there are none."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(others).query(points)[0]) if len(others) else np.full(len(points), np.inf)


# ---------------------------------------------------------------------------------------------- summary


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    """Lines by class and side, and how much of the held-out ground was driven while training or choosing."""
    usable = [record for record in records if record.status == "ok"]
    sides = {side: [record for record in usable if record.split == side] for side in ("train", "select", "test")}
    summary: dict[str, Any] = {side: counted(mine, config.data.classes) for side, mine in sides.items() if mine}
    pairs = (("test", "train"), ("test", "select"), ("select", "train"))
    return summary | {
        f"{one}_share_within_{NEAR_M:.0f}_m_of_{other}": round(leak(sides[one], sides[other]), 4)
        for one, other in pairs
        if sides[one] and sides[other]
    }


def counted(records: list[Record], classes: tuple[str, ...]) -> dict[str, int]:
    counts = np.array([[int(record.columns[name]) for name in classes] for record in records]).reshape(-1, len(classes))
    found = {
        "frames": len(records),
        "scenes": len({record.group for record in records}),
        "most_in_a_frame": int(counts.sum(1).max(initial=0)),
        "frames_without": int((counts.sum(1) == 0).sum()),
    }
    return found | dict(zip(classes, counts.sum(0).tolist(), strict=True))


def leak(held_out: list[Record], seen: list[Record]) -> float:
    """Share of the held-out frames within NEAR_M of a seen one of the same location."""
    near: list[bool] = []
    for location in {record.columns["location"] for record in held_out}:
        here, there = (
            positions([record for record in side if record.columns["location"] == location])
            for side in (held_out, seen)
        )
        near += (nearest_m(here, there) < NEAR_M).tolist()
    return float(np.mean(near))
