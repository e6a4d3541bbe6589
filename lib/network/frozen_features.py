"""Keep what frozen layers compute: the front of the network that no adapter touches runs once per image or sample.

A recipe names the front (lib.core.records.FrozenFeatures). Its output lies in cache/frozen-features-<fingerprint>/, one
safetensors file per unit, under a byte quota; the fingerprint covers the base, the prepared data, the precision and the
network's code. With the cache switched off the same function computes the same units, so that cached and uncached runs
are equal bit for bit.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lib.core.errors import FAILED, Stop
from lib.core.records import FrozenFeatures, Parts, Sample
from lib.core.run import atomic
from lib.core.words import counted
from lib.network.adapters import trainable

FREE_BYTES_KEPT = 2_000_000_000  # the cache never takes the last 2 GB of a disk


class FeatureCache:
    """`fill(sample)` adds what the frozen front makes of a sample; `folder` is None when nothing is kept.

    For `parts` with a frozen front only. most(count): the largest such count of all processes; where the network is
    spread over them, all must compute as often as the one that finds least in its folder. Stop: the front runs through
    a trained tensor.
    """

    def __init__(
        self, parts: Parts, folder: Path | None, quota_bytes: float, most: Callable[[int], int] = lambda count: count
    ):
        self.frozen, self.quota_bytes, self.stored_bytes, self.full = front(parts), quota_bytes, 0, False
        self.most = most
        refuse_trainable(parts)
        self.folder = None if self.frozen.refused else folder
        if self.frozen.refused and folder:
            print(f"frozen layers run every time: {self.frozen.refused}")
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.stored_bytes = sum(p.stat().st_size for p in self.folder.glob("*.safetensors"))

    def fill(self, sample: Sample) -> Sample:
        """The sample with sample["frozen_features"] (units, …): the front's output for each of its units, stacked."""
        return self.fill_all([sample])[0]

    def fill_all(self, samples: list[Sample]) -> list[Sample]:
        """`fill` for the samples of a batch, of which `read` may have filled some; what one process computes, all
        compute with it.
        """
        kept = [None if "frozen_features" in sample else self.units_kept(sample) for sample in samples]
        missing = sum(unit is None for units in kept if units is not None for unit in units)
        for _ in range(missing, self.most(missing)):
            self.frozen.compute(samples[0], 0)
        return [
            sample if units is None else self.completed(sample, units)
            for sample, units in zip(samples, kept, strict=True)
        ]

    def read(self, sample: Sample) -> Sample:
        """`fill` of a sample whose units are all kept, else the sample as it is. Any thread may call it."""
        kept = self.units_kept(sample)
        units = [unit for unit in kept if unit is not None]
        return stacked(sample, units) if len(units) == len(kept) else sample

    def units_kept(self, sample: Sample) -> list[torch.Tensor | None]:
        """The units of a sample as they are kept, on the CPU; None for one that is not."""
        paths = [self.path(name) for name in self.frozen.units(sample)]
        return [load_file(path)["output"] if path is not None and path.exists() else None for path in paths]

    def completed(self, sample: Sample, kept: list[torch.Tensor | None]) -> Sample:
        names = self.frozen.units(sample)
        units = [self.computed(sample, n, names[n]) if unit is None else unit for n, unit in enumerate(kept)]
        return stacked(sample, units)

    def computed(self, sample: Sample, number: int, name: str) -> torch.Tensor:
        """The front's output for one unit, kept while there is room; on the CPU where a folder is."""
        output: torch.Tensor = self.frozen.compute(sample, number)
        path = self.path(name)
        if path is None:
            return output
        output = output.cpu()
        self.keep(path, output)
        return output

    def path(self, name: str) -> Path | None:
        """Of the file for a unit of this name; None where nothing is kept."""
        return self.folder and self.folder / (hashlib.sha256(name.encode()).hexdigest()[:32] + ".safetensors")

    def keep(self, path: Path, output: torch.Tensor) -> None:
        size = output.numel() * output.element_size()
        if self.full or not self.has_room(path.parent, size):
            if not self.full:
                held = f"the cache of frozen layers holds {self.stored_bytes / 1e9:.2f} GB"
                print(f"{held} and takes no more (cache.quota_gb); the rest is computed each time")
            self.full = True
            return
        with atomic(path) as temporary:
            save_file({"output": output.contiguous()}, temporary)
        self.stored_bytes += size

    def has_room(self, folder: Path, size_bytes: int) -> bool:
        free_bytes = shutil.disk_usage(folder).free
        return self.stored_bytes + size_bytes <= self.quota_bytes and free_bytes >= size_bytes + FREE_BYTES_KEPT


def stacked(sample: Sample, units: list[torch.Tensor]) -> Sample:
    with torch.autocast(units[0].device.type, enabled=False):  # the CPU's autocast has no rule for stacks of halves
        return sample | {"frozen_features": torch.stack(units)}


def front(parts: Parts) -> FrozenFeatures:
    """The frozen front, of parts that have one."""
    assert parts.frozen_features is not None, "these parts have no frozen front"
    return parts.frozen_features


def refuse_trainable(parts: Parts) -> None:
    """A front that runs through a trained tensor would be out of date after the first step."""
    frozen = front(parts)
    moving = [name for name in trainable(parts) if re.fullmatch(frozen.frozen, name)]
    if moving:
        tensors = counted(len(moving), "trained tensor")
        raise Stop(f"the frozen front {frozen.name} runs through {tensors}, e.g. {moving[0]}", code=FAILED)


def folder_for(cache: Path, parts: Parts, made_from: dict[str, Any]) -> Path:
    """cache/frozen-features-<fingerprint>: another base, other data, precision or code is another folder."""
    text = repr(sorted(made_from.items())) + parts.base + front(parts).name
    return cache / f"frozen-features-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
