"""Step 3: key frames to resized pictures, cameras and map vectors; the split; and the samples of the loop.

In `out` a frame is `<scene>/<token>.npz` (cameras and vectors, no pickle) and `<scene>/<token>/<channel>.jpg` (resized). What is on
disk is not made again. `overlays/` shows ground truth drawn into the six pictures: look at it before training.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lib.errors import Stop
from lib.recipes import Manifest, Record, Sampler, Split
from lib.recipes.llava_map import geometry, polylines, splits
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.roadmap import CLASSES, RoadMap, Vector
from lib.recipes.llava_map.tables import CAMERAS, Frame, read_frames
from lib.run import atomic

JPEG_QUALITY = 95
NEAR_M = 5.0  # a held-out frame this near to a training frame has been seen, says the literature on the official split's leak


def prepare(cfg: Config, places: dict[str, Path], out: Path) -> Iterator[Record]:
    """Every key frame, by scene and time. Frames with a missing picture or pose are named and skipped."""
    root = places["nuscenes"]
    frames, skipped = read_frames(root, cfg.data.version)
    if not frames:
        why = next(iter(skipped.values()), "no samples")
        raise Stop(f"{root / cfg.data.version} has no usable key frame ({why})", "set data.root to a whole nuScenes folder")
    maps: dict[str, RoadMap] = {}
    every = max(1, len(frames) // max(cfg.data.overlays, 1))
    for number, frame in enumerate(frames):
        if frame.location not in maps:
            maps[frame.location] = RoadMap.read(root / "maps" / "expansion" / f"{frame.location}.json")
        record = prepare_frame(cfg, frame, maps[frame.location], root, out)
        if record.status == "ok" and cfg.data.overlays and number % every == 0:
            overlay(cfg, frame, out)
        yield record
    for token, reason in skipped.items():
        yield Record(token, reason.split(":")[0], f"asset:nuscenes/{token}", "", status="skipped", reason=reason)


def prepare_frame(cfg: Config, frame: Frame, road_map: RoadMap, root: Path, out: Path) -> Record:
    front = root / frame.cameras[0].filename
    record = Record(f"{frame.scene}/{frame.token}", frame.scene, f"asset:nuscenes/{frame.cameras[0].filename}", sha256(front))
    arrays = out / frame.scene / f"{frame.token}.npz"
    if not arrays.exists():  # written after the pictures
        vectors = vectors_of(cfg, frame, road_map)
        try:
            for camera in frame.cameras:
                resize(root / camera.filename, picture_path(out, frame, camera.channel), (cfg.data.width_px, cfg.data.height_px))
        except OSError as error:
            record.status, record.reason = "skipped", f"{camera.filename} cannot be decoded ({error})"
            return record
        save_frame(arrays, cfg, frame, vectors)
    x_m, y_m = frame.world_from_bev[:2, 3]
    counts = np.bincount(read_arrays(arrays)["labels"], minlength=len(CLASSES))
    record.columns = {
        "location": frame.location,
        "x_m": round(float(x_m), 2),
        "y_m": round(float(y_m), 2),
        "timestamp_us": frame.timestamp_us,
    }
    record.columns |= {name: int(count) for name, count in zip(CLASSES, counts, strict=True)}
    return record


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def picture_path(out: Path, frame: Frame, channel: str) -> Path:
    return out / frame.scene / frame.token / f"{channel}.jpg"


def vectors_of(cfg: Config, frame: Frame, road_map: RoadMap) -> list[Vector]:
    """The frame's map vectors. More than there are instance queries is refused: MapTR never truncates, and neither do we."""
    vectors = road_map.vectors(*frame.world_from_bev[:2, 3], geometry.yaw_rad(frame.world_from_bev), cfg.data.half_extent_m)
    if len(vectors) > cfg.model.instances:
        raise Stop(
            f"{frame.scene}/{frame.token} has {len(vectors)} map elements, and model.instances is {cfg.model.instances}",
            f"set model.instances={len(vectors)} or more",
        )
    return vectors


def resize(source: Path, target: Path, size_px: tuple[int, int]) -> None:
    """JPEG to JPEG; the decoder halves large pictures by itself, which saves most of the time."""
    with Image.open(source) as picture:
        picture.draft("RGB", size_px)
        small = picture.convert("RGB").resize(size_px, Image.Resampling.BILINEAR, reducing_gap=2.0)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as temporary:
        small.save(temporary, format="JPEG", quality=JPEG_QUALITY, subsampling=0)


