"""Samples of the stage dit, from a latent folder: posterior moments to train on, real held-out images to compare with."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lib.recipes import Manifest, Record, Sampler
from lib.recipes.vavae_microdoppler import data, latent_folder
from lib.recipes.vavae_microdoppler.config import Config


def sampler(cfg: Config, manifest: Manifest, side: str) -> Sampler:
    if side == "train":
        records = manifest.side("train")
        return Sampler(len(records), lambda index, key: drawn(manifest.groundwork, records[index], index, key))
    records = taking_turns(manifest.side("val"))
    if side == "select":
        records = records[: cfg.eval.select_samples]
    compared = Compared(manifest)
    return Sampler(len(records), lambda index, key: compared.sample(records[index]))


def taking_turns(records: list[Record]) -> list[Record]:
    """One image of every user, then another of every user: the first few show all, and sets cut short stay balanced."""
    seen: dict[int, int] = {}
    turns = []
    for record in records:
        label = int(record.columns["label"])
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], label))
    return [record for _, record in sorted(zip(turns, records, strict=True), key=lambda pair: pair[0])]


def drawn(folder: Path, record: Record, index: int, key: Any) -> dict[str, Any]:
    """latent (c, h, w): a draw from the posterior of training image `index`, another one in every epoch."""
    shard, place = divmod(index, latent_folder.SHARD_IMAGES)
    moments = opened(folder / latent_folder.shard_name(shard))
    mean, logvar = (moments.get_slice(name)[place] for name in ("mean", "logvar"))
    noise = key.generator().standard_normal(mean.shape, dtype=np.float32)
    latent = mean + np.exp(0.5 * logvar) * noise
    return {"sample_id": record.sample_id, "group": record.group, "label": int(record.columns["label"]), "latent": latent}


@cache
def opened(path: Path):
    """A mapped shard; handles stay open, since every epoch reads every shard."""
    from safetensors import safe_open

    return safe_open(path, framework="numpy")


class Compared:
    """Held-out images with their features, and the reconstruction of a training image of the same user for the trivial column."""

    def __init__(self, manifest: Manifest):
        stored = opened(manifest.groundwork / "features.safetensors")
        names = stored.keys()
        self.arrays, self.stored = manifest.arrays, {name: stored.get_tensor(name) for name in names}
        train, val = manifest.side("train"), manifest.side("val")
        self.places = {record.sample_id: len(train) + number for number, record in enumerate(val)}
        self.twins: dict[int, list[int]] = {}
        for number, record in enumerate(train):
            self.twins.setdefault(int(record.columns["label"]), []).append(number)

    def sample(self, record: Record) -> dict[str, Any]:
        found, place = data.sample(self.arrays, record), self.places[record.sample_id]
        mine = self.twins[found["label"]]
        twin = mine[place % len(mine)]
        return found | {
            "real_feature": self.stored["real_feature"][place], "real_hit": float(self.stored["real_hit"][place]),
            "decoded_feature": self.stored["decoded_feature"][place], "decoded_hit": float(self.stored["decoded_hit"][place]),
            "twin_feature": self.stored["decoded_feature"][twin], "twin_hit": float(self.stored["decoded_hit"][twin]),
        }  # fmt: skip
