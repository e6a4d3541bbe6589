"""Samples: hands of the prepared shards -> crops with labels, augmented for training; what the trivial predictor
answers.
"""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.core.records import Batch, Manifest, Record, Sample, Sampler, Stage
from lib.recipes.hamer import crop
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.data import ARRAYS, taught, truth
from lib.recipes.hamer.data_config import DataConfig


class Shards:
    """Rows of the prepared arrays; a file is opened once per process and read slice by slice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "open": {}}  # loader processes open their own

    def file(self, record: Record) -> Any:
        from safetensors import safe_open

        name = record.columns["shard"]
        if name not in self.open:
            self.open[name] = safe_open(checked(self.folder / name), framework="numpy").__enter__()
        return self.open[name]

    def values(self, record: Record, *names: str) -> list[np.ndarray]:
        file, row = self.file(record), int(record.columns["row"])
        return [file.get_slice(name)[row : row + 1][0] for name in names]

    def pixels(self, record: Record) -> np.ndarray:
        """(h, w, 3) uint8"""
        file, row = self.file(record), int(record.columns["row"])
        first, last = file.get_slice("offset")[row : row + 2]
        return file.get_slice("pixels")[int(first) : int(last)].reshape(*self.values(record, "shape")[0], 3)

    def labels(self, record: Record) -> Labels:
        points, joints, pose, betas, has_pose, has_betas = self.values(record, *ARRAYS, "has_pose", "has_betas")
        return Labels(points, joints, pose, betas, bool(has_pose), bool(has_betas))


def sampler(config: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """Side train: augmented crops; test: every held-out hand that can be scored; select: some hands of its own groups,
    spread over them.

    "vertices" tells the scores whether all hands of the side have a mesh (pose and shape) to compare with. Stop: the
    side has no hand that is of use.
    """
    shards = Shards(manifest.arrays)
    train = taught(manifest)
    if side == "train":
        refuse_untaught(manifest)
        real = [record for record in train if int(record.columns["mesh"])]
        return Sampler(len(train), lambda index, key: train_sample(config, shards, train[index], real, key.generator()))
    mean, held = mean_hand(config, shards, train), manifest.side(side)
    held = [record for record in held if int(record.columns[truth(config)])]
    if not held:
        cause = f"no hand of the {side} side has keypoints in {truth(config)} to be scored against"
        raise Stop(cause, "hold out other groups (data.val_groups), or set data.truth")
    mean["vertices"] = np.float32(config.scores_3d and all(int(record.columns["mesh"]) for record in held))
    held = spread(held, config.eval.select_samples) if side == "select" else by_turns(held)
    return Sampler(len(held), lambda index, key: sample(config, shards, held[index], crop.Change()) | mean)


def refuse_untaught(manifest: Manifest) -> None:
    """Stop: nothing can be learnt, because the training side has no hand, or only boxes."""
    if not manifest.side("train"):
        raise Stop("the training side has no usable hand", "hold out other groups: data.val_groups or val_share")
    if not taught(manifest):
        cause = "no hand of the training side has labels (boxes and drafts that nobody accepted teach nothing)"
        raise Stop(cause, "accept drafts in label.html: python step2_download.py --run NAME --propose FOLDER makes it")


def by_turns(records: list[Record]) -> list[Record]:
    """The first hand of every group, then the second ones.

    The report draws the first few, which then are of several people.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return [record for hands in zip_longest(*groups.values()) for record in hands if record]


def spread(records: list[Record], count: int) -> list[Record]:
    """`count` records at even distances: all groups are in it, because records of a group follow one another."""
    return [records[i] for i in np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)]


def train_sample(
    config: Config, shards: Shards, record: Record, real: list[Record], generator: np.random.Generator
) -> Sample:
    change = random_change(config.data, generator) if config.data.augment else crop.Change()
    found = sample(config, shards, record, change)
    if config.loss.adversarial and real:  # HaMeR shows its critic two real hands for each image
        picks = [real[i] for i in generator.integers(0, len(real), 2)]
        poses, betas = zip(*(shards.values(pick, "hand_pose", "betas") for pick in picks), strict=True)
        found |= {"real_pose": np.stack(poses), "real_betas": np.stack(betas)}
    return found


