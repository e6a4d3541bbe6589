"""Keep what frozen layers compute: the front of the network that no adapter touches runs once per image or sample.

A recipe names the front (lib.recipes.Prefix). Its output lies in cache/prefix-<fingerprint>/, one safetensors file per
unit, under a byte quota; the fingerprint covers the base, the prepared data, the precision and the network's code. With
the cache switched off the same function computes the same units, so that cached and uncached runs are equal bit for bit.
"""
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lib.adapters import trainable
from lib.errors import FAILED, Stop
from lib.recipes import Parts, Sample
from lib.run import atomic

FREE_BYTES_KEPT = 2_000_000_000  # the cache never takes the last 2 GB of a disk


class PrefixCache:
    """`fill(sample)` puts the stack of a sample's units into sample["prefix"]; `folder` is None when nothing is kept."""

    def __init__(self, parts: Parts, folder: Path | None, quota_bytes: float):
        self.prefix, self.quota_bytes, self.stored_bytes, self.full = parts.prefix, quota_bytes, 0, False
        refuse_trainable(parts)
        self.folder = None if parts.prefix.refused else folder
        if parts.prefix.refused and folder:
            print(f"frozen layers run every time: {parts.prefix.refused}")
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.stored_bytes = sum(p.stat().st_size for p in self.folder.glob("*.safetensors"))

    def fill(self, sample: Sample) -> Sample:
        tensors = [self.unit(sample, number, name) for number, name in enumerate(self.prefix.units(sample))]
        return sample | {"prefix": torch.stack(tensors)}

    def unit(self, sample: Sample, number: int, name: str) -> torch.Tensor:
        if self.folder is None:
            return self.prefix.compute(sample, number)
        path = self.folder / (hashlib.sha256(name.encode()).hexdigest()[:32] + ".safetensors")
        if path.exists():
            return load_file(path)["output"]
        output = self.prefix.compute(sample, number).cpu()
        self.keep(path, output)
        return output

    def keep(self, path: Path, output: torch.Tensor) -> None:
        size = output.numel() * output.element_size()
        if self.full or self.stored_bytes + size > self.quota_bytes or shutil.disk_usage(self.folder).free < size + FREE_BYTES_KEPT:
            if not self.full:
                print(f"the cache of frozen layers holds {self.stored_bytes / 1e9:.2f} GB and takes no more (cache.quota_gb); the rest is computed each time")
            self.full = True
            return
        with atomic(path) as temporary:
            save_file({"output": output.contiguous()}, temporary)
        self.stored_bytes += size


def refuse_trainable(parts: Parts) -> None:
    """A prefix that runs through a trained tensor would be out of date after the first step."""
    moving = [name for name in trainable(parts) if re.fullmatch(parts.prefix.frozen, name)]
    if moving:
        raise Stop(f"the prefix {parts.prefix.name} runs through {len(moving)} trained tensors, e.g. {moving[0]}", code=FAILED)


def folder_for(cache: Path, parts: Parts, made_from: dict[str, Any]) -> Path:
    """cache/prefix-<fingerprint>: another base, other data, precision or code is another folder."""
    text = repr(sorted(made_from.items())) + parts.base + parts.prefix.name
    return cache / f"prefix-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
