"""Samples: hands of the prepared shards -> crops with labels, augmented for training; what the trivial predictor answers."""
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy

from lib.recipes import Batch, Manifest, Record, Sample, Sampler
from lib.recipes.hamer import crop
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.data import ARRAYS, truth


class Shards:
    """Rows of the prepared arrays; a file is opened once per process and read slice by slice."""

    def __init__(self, folder: Path):
        self.folder, self.open = folder, {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "open": {}}  # loader processes open their own

    def file(self, record: Record):
        from safetensors import safe_open

        name = record.columns["shard"]
        if name not in self.open:
            self.open[name] = safe_open(self.folder / name, framework="numpy").__enter__()
        return self.open[name]

    def values(self, record: Record, *names: str) -> list[numpy.ndarray]:
        file, row = self.file(record), int(record.columns["row"])
        return [file.get_slice(name)[row : row + 1][0] for name in names]

    def pixels(self, record: Record) -> numpy.ndarray:
        file, row = self.file(record), int(record.columns["row"])
        first, last = file.get_slice("offset")[row : row + 2]
        return file.get_slice("pixels")[int(first) : int(last)].reshape(*self.values(record, "shape")[0], 3)

    def labels(self, record: Record) -> Labels:
        values = self.values(record, *ARRAYS, "has_pose", "has_betas")
        return Labels(*values[:4], bool(values[4]), bool(values[5]))


def sampler(config: Config, manifest: Manifest, side: str) -> Sampler:
    """Side train: augmented crops; val: every held-out hand that can be scored; select: some of them, spread over the groups.

    "vertices" tells the scores whether all held-out hands have a mesh (pose and shape) to compare with.
    """
    shards = Shards(manifest.arrays)
    train = manifest.side("train")
    if side == "train":
        real = [record for record in train if int(record.columns["pose"])]
        return Sampler(len(train), lambda index, key: train_sample(config, shards, train[index], real, key.generator()))
    mean, held = mean_hand(config, shards, train), manifest.side("val")
    held = [record for record in held if int(record.columns[truth(config)])]
    mean["vertices"] = numpy.float32(config.scores_3d and all(int(record.columns["pose"]) for record in held))
    held = spread(held, config.eval.select_samples) if side == "select" else by_turns(held)
    return Sampler(len(held), lambda index, key: sample(config, shards, held[index], crop.Change()) | mean)


def by_turns(records: list[Record]) -> list[Record]:
    """The first hand of every group, then the second ones: the report draws the first few, which then are of several people."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return [record for hands in zip_longest(*groups.values()) for record in hands if record]


def spread(records: list[Record], count: int) -> list[Record]:
    """`count` records at even distances: all groups are in it, because records of a group follow one another."""
    return [records[i] for i in numpy.linspace(0, len(records) - 1, min(count, len(records))).astype(int)]


def train_sample(config: Config, shards: Shards, record: Record, real: list[Record], generator) -> Sample:
    change = crop.draw(config.data, generator) if config.data.augment else crop.Change()
    found = sample(config, shards, record, change)
    if config.loss.adversarial and real:  # HaMeR shows its critic two real hands for each image
        picks = [real[i] for i in generator.integers(0, len(real), 2)]
        poses, betas = zip(*(shards.values(pick, "hand_pose", "betas") for pick in picks), strict=True)
        found |= {"real_pose": numpy.stack(poses), "real_betas": numpy.stack(betas)}
    return found


def sample(config: Config, shards: Shards, record: Record, change: crop.Change) -> Sample:
    """Arrays of one crop; a left hand comes out mirrored, as a right one."""
    size, pixels, right = config.model.crop_px, shards.pixels(record), bool(int(record.columns["right"]))
    centre, side_px = shards.values(record, "centre", "side_px")
    place = crop.placement(centre, float(side_px), right, pixels.shape[1], change, size)
    labels = crop.move_labels(shards.labels(record), place, right, pixels.shape[1], change.rotation_deg, size)
    prior = config.loss.shape_prior  # an unannotated shape is pulled to the mean hand
    return {
        "sample_id": record.sample_id, "group": record.group, "image": crop.normalise(crop.warp(pixels, place, right, size), change.gain),
        "keypoints_2d": labels.keypoints_2d, "keypoints_3d": labels.keypoints_3d, "pose": labels.hand_pose,
        "betas": labels.betas if labels.has_betas else numpy.zeros_like(labels.betas), "has_pose": numpy.float32(labels.has_pose),
        "has_betas": numpy.float32(1 if labels.has_betas else prior),
    }  # fmt: skip


def mean_hand(config: Config, shards: Shards, train: list[Record]) -> Sample:
    """The mean keypoints of (at most 2000 of) the training crops: what the trivial predictor always answers."""
    chosen = [sample_labels(config, shards, record) for record in spread(train, 2000)]
    flat = [labels.keypoints_2d for labels in chosen if (labels.keypoints_2d[:, 2] > 0).all()]
    solid = [labels.keypoints_3d[:, :3] - labels.keypoints_3d[:1, :3] for labels in chosen if (labels.keypoints_3d[:, 3] > 0).all()]
    nothing = lambda width: numpy.full((21, width), numpy.nan)
    means = {"mean_2d": numpy.mean(flat, 0)[:, :2] if flat else nothing(2), "mean_3d": numpy.mean(solid, 0) if solid else nothing(3)}
    return {name: value.astype(numpy.float32) for name, value in means.items()}


def sample_labels(config: Config, shards: Shards, record: Record) -> Labels:
    right, (width,) = bool(int(record.columns["right"])), shards.values(record, "shape")[0][1:]
    centre, side_px = shards.values(record, "centre", "side_px")
    place = crop.placement(centre, float(side_px), right, int(width), crop.Change(), config.model.crop_px)
    return crop.move_labels(shards.labels(record), place, right, int(width), 0.0, config.model.crop_px)


def collate(samples: list[Sample]) -> Batch:
    """Arrays become stacked tensors, texts lists; what the prefix computed is stacked as it is."""
    import torch

    batch = {}
    for name, value in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(value, str):
            batch[name] = values
        else:
            batch[name] = torch.stack([torch.as_tensor(value) for value in values])
    return batch