def save_frame(path: Path, cfg: Config, frame: Frame, vectors: list[Vector]) -> None:
    lengths = [len(vector.vertices) for vector in vectors]
    scales = [(cfg.data.width_px / camera.width_px, cfg.data.height_px / camera.height_px) for camera in frame.cameras]
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            labels=np.array([vector.label for vector in vectors], np.int64),
            ends=np.cumsum(lengths, dtype=np.int64),
            vertices=np.concatenate([vector.vertices for vector in vectors]) if vectors else np.zeros((0, 2)),
            intrinsics=np.stack([geometry.scaled(camera.intrinsics, *scale) for camera, scale in zip(frame.cameras, scales, strict=True)]),
            bev_from_cam=frame.bev_from_cam(),
        )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def overlay(cfg: Config, frame: Frame, out: Path) -> None:
    """Ground truth in the six pictures and from above, as out/overlays/<scene>-<token>.png."""
    path = out / "overlays" / f"{frame.scene}-{frame.token}.png"
    if path.exists():
        return
    from lib.recipes.llava_map import drawing

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = read_arrays(out / frame.scene / f"{frame.token}.npz")
    truth = list(zip(arrays["labels"], lines_of(arrays), strict=True))
    drawing.scene_figure(
        path,
        f"{frame.scene}  {frame.location}  ground truth",
        read_pictures(out / frame.scene / frame.token),
        arrays,
        cfg.data.half_extent_m,
        truth=truth,
    )


