"""Batches ahead of the step: threads draw samples, read what is kept of them and collate, while the device works.

What the cache lacks is computed by the thread that takes the batch: it needs the device, autocast, and all processes
where the network is spread over them. A batch is a function of the keys of its samples, so the number of threads moves
nothing but time.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from lib.core.ahead import Ahead
from lib.core.contract import Recipe
from lib.core.order import Key
from lib.core.records import Batch, Sample, Sampler, Stage
from lib.network.frozen_features import FeatureCache

Keys = tuple[Key, ...]


class Batches:
    """`take(keys)` gives the batch of these samples, on the device, and their ids.

    after(keys) says which batches follow; workers: threads that make them ahead of time, 0 for none.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: Any,
        stage: Stage,
        sampler: Sampler,
        accelerator: Any,
        feature_cache: FeatureCache | None,
        after: Callable[[Keys], Iterable[Keys]],
        workers: int = 0,
    ):
        self.recipe, self.config, self.stage, self.sampler = recipe, config, stage, sampler
        self.accelerator, self.feature_cache = accelerator, feature_cache
        self.ahead = Ahead(self.begin, after, workers)

    def begin(self, keys: Keys) -> tuple[list[Sample], Batch | None]:
        """The samples, and their batch where nothing is left to compute. In a thread, it is put into pinned memory."""
        samples = [self.sampler.draw(key.index, key) for key in keys]
        if self.feature_cache is not None:
            samples = [self.feature_cache.read(sample) for sample in samples]
            if not all("frozen_features" in sample for sample in samples):
                return samples, None
        batch = self.recipe.collate(self.config, self.stage, samples)
        pin = self.ahead.pool is not None and self.accelerator.device.type == "cuda"
        return samples, moved(batch, pinned) if pin else batch

    def take(self, keys: Keys) -> tuple[Batch, list[str]]:
        samples, batch = self.ahead.take(keys)
        if self.feature_cache is not None:
            with torch.no_grad(), self.accelerator.autocast():
                samples = self.feature_cache.fill_all(samples)
        if batch is None:
            batch = self.recipe.collate(self.config, self.stage, samples)
        return to_device(batch, self.accelerator.device), [sample["sample_id"] for sample in samples]

    @property
    def workers(self) -> int:
        return self.ahead.workers

    def use(self, workers: int) -> None:
        """Another number of threads from now on."""
        waited_seconds = self.ahead.waited_seconds
        self.ahead.close()
        self.ahead = Ahead(self.begin, self.ahead.after, workers)
        self.ahead.waited_seconds = waited_seconds

    def close(self) -> None:
        self.ahead.close()


def pinned(value: Any) -> Any:
    """A tensor of the host in memory that the device reads by itself; anything else as it is."""
    return value.pin_memory() if torch.is_tensor(value) and value.device.type == "cpu" else value


def to_device(value: Any, device: Any) -> Any:
    """A batch with its tensors on a device. From pinned memory the host does not wait for the copy."""
    return moved(value, lambda one: one.to(device, non_blocking=True) if torch.is_tensor(one) else one.to(device))


def moved(value: Any, move: Callable[[Any], Any]) -> Any:
    """`move` of everything that can be moved; dicts, lists and tuples are followed, anything else stays as it is."""
    if hasattr(value, "to"):
        return move(value)
    if isinstance(value, dict):
        return {key: moved(inner, move) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(moved(inner, move) for inner in value)
    return value
