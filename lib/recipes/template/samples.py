"""Samples: prepared arrays -> what the network sees, augmented for training; samples -> a batch.

CHANGE: the arrays of a sample. Every sample has "sample_id"; what `score_batch` needs travels in it too.
"""

from typing import Any

import numpy as np

from lib.core.hashes import checked
from lib.core.records import Batch, Manifest, Record, Sample, Sampler, Stage

from .config import Config


def sampler(config: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """Side train: augmented pictures; test: all of them as they are; select: some, spread over the cameras."""
    records = manifest.side(side)
    if side == "train":
        return Sampler(len(records), lambda index, key: mirrored(config, load(manifest, records[index]), key))
    if side == "select":
        records = spread(records, config.eval.select_samples)
    return Sampler(len(records), lambda index, key: load(manifest, records[index]))


def spread(records: list[Record], count: int) -> list[Record]:
    """`count` records at even distances: records of a group follow one another, so all groups are in it."""
    return [records[i] for i in np.linspace(0, len(records) - 1, min(count, len(records))).astype(int)]


def load(manifest: Manifest, record: Record) -> Sample:
    """noisy and clean: (1, h, w) float32, between 0 and 1. `checked` compares the file with what step 3 wrote.

    `record` was read back from manifest.csv: its columns are text (float(record.columns["noise"])).
    """
    noisy, clean = np.load(checked(manifest.arrays / f"{record.sample_id}.npy")).astype(np.float32)[:, None] / 255
    return {"sample_id": record.sample_id, "group": record.group, "noisy": noisy, "clean": clean}


def mirrored(config: Config, sample: Sample, key: Any) -> Sample:
    """Left to right, every second time. Chance comes from `key` alone, so a resumed run draws the same."""
    if not config.data.augment or key.generator().random() < 0.5:
        return sample
    return sample | {name: sample[name][..., ::-1].copy() for name in ("noisy", "clean")}


def collate(config: Config, stage: Stage, samples: list[Sample]) -> Batch:
    """noisy and clean: (b, 1, h, w) tensors; sample_id and group: lists of text."""
    import torch

    pictures = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in ("noisy", "clean")}
    return pictures | {name: [sample[name] for sample in samples] for name in ("sample_id", "group")}