def lines_of(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The original polylines of a frame, which evaluation compares with."""
    return np.split(arrays["vertices"], arrays["ends"][:-1]) if len(arrays["ends"]) else []


def read_pictures(folder: Path) -> np.ndarray:
    """(6, 3, h, w) uint8 in the order of CAMERAS."""
    return np.stack([np.asarray(Image.open(folder / f"{channel}.jpg")) for channel in CAMERAS]).transpose(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------- split


def split(cfg: Config, records: list[Record]) -> Split:
    """Held-out scenes: the official list, or the eastern end of each location with a gap to what is trained on."""
    if cfg.data.split == "geographic":
        return geographic(cfg, [record for record in records if record.status == "ok"])
    names = "mini_" if cfg.data.version == "v1.0-mini" else ""
    train, val = set(splits.OFFICIAL[f"{names}train"]), set(splits.OFFICIAL[f"{names}val"])
    foreign = {
        record.sample_id: f"{record.group} is in neither official list of {cfg.data.version}"
        for record in records
        if record.group not in train | val
    }
    return Split("scene", tuple(sorted(val & {record.group for record in records})), foreign)


def geographic(cfg: Config, records: list[Record]) -> Split:
    """By location, the scenes with the largest mean x are held out; training scenes that come near them are dropped."""
    held, dropped = [], {}
    for location in sorted({record.columns["location"] for record in records}):
        here = [record for record in records if record.columns["location"] == location]
        places = {scene: positions([r for r in here if r.group == scene]) for scene in {r.group for r in here}}
        eastward = sorted(places, key=lambda scene: (places[scene][:, 0].mean(), scene))
        chosen = eastward[-max(1, round(cfg.data.geographic_share * len(eastward))) :]
        for scene in set(eastward) - set(chosen):
            gap_m = min(nearest_m(places[scene], places[other]).min() for other in chosen)
            if gap_m < cfg.data.geographic_gap_m:
                dropped |= {r.sample_id: f"{gap_m:.0f} m from a held-out frame" for r in here if r.group == scene}
        held += chosen
    return Split("scene", tuple(sorted(held)), dropped)


def positions(records: list[Record]) -> np.ndarray:
    return np.array([[float(record.columns["x_m"]), float(record.columns["y_m"])] for record in records]).reshape(-1, 2)


def nearest_m(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest of the others: (n,); infinite where there are none."""
    from scipy.spatial import cKDTree

    return cKDTree(others).query(points)[0] if len(others) else np.full(len(points), np.inf)


def summarise_data(cfg: Config, records: list[Record]) -> dict:
    """Lines by class and side, frames without any, the most in a frame, and how much of the held-out ground was driven in training."""
    usable = [record for record in records if record.status == "ok"]
    summary = {}
    for side in ("train", "val"):
        mine = [record for record in usable if record.split == side]
        counts = np.array([[int(record.columns[name]) for name in CLASSES] for record in mine]).reshape(-1, len(CLASSES))
        summary[side] = {
            "frames": len(mine),
            "scenes": len({record.group for record in mine}),
            "most_in_a_frame": int(counts.sum(1).max(initial=0)),
        }
        summary[side] |= {"frames_without": int((counts.sum(1) == 0).sum())} | dict(zip(CLASSES, counts.sum(0).tolist(), strict=True))
    return summary | {f"val_share_within_{NEAR_M:.0f}_m_of_train": round(leak(usable), 4)}


def leak(records: list[Record]) -> float:
    near = []
    for location in {record.columns["location"] for record in records}:
        train, val = (positions([r for r in records if r.columns["location"] == location and r.split == side]) for side in ("train", "val"))
        near += list(nearest_m(val, train) < NEAR_M) if len(val) else []
    return float(np.mean(near)) if near else 0.0


# ---------------------------------------------------------------------------------------------- samples


def sampler(cfg: Config, manifest: Manifest, side: str) -> Sampler:
    """train: with flips and colour; select: evenly spread held-out frames; val: all held-out frames."""
    records = manifest.side("train" if side == "train" else "val")
    if side == "select" and len(records) > cfg.eval.select_samples:
        records = [records[i] for i in np.linspace(0, len(records) - 1, cfg.eval.select_samples).round().astype(int)]

    def draw(index: int, key) -> dict:
        record, generator = records[index], key.generator()
        flip = side == "train" and cfg.data.flip and bool(generator.random() < 0.5)
        colour = (
            generator.uniform(1 - cfg.data.colour_jitter, 1 + cfg.data.colour_jitter, (2, len(CAMERAS), 1, 1, 1))
            if side == "train"
            else None
        )
        return sample(cfg, record, manifest.arrays / record.sample_id, flip, colour if cfg.data.colour_jitter else None)

    return Sampler(len(records), draw)


def sample(cfg: Config, record: Record, folder: Path, flip: bool, colour: np.ndarray | None) -> dict:
    """One frame as the loop passes it on. Pictures are decoded by `pictures_of`, so a frame with cached tokens never opens them."""
    arrays = read_arrays(folder.with_name(folder.name + ".npz"))
    lines, intrinsics, bev_from_cam = lines_of(arrays), arrays["intrinsics"], arrays["bev_from_cam"]
    if flip:
        lines = [geometry.mirrored_points(line) for line in lines]
        intrinsics, bev_from_cam = mirrored_cameras(intrinsics, bev_from_cam, cfg.data.width_px)
    groups = [polylines.orders(line, cfg.model.points, cfg.data.half_extent_m, cfg.loss.orders) for line in lines]
    return {
        "sample_id": record.sample_id, "group": record.group, "folder": str(folder), "flip": flip, "colour": colour,
        "intrinsics": intrinsics.astype(np.float32), "bev_from_cam": bev_from_cam.astype(np.float32), "labels": arrays["labels"],
        "orders": polylines.padded(groups, cfg.model.points), "lines": lines,
    }  # fmt: skip


MIRRORED = [CAMERAS.index(geometry.MIRRORED_CAMERA[channel]) for channel in CAMERAS]


def mirrored_cameras(intrinsics: np.ndarray, bev_from_cam: np.ndarray, width_px: int) -> tuple[np.ndarray, np.ndarray]:
    """The six cameras of the mirrored world, left and right exchanged so that every view keeps its name."""
    mirrored = [geometry.mirrored_camera(bev_from_cam[i], intrinsics[i], width_px) for i in MIRRORED]
    return np.stack([k for _, k in mirrored]), np.stack([pose for pose, _ in mirrored])


def pictures_of(sample: dict) -> np.ndarray:
    """(6, 3, h, w) uint8 of a sample, flipped and coloured as it was drawn."""
    pictures = read_pictures(Path(sample["folder"]))
    if sample["flip"]:
        pictures = pictures[MIRRORED][..., ::-1]
    if sample["colour"] is not None:
        gain, contrast = sample["colour"]
        mean = pictures.mean((1, 2, 3), keepdims=True)
        pictures = np.clip(((pictures - mean) * contrast + mean) * gain, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pictures)


def collate(samples: list[dict]) -> dict:
    """Arrays to tensors; lines stay lists because every frame has another number of them."""
    import torch

    batch = {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in ("intrinsics", "bev_from_cam")}
    if "prefix" in samples[0]:
        batch["prefix"] = torch.cat([s["prefix"] for s in samples])  # one unit a frame: (batch, 6, tokens, width)
    else:
        batch["pictures"] = torch.from_numpy(np.stack([pictures_of(s) for s in samples]))
    batch["labels"] = [torch.from_numpy(s["labels"]) for s in samples]
    batch["orders"] = [torch.from_numpy(s["orders"]) for s in samples]
    return batch | {name: [s[name] for s in samples] for name in ("sample_id", "group", "folder", "lines")}
