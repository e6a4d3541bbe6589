"""Samples of the loop: a prepared frame, mirrored and coloured as its key says, and several of them as one batch.

A sample holds `sample_id`, `group` and `folder` (text), `flip` (bool), `colour` (see `light`), `intrinsics` (6, 3, 3)
and `bev_from_cam` (6, 4, 4) float32, `labels` (lines,) int64, `orders` (lines, orders, points, 2) float32 in metres
(polylines.orders) and `lines`, the uncut polylines in metres. Pictures are decoded in `collate`, so a frame whose image
tokens are cached never opens them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lib.core.order import Key
from lib.core.records import Batch, Manifest, Record, Sample, Sampler, Stage
from lib.recipes.llava_map import geometry, polylines
from lib.recipes.llava_map.arrays import lines_of, read_arrays, read_pictures
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.tables import CAMERAS, TAGS

# of a sample, what stays a list in a batch
NAMES = ("sample_id", "group", "folder", "lines", "place", "other_folder", "ablated")
MIRRORED = [CAMERAS.index(geometry.MIRRORED_CAMERA[channel]) for channel in CAMERAS]  # view -> the view it becomes


def sampler(config: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """train: with flips and colour; select: evenly spread frames of that side; test: all of them."""
    records = manifest.side(side)
    if side == "select" and len(records) > config.eval.select_samples:
        records = [records[i] for i in np.linspace(0, len(records) - 1, config.eval.select_samples).round().astype(int)]

    def draw(index: int, key: Key) -> Sample:
        record, generator = records[index], key.generator()
        flip = side == "train" and config.data.flip and bool(generator.random() < 0.5)
        colour = light(config, generator) if side == "train" else None
        other = elsewhere(records, index) if side == "test" and config.eval.ablations else record
        return sample(config, record, manifest.arrays / record.sample_id, flip, colour) | {
            "other_folder": str(manifest.arrays / other.sample_id),
            "ablated": other is not record,
        }

    return Sampler(len(records), draw)


def elsewhere(records: list[Record], index: int) -> Record:
    """A frame half the list away and of another scene, whose pictures an ablation shows instead; itself where all are
    of one scene.
    """
    turned = [records[(index + len(records) // 2 + i) % len(records)] for i in range(len(records))]
    return next((record for record in turned if record.group != records[index].group), records[index])


def light(config: Config, generator: np.random.Generator) -> np.ndarray | None:
    """Brightness and contrast of each camera as factors, (2, 6, 1, 1, 1); None where the setting is 0."""
    strength = config.data.colour_jitter
    return generator.uniform(1 - strength, 1 + strength, (2, len(CAMERAS), 1, 1, 1)) if strength else None


def sample(config: Config, record: Record, folder: Path, flip: bool, colour: np.ndarray | None) -> Sample:
    """One frame as the loop passes it on. `folder` holds its pictures."""
    arrays = read_arrays(folder.with_name(folder.name + ".npz"))
    lines, intrinsics, bev_from_cam = lines_of(arrays), arrays["intrinsics"], arrays["bev_from_cam"]
    if flip:
        lines = [geometry.mirrored_points(line) for line in lines]
        intrinsics, bev_from_cam = mirrored_cameras(intrinsics, bev_from_cam, config.data.width_px)
    groups = [
        polylines.orders(line, config.model.points, config.data.half_extent_m, config.loss.orders) for line in lines
    ]
    return {
        "sample_id": record.sample_id,
        "group": record.group,
        "folder": str(folder),
        "flip": flip,
        "colour": colour,
        "intrinsics": intrinsics.astype(np.float32),
        "bev_from_cam": bev_from_cam.astype(np.float32),
        "labels": arrays["labels"],
        "orders": polylines.padded(groups, config.model.points),
        "lines": lines,
        "place": {"location": str(record.columns["location"])} | {tag: str(record.columns[tag]) for tag in TAGS},
    }


def mirrored_cameras(intrinsics: np.ndarray, bev_from_cam: np.ndarray, width_px: int) -> tuple[np.ndarray, np.ndarray]:
    """The six cameras of the mirrored world, left and right exchanged so that every view keeps its name.

    intrinsics (6, 3, 3) in pixels, bev_from_cam (6, 4, 4) in metres -> the same two.
    """
    mirrored = [geometry.mirrored_camera(bev_from_cam[i], intrinsics[i], width_px) for i in MIRRORED]
    return np.stack([k for _, k in mirrored]), np.stack([pose for pose, _ in mirrored])


def pictures_of(sample: Sample) -> np.ndarray:
    """(6, 3, height, width) uint8 of a sample, flipped and coloured as it was drawn."""
    pictures = read_pictures(Path(sample["folder"]))
    if sample["flip"]:
        pictures = pictures[MIRRORED][..., ::-1]
    if sample["colour"] is not None:
        gain, contrast = sample["colour"]
        mean = pictures.mean((1, 2, 3), keepdims=True)
        pictures = np.clip(((pictures - mean) * contrast + mean) * gain, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pictures)


def collate(config: Config, stage: Stage, samples: list[Sample]) -> Batch:
    """Arrays become tensors. What differs in length from frame to frame (labels, orders, lines) stays a list."""
    import torch

    names = ("intrinsics", "bev_from_cam")
    batch: dict[str, Any] = {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in names}
    if "frozen_features" in samples[0]:
        # a frame is one unit, so each sample has (1, 6, tokens, width)
        batch["frozen_features"] = torch.cat([s["frozen_features"] for s in samples])
    else:
        batch["pictures"] = torch.from_numpy(np.stack([pictures_of(s) for s in samples]))
    for name in ("labels", "orders"):
        batch[name] = [torch.from_numpy(s[name]) for s in samples]
    return batch | {name: [s[name] for s in samples] for name in NAMES if name in samples[0]}
