"""Rows of samples under one network: in evaluation mode, without gradients, each sample exactly once.

The base is the untouched one: built and loaded strictly, no adapter ever attached. The trivial predictor is scored by
the same function (`score_batch` with parts None).
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lib.core.contract import Recipe
from lib.core.errors import FAILED, Stop
from lib.core.order import Key
from lib.core.records import Batch, Parts, Row, Sampler, Stage
from lib.core.words import counted

if TYPE_CHECKING:
    import torch

SEEDS = "noise_seeds"  # in a batch that is scored: of each sample's own noise


def rows(
    recipe: Recipe,
    config: Any,
    stage: Stage,
    parts: Parts | None,
    sampler: Sampler,
    indices: list[int],
    accelerator: Any,
    feature_cache: Any = None,
    pause: Callable[[], None] = lambda: None,
    workers: int = 0,
    batches: Any = None,
) -> list[Row]:
    """Scores of the samples `indices`, one row each, in this order.

    The networks of `parts` are put into evaluation mode; None scores the trivial predictor. `pause` is called before
    every batch of config.eval.batch samples and may raise Paused. workers: threads that make batches ahead of time.
    batches: of `batches_of`, where more than these samples are made ahead.
    """
    import torch

    from lib.network import adapters

    if parts is not None:
        adapters.set_mode(parts, training=False)
    chunks = [indices[start : start + config.eval.batch] for start in range(0, len(indices), config.eval.batch)]
    own = None if batches else batches_of(recipe, config, stage, sampler, accelerator, feature_cache, chunks, workers)
    found = []
    with contextlib.closing(own) if own else contextlib.nullcontext():
        for keys in keys_of(config, chunks):
            pause()
            batch, _ = (own or batches).take(keys)
            before = torch.get_rng_state()
            with torch.no_grad(), accelerator.autocast():
                found += recipe.score_batch(config, stage, parts, batch | {SEEDS: [key.index for key in keys]})
            refuse_own_chance(recipe, before)
    return found


def noise(batch: Batch, *shape: int) -> "torch.Tensor":
    """Standard normal numbers (n, *shape) for a recipe whose scores need some (a posterior, a diffusion).

    Those of a sample are the same under base and adapted, in any batch, on any number of processes and any device.
    """
    import torch

    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in batch[SEEDS]]
    return torch.stack(drawn)


def refuse_own_chance(recipe: Recipe, before: "torch.Tensor") -> None:
    """Stop: the noise that a sample is scored with would depend on what else is in its batch."""
    import torch

    if not torch.equal(before, torch.get_rng_state()):
        cause = f"the recipe {recipe.name} scores with random numbers of its own accord"
        raise Stop(cause, "take them from lib.network.scoring.noise in its `score_batch`", FAILED)


def keys_of(config: Any, chunks: list[list[int]]) -> list[tuple[Key, ...]]:
    return [tuple(Key(config.train.seed, 0, index) for index in chunk) for chunk in chunks]


def batches_of(
    recipe: Recipe,
    config: Any,
    stage: Stage,
    sampler: Sampler,
    accelerator: Any,
    feature_cache: Any,
    chunks: list[list[int]],
    workers: int,
) -> Any:
    """The batches of these samples, in this order, made ahead by `workers` threads."""
    from lib.network.batches import Batches

    order = keys_of(config, chunks)
    return Batches(
        recipe, config, stage, sampler, accelerator, feature_cache, lambda keys: order[order.index(keys) + 1 :], workers
    )


def divided_rows(
    recipe: Recipe,
    config: Any,
    stage: Stage,
    parts: Parts | None,
    sampler: Sampler,
    accelerator: Any,
    feature_cache: Any = None,
    workers: int = 0,
) -> list[Row]:
    """All samples of `sampler`, split over the processes; every process gets all rows, in the order of the samples.

    Over several processes the rows lose their arrays. Where the network is spread over them, who has fewer batches than
    others scores the last sample again, and drops it. Stop: a sample was scored twice or not at all.
    """
    from accelerate.utils import gather_object

    from lib.network import sharding

    mine = list(range(accelerator.process_index, sampler.length, accelerator.num_processes))
    scored = rows(recipe, config, stage, parts, sampler, mine, accelerator, feature_cache, workers=workers)
    if parts is not None and sharding.is_sharded(parts):
        each = -(-sampler.length // accelerator.num_processes)  # at most
        for _ in range(-(-len(mine) // config.eval.batch), -(-each // config.eval.batch)):
            rows(recipe, config, stage, parts, sampler, [sampler.length - 1], accelerator, feature_cache)
    if accelerator.num_processes > 1:
        for row in scored:
            row.arrays.clear()
        scored = [
            row for _, row in sorted(gather_object(list(zip(mine, scored, strict=True))), key=lambda pair: pair[0])
        ]
    refuse_double(scored, sampler.length)
    return scored


def one_each(
    score: Callable[[list[int]], list[Row]], indices: list[int], accelerator: Any, pictured: Sequence[int]
) -> list[Row]:
    """The rows of at most as many samples as there are processes, one on each of them; every process gets all rows.

    score: `rows` of one network and sampler. Who has no sample of its own scores the last one again, and drops it.
    Samples that are not `pictured` lose their arrays.
    """
    from accelerate.utils import gather_object

    [mine] = of_rounds(indices, accelerator)
    [row] = score([mine])
    if mine not in pictured:
        row.arrays.clear()
    found: list[Row] = gather_object([row]) if accelerator.num_processes > 1 else [row]
    return found[: len(indices)]


def of_rounds(indices: list[int], accelerator: Any) -> list[int]:
    """What this process scores of these samples, as many of them in each round as there are processes (`one_each`)."""
    size = accelerator.num_processes
    rounds = [indices[first : first + size] for first in range(0, len(indices), size)]
    return [one[min(accelerator.process_index, len(one) - 1)] for one in rounds]


def refuse_double(scored: list[Row], length: int) -> None:
    names = {row.sample_id for row in scored}
    if len(scored) != length or len(names) != length:
        wanted = f"{counted(length, 'held-out sample')} should have been scored once each"
        given = f"{counted(len(scored), 'row')} of {counted(len(names), 'sample')}"
        raise Stop(f"{wanted}, but the recipe gave {given}", code=FAILED)
