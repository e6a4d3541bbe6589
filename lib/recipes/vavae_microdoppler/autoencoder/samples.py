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


def sampler(config: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """Images of one side in the manifest's order, of "select" evenly spaced ones. Keys are not used."""
    records = manifest.side(side)
    if side == "select" and len(records) > config.eval.select_samples:
        records = [records[i * len(records) // config.eval.select_samples] for i in range(config.eval.select_samples)]
    return Sampler(len(records), lambda index, key: sample(manifest.arrays, records[index]))


def sample(arrays: Path, record: Record) -> Sample:
    """image (3, h, w) float32 in [-1, 1], label int, user (the folder's name), sha256 of the source.

    OSError: the PNG of step 3 is gone.

    The image is contiguous. A transposed view would become a channels-last batch, on which torch's GroupNorm writes to
    address 0 in the backward pass of a frozen norm.
    """
    from PIL import Image

    stored = np.asarray(Image.open(checked(image_path(arrays, record.sample_id))))
    if stored.ndim == 2:  # levels of an array in 16 bit, which no colour has made coarser
        image = np.repeat(stored.astype(np.float32)[None] / 32767.5 - 1, 3, 0)
    else:
        image = np.ascontiguousarray((stored.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1))
    return {
        "sample_id": record.sample_id,
        "group": record.group,
        "user": record.columns["user"],
        "label": int(record.columns["label"]),
        "sha256": record.sha256,
        "image": image,
    }


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
