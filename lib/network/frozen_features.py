"""Keep what frozen layers compute: the front of the network that no adapter touches runs once per image or sample.

A recipe names the front (lib.core.records.FrozenFeatures). Its output lies in cache/frozen-features-<fingerprint>/
(lib.network.units); the fingerprint covers the base, the prepared data, the precision and the network's code. With the
cache switched off the same function computes the same units, so that cached and uncached runs are equal bit for bit.

A unit is held in the precision of the training, in which the layers after it would round it anyway: half the bytes to
keep, read and copy under bf16 and fp16. On VGGT's demo base that moves the loss by 0.005 to 0.15 %, and bf16 by itself
moves it by 0.07 %.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib.core.errors import FAILED, Stop
from lib.core.records import FrozenFeatures, Parts, Sample
from lib.core.words import counted
from lib.network.adapters import trainable
from lib.network.units import PREFIX, Units


class FeatureCache:
    """`fill(sample)` adds what the frozen front makes of a sample; with `folder` None nothing is kept.

    For `parts` with a frozen front only. most(count): the largest such count of all processes; where the network is
    spread over them, all must compute as often as the one that finds least in its folder. Stop: the front runs through
    a trained tensor.
    """

    def __init__(
        self, parts: Parts, folder: Path | None, quota_bytes: float, most: Callable[[int], int] = lambda count: count
    ):
        self.frozen, self.most = front(parts), most
        refuse_trainable(parts)
        if self.frozen.refused and folder:
            print(f"frozen layers run every time: {self.frozen.refused}")
        self.kept = None if self.frozen.refused or folder is None else Units(folder, quota_bytes)

    def fill(self, sample: Sample) -> Sample:
        """The sample with sample["frozen_features"] (units, …): the front's output for each of its units, stacked."""
        return self.fill_all([sample])[0]

    def fill_all(self, samples: list[Sample]) -> list[Sample]:
        """`fill` for the samples of a batch, of which `read` may have filled some; what one process computes, all
        compute with it.
        """
        found = [None if "frozen_features" in sample else self.units_kept(sample) for sample in samples]
        missing = sum(unit is None for units in found if units is not None for unit in units)
        for _ in range(missing, self.most(missing)):
            self.frozen.compute(samples[0], 0)
        return [
            sample if units is None else self.completed(sample, units)
            for sample, units in zip(samples, found, strict=True)
        ]

    def read(self, sample: Sample) -> Sample:
        """`fill` of a sample whose units are all kept, else the sample as it is. Any thread may call it."""
        read = self.kept.stack(self.frozen.units(sample)) if self.kept else None
        return sample if read is None else sample | {"frozen_features": read}

    def units_kept(self, sample: Sample) -> list[torch.Tensor | None]:
        """The units of a sample as they are kept, on the CPU; None for one that is not."""
        return [self.kept.get(name) if self.kept else None for name in self.frozen.units(sample)]

    def completed(self, sample: Sample, found: list[torch.Tensor | None]) -> Sample:
        names = self.frozen.units(sample)
        units = [self.computed(sample, n, names[n]) if unit is None else unit for n, unit in enumerate(found)]
        with torch.autocast(units[0].device.type, enabled=False):  # the CPU's has no rule for stacks of halves
            return sample | {"frozen_features": torch.stack(units)}

    def computed(self, sample: Sample, number: int, name: str) -> torch.Tensor:
        """The front's output for one unit, kept while there is room; on the CPU where units are kept."""
        output = rounded(self.frozen.compute(sample, number), self.frozen.name)
        if self.kept is None:
            return output
        output = output.cpu()
        self.kept.put(name, output)
        return output


def rounded(output: torch.Tensor, name: str) -> torch.Tensor:
    """In the precision of the autocast around it. Stop: a number is too large for fp16."""
    device = output.device.type
    if output.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return output
    made = output.to(torch.get_autocast_dtype(device))
    if made.dtype == torch.float16 and not torch.isfinite(made).all() and torch.isfinite(output).all():
        raise Stop(f"the output of the frozen front {name} is too large for fp16", "train.precision=fp32", FAILED)
    return made


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
    return cache / f"{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:16]}"
