"""torch.compile as an option (train.compile): each block of the network by itself, or none of them.

By blocks, because those that look alike share what is compiled. The frozen front stays as it is: what is kept of it
(lib.network.frozen_features) serves runs with and without this setting.
"""

import re
import time
from collections.abc import Iterator
from typing import Any

import torch

from lib.core.errors import Stop, first_line
from lib.core.processes import any_asks, is_first_rank
from lib.core.records import Parts
from lib.core.words import counted
from lib.network import sharding
from lib.training import memory
from lib.training.state import Training

BACKEND = "inductor"


def begin(training: Training) -> None:
    """Compile what is trained through, and try it on the largest sample.

    Where that fails, on any process, all run as they are, and one sentence says why. Random numbers are drawn as they
    are without it.
    """
    if not training.config.compile:
        return
    started, blocks = time.monotonic(), list(blocks_of(training.parts))
    cause = unfit(training, blocks) or tried(training, blocks)
    if any_asks(training.accelerator, bool(cause)):
        for block in blocks:
            block._compiled_call_impl = None
        torch._dynamo.reset()
        said = f"train.compile is left out: {cause or 'another process could not compile'}"
    else:
        torch._dynamo.config.suppress_errors = True  # samples of another shape that fail run as they are; torch warns
        said = f"compiled {counted(len(blocks), 'block')} in {time.monotonic() - started:.0f} s"
    if is_first_rank():
        print(said, flush=True)


def blocks_of(parts: Parts) -> Iterator[Any]:
    """The blocks of the recipe's networks (`Parts.shard`), without those of the frozen front."""
    for name, patterns in parts.shard.items():
        for key in sharding.blocks(parts.modules[name], patterns, name):
            block, of_front = parts.modules[name].get_submodule(key), parts.frozen_features
            tensors = [f"{name}.{key}.{tensor}" for tensor, _ in block.named_parameters()]
            if not (of_front and any(re.fullmatch(of_front.frozen, tensor) for tensor in tensors)):
                yield block


def unfit(training: Training, blocks: list[Any]) -> str:
    """Why it is not tried, or ""."""
    if training.job.shard:
        return "the network is spread over the processes (train.shard)"
    if training.job.args.detect_anomaly:
        return "--detect-anomaly looks at every module"
    return "" if blocks else "no block of the network is trained through"


def tried(training: Training, blocks: list[Any]) -> str:
    """What went wrong, or "". Out of memory is none of that: `memory` lowers what can be lowered."""
    torch._inductor.config.fallback_random = True
    torch._dynamo.config.suppress_errors = False
    try:
        for block in blocks:
            block.compile(backend=BACKEND)
        memory.fits(training, memory.largest_sample(training))
    except Stop:
        raise
    except Exception as error:  # of torch, of its backend, of the C++ compiler that it calls
        return f"{type(error).__name__}: {first_line(error)}"
    return ""
