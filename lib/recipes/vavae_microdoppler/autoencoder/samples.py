"""Single images, as they lie in the cache of step 3. Nothing is augmented: a flip reverses time or the sign of the
Doppler shift.
"""

from pathlib import Path

import numpy as np
import torch

from lib.core.hashes import checked
from lib.core.records import Batch, Manifest, Record, Sample, Sampler, Stage
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.stored import image_path

MOST_DRAWN = 24  # users of the figure of reconstructions


def sampler(config: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """Images of one side in the manifest's order, of "select" evenly spaced ones. Keys are not used."""
    records = manifest.side(side)
    if side == "select" and len(records) > config.eval.select_samples:
        records = [records[i * len(records) // config.eval.select_samples] for i in range(config.eval.select_samples)]
    pictured = one_of_each(records) if side == "test" and config.eval.figures else None
    return Sampler(len(records), lambda index, key: sample(manifest.arrays, records[index]), pictured)


def one_of_each(records: list[Record]) -> tuple[int, ...]:
    """The number of the first image of every user, in the order of the labels; of at most MOST_DRAWN users."""
    first: dict[int, int] = {}
    for number, record in enumerate(records):
        first.setdefault(int(record.columns["label"]), number)
    return tuple(first[label] for label in sorted(first)[:MOST_DRAWN])


def sample(arrays: Path, record: Record) -> Sample:
    """image (3, h, w) float32 in [-1, 1], label int, user (the folder's name), sha256 of the source.

    OSError: the PNG of step 3 is gone.

    The image is contiguous. A transposed view would become a channels-last batch, on which torch's GroupNorm writes to
    address 0 in the backward pass of a frozen norm.
    """
    from PIL import Image

    image = network_input(np.asarray(Image.open(checked(image_path(arrays, record.sample_id)))))
    return {
        "sample_id": record.sample_id,
        "group": record.group,
        "user": record.columns["user"],
        "label": int(record.columns["label"]),
        "sha256": record.sha256,
        "image": image,
    }


def network_input(stored: np.ndarray) -> np.ndarray:
    """A picture (h, w, 3) uint8, or levels (h, w) uint16, which no colour has made coarser -> (3, h, w) float32 in
    [-1, 1], contiguous.
    """
    if stored.ndim == 2:
        return np.repeat(stored.astype(np.float32)[None] / 32767.5 - 1, 3, 0)
    return np.ascontiguousarray((stored.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1))


def collate(config: Config, stage: Stage, samples: list[Sample]) -> Batch:
    """Samples of both kinds of stage: arrays are stacked, contiguous, numbers become a tensor (n,), names stay a list.

    Of the frozen features, one unit is the image's feature: batch["feature"] (n, width, grid, grid).
    """
    batch: Batch = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(first, np.ndarray):
            batch[name] = torch.from_numpy(np.ascontiguousarray(np.stack(values)))
        elif name == "frozen_features":
            batch["feature"] = torch.stack([value[0] for value in values])
        else:
            batch[name] = values if isinstance(first, str) else torch.tensor(values)
    return batch