def random_change(data: DataConfig, generator: np.random.Generator) -> crop.Change:
    """HaMeR's augmentation: scale, rotation in 60 % of the crops, shift, colour."""

    def normal(limit: float) -> float:
        return float(np.clip(generator.standard_normal(), -limit, limit))

    scale = 1 + data.augment_scale * normal(1)
    rotation = data.augment_rotation_deg * normal(2)
    turned = generator.random() < data.augment_rotation_share
    shift = (data.augment_shift * normal(1), data.augment_shift * normal(1))
    red, green, blue = generator.uniform(1 - data.augment_colour, 1 + data.augment_colour, 3).tolist()
    return crop.Change(scale, rotation if turned else 0.0, shift, (red, green, blue))


def sample(config: Config, shards: Shards, record: Record, change: crop.Change) -> Sample:
    """Arrays of one crop; a left hand comes out mirrored, as a right one.

    image (3, crop_px, crop_px) normalised; keypoints_2d (21, 3) crop fractions and confidence; keypoints_3d (21, 4) m
    and confidence; pose (48,) rad; betas (10,); has_pose, has_betas: weights of their losses. All float32.
    """
    size, pixels, right = config.model.crop_px, shards.pixels(record), bool(int(record.columns["right"]))
    centre, side_px = shards.values(record, "centre", "side_px")
    place = crop.placement(centre, float(side_px), right, pixels.shape[1], change, size)
    labels = crop.move_labels(shards.labels(record), place, right, pixels.shape[1], change.rotation_deg, size)
    prior = config.loss.shape_prior  # an unannotated shape is pulled to the mean hand
    return {
        "sample_id": record.sample_id,
        "group": record.group,
        "image": crop.normalise(crop.warp(pixels, place, right, size), change.gain),
        "keypoints_2d": labels.keypoints_2d,
        "keypoints_3d": labels.keypoints_3d,
        "pose": labels.hand_pose,
        "betas": labels.betas if labels.has_betas else np.zeros_like(labels.betas),
        "has_pose": np.float32(labels.has_pose),
        "has_betas": np.float32(1 if labels.has_betas else prior),
    }


def mean_hand(config: Config, shards: Shards, train: list[Record]) -> Sample:
    """What the trivial predictor always answers: the mean keypoints of (at most 2000 of) the training crops.

    mean_2d (21, 2) crop fractions, mean_3d (21, 3) m from the wrist; NaN where no hand has all of them.
    """
    chosen = [sample_labels(config, shards, record) for record in spread(train, 2000)]
    flat = [labels.keypoints_2d for labels in chosen if (labels.keypoints_2d[:, 2] > 0).all()]
    solid = [labels.keypoints_3d for labels in chosen if (labels.keypoints_3d[:, 3] > 0).all()]
    rooted = [joints[:, :3] - joints[:1, :3] for joints in solid]
    return {
        "mean_2d": (np.mean(flat, 0)[:, :2] if flat else np.full((21, 2), np.nan)).astype(np.float32),
        "mean_3d": (np.mean(rooted, 0) if rooted else np.full((21, 3), np.nan)).astype(np.float32),
    }


def sample_labels(config: Config, shards: Shards, record: Record) -> Labels:
    """Labels of the crop that is not augmented."""
    right, width_px = bool(int(record.columns["right"])), int(shards.values(record, "shape")[0][1])
    centre, side_px = shards.values(record, "centre", "side_px")
    place = crop.placement(centre, float(side_px), right, width_px, crop.Change(), config.model.crop_px)
    return crop.move_labels(shards.labels(record), place, right, width_px, 0.0, config.model.crop_px)


def collate(config: Config, stage: Stage, samples: list[Sample]) -> Batch:
    """Arrays become stacked tensors, texts lists; what the frozen layers computed is stacked as it is."""
    import torch

    batch: Batch = {}
    for name, value in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(value, str):
            batch[name] = values
        else:
            batch[name] = torch.stack([torch.as_tensor(value) for value in values])
    return batch
