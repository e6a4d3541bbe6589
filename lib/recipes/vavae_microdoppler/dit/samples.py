"""Samples of the stage dit, from a folder of latents: moments to train on, real images of the other sides to compare
with.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.order import Key
from lib.core.records import Manifest, Record, Sample, Sampler, Stage
from lib.recipes.vavae_microdoppler.autoencoder.samples import sample
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit.latent_parts import SHARD_IMAGES, compared_records, shard_name


def sampler(config: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """Training latents, drawn again in every epoch, or images of "select" or "test", users taking turns; by
    manifest.stage_inputs.
    """
    folder = manifest.stage_inputs
    assert folder is not None  # lib asks for the inputs first
    if side == "train":
        records = manifest.side("train")
        return Sampler(len(records), lambda index, key: drawn(folder, records[index], index, key))
    records = taking_turns(manifest.side(side))
    if side == "select":
        records = records[: config.eval.select_samples]
    compared = Compared(manifest, folder)
    tested = {"tested": side == "test"}
    return Sampler(len(records), lambda index, key: compared.sample(records[index]) | tested)


def taking_turns(records: list[Record]) -> list[Record]:
    """One image of every user, then another of every user: the first few show all, and sets cut short stay balanced."""
    seen: dict[int, int] = {}
    turns = []
    for record in records:
        label = int(record.columns["label"])
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], label))
    return [record for _, record in sorted(zip(turns, records, strict=True), key=lambda pair: pair[0])]


def drawn(folder: Path, record: Record, index: int, key: Key) -> Sample:
    """latent (c, h, w) float32: a draw from the posterior of training image `index`, another one in every epoch."""
    shard, place = divmod(index, SHARD_IMAGES)
    moments = opened(folder / shard_name(shard))
    mean, logvar = (moments.get_slice(name)[place] for name in ("mean", "logvar"))
    noise = key.generator().standard_normal(mean.shape, dtype=np.float32)
    latent, label = mean + np.exp(0.5 * logvar) * noise, int(record.columns["label"])
    return {"sample_id": record.sample_id, "group": record.group, "label": label, "latent": latent}


@cache
def opened(path: Path) -> Any:
    """A mapped shard; handles stay open, since every epoch reads every shard."""
    from safetensors import safe_open

    return safe_open(path, framework="numpy")


class Compared:
    """Held-out images with their features, and those of a reconstructed training image of the same user (the twin)."""

    def __init__(self, manifest: Manifest, folder: Path):
        stored = opened(folder / "features.safetensors")
        names = stored.keys()
        self.arrays, self.stored = manifest.arrays, {name: stored.get_tensor(name) for name in names}
        self.places = {record.sample_id: number for number, record in enumerate(compared_records(manifest))}
        self.twins: dict[int, list[int]] = {}
        # where no group chooses the checkpoint, lib asks about training images under the name of "select"
        for number, record in enumerate(manifest.side("train") or manifest.side("select")):
            self.twins.setdefault(int(record.columns["label"]), []).append(number)

    def sample(self, record: Record) -> Sample:
        """image (3, h, w) in [-1, 1]; {real, decoded, twin}_feature (32,); _hit, 1.0 where the judge named the user."""
        found, place = sample(self.arrays, record), self.places[record.sample_id]
        mine = self.twins[found["label"]]
        twin = mine[place % len(mine)]
        return found | {
            "real_feature": self.stored["real_feature"][place],
            "real_hit": float(self.stored["real_hit"][place]),
            "decoded_feature": self.stored["decoded_feature"][place],
            "decoded_hit": float(self.stored["decoded_hit"][place]),
            "twin_feature": self.stored["decoded_feature"][twin],
            "twin_hit": float(self.stored["decoded_hit"][twin]),
        }
