"""What of the frozen front is kept (cache.policy=auto), and of how many distinct epochs of samples: measured once.

tokens  what belongs to one image or sample is kept, as far as reading it is faster than computing it
blocks  also what further frozen layers make of a whole sample, which is worth it only where samples come again: the
        epochs then repeat the samples of the first few (data.distinct_epochs)
none    nothing: the disk is slower than the device

Which samples there are depends on it, so the choice is part of the run like every setting (run.json, "decided").
"""

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lib.core import order
from lib.core.job import Job
from lib.core.processes import is_first_rank
from lib.core.records import FrozenFeatures, Manifest, Parts, Sample, Sampler, Stage
from lib.network.frozen_features import rounded
from lib.network.units import Units

MEASURED_SAMPLES = 3  # after one that warms up
MOST_SHARE = 10  # distinct epochs are at most one of so many: filling then takes a tenth of what is saved


class Measured(NamedTuple):
    """Of one sample, on the mean."""

    compute_seconds: float
    read_seconds: float
    size_bytes: float


def decide(job: Job, stage: Stage, parts: Parts, manifest: Manifest, accelerator: Any, begun: bool = False) -> None:
    """With cache.policy=auto: measures, says and stores what is kept; `parts` then has the front that was chosen.

    Where the front may not be kept anyway there is nothing to decide. The first process decides for all of them.
    begun: the training goes on (cache.policy=auto was said again since), so its samples stay the ones that they are.
    """
    from accelerate.utils import gather_object

    tokens = parts.frozen_features
    if job.config.cache.policy != "auto" or tokens is None or tokens.refused:
        return
    sampler = job.recipe.sampler(job.config, stage, manifest, "train")
    fronts = [tokens, *([tokens.deeper] if tokens.deeper and not begun else [])]
    samples = first_samples(job, sampler)
    with torch.no_grad(), accelerator.autocast():
        mine = [measured(job, front, samples, accelerator.num_processes) for front in fronts]
    found = [Measured(*one) for one in gather_object([mine])[0]]
    distinct = job.config.data.distinct_epochs if tokens.deeper else 0
    quota_bytes, epochs = job.config.cache.quota_gb * 1e9, job.config.train.epochs
    policy, distinct_epochs = choose(found, sampler.length, epochs, distinct, quota_bytes)
    if policy == "blocks":
        parts.frozen_features = tokens.deeper
    if is_first_rank():
        print(in_words(policy, distinct_epochs, found, sampler.length), flush=True)
    chosen = {"cache.policy": policy} | ({"data.distinct_epochs": distinct_epochs} if policy == "blocks" else {})
    job.settle(job.record.get("decided", {}) | chosen)


def choose(
    found: list[Measured], samples: int, epochs: int, distinct_epochs: int, quota_bytes: float
) -> tuple[str, int]:
    """(policy, distinct epochs of samples) with the least seconds per sample, on the mean of all epochs.

    found: of the tokens, and of the blocks where there are some. samples: of an epoch. distinct_epochs: 0 where the
    user left it open; then as many as fit, and no more than one in MOST_SHARE.
    """
    tokens = found[0]
    policy = "tokens" if tokens.read_seconds < tokens.compute_seconds else "none"
    for blocks in found[1:]:
        fit = int(quota_bytes // (samples * blocks.size_bytes))
        distinct = distinct_epochs or min(fit, max(1, epochs // MOST_SHARE))
        if not 0 < distinct <= fit or distinct >= epochs:
            continue
        share = distinct / epochs
        kept = share * blocks.compute_seconds + (1 - share) * blocks.read_seconds
        beyond = blocks.compute_seconds - tokens.compute_seconds
        if kept < min(tokens.read_seconds, tokens.compute_seconds) + beyond:
            return "blocks", distinct
    return policy, distinct_epochs


def in_words(policy: str, distinct_epochs: int, found: list[Measured], samples: int) -> str:
    one = found[-1] if policy == "blocks" else found[0]
    took = (
        f"{one.compute_seconds:.3g} s to compute and {one.read_seconds:.3g} s to read ({one.size_bytes / 1e6:.3g} MB)"
    )
    said = f"cache.policy={policy}: what the frozen layers make of a sample takes {took}"
    if policy != "blocks":
        return said
    held = distinct_epochs * samples * one.size_bytes / 1e9
    return f"{said}; {distinct_epochs} x {samples} samples come again and take {held:.3g} GB (data.distinct_epochs)"


def first_samples(job: Job, sampler: Sampler) -> list[Sample]:
    """The first of the training, the first one twice."""
    keys = [order.sample_at(n, job.config.train.seed, sampler.length, {}) for n in (0, *range(MEASURED_SAMPLES))]
    return [sampler.draw(key.index, key) for key in keys]


def measured(job: Job, front: FrozenFeatures, samples: list[Sample], processes: int) -> Measured:
    """Times the front and the disk. A read comes from the disk itself, as it will where memory does not hold all."""
    job.run.cache.mkdir(parents=True, exist_ok=True)
    computing, reading, size_bytes = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory(dir=job.run.cache, prefix="measured-") as folder:
        kept = Units(Path(folder) / "units", float("inf"))
        for number, sample in enumerate(samples):
            started = time.perf_counter()
            made = [rounded(front.compute(sample, n), front.name).cpu() for n in range(len(front.units(sample)))]
            if number == 0:
                continue
            computing += time.perf_counter() - started
            names = [f"{number}/{n}" for n in range(len(made))]
            for name, unit in zip(names, made, strict=True):
                kept.put(name, unit)
                size_bytes += unit.nbytes
            kept.forget_pages()
            started = time.perf_counter()
            all_there = kept.stack(names) is not None
            reading += time.perf_counter() - started if all_there else float("inf")
    count = len(samples) - 1
    return Measured(computing / count, processes * reading / count, size_bytes / count)
