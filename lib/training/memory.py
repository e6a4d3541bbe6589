"""When memory is short: the global batch stays, the micro-batch shrinks, then activations are recomputed.

Before a training the largest sample is tried once, so that a run does not find out in its third hour. What is chosen is
kept in run.json: dropout noise depends on the micro-batch, and a resume does not try again.
"""

import os
import sys
from typing import Any

import torch

from lib.core import order
from lib.core.errors import FAILED, Stop
from lib.core.processes import any_asks, is_first_rank
from lib.core.records import Sample
from lib.core.run import write_record, write_text
from lib.core.words import counted
from lib.network import adapters, audit, sharding
from lib.network.batches import to_device
from lib.training.state import Training

TRIED_SAMPLES = 32  # the largest of them stands for the largest of all
SHARE = 0.9  # of the device: the rest is for fragments, and for a sample that is larger still


def probe(training: Training) -> None:
    """Before the first step on a GPU; it changes the micro-batch and gradient checkpointing and nothing else."""
    device = training.accelerator.device
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index  # "cuda" alone is refused
        torch.cuda.set_per_process_memory_fraction(SHARE, index)
        try:
            shrink_until_it_fits(training)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, index)


def shrink_until_it_fits(training: Training) -> None:
    """Where nothing is left to lower, the training goes on: it may fit into what the probe left free."""
    sample = largest_sample(training)
    tried = counted(min(TRIED_SAMPLES, training.train.length), "sample")
    cause = f"the largest of {tried} needs more than {SHARE:.0%} of the memory"
    while any_asks(training.accelerator, not fits_or_ends(training, sample, cause)) and can_use_less(training):
        use_less(training, cause)


def fits_or_ends(training: Training, sample: Sample, cause: str) -> bool:
    fitted = fits(training, sample)
    if training.job.shard and not fitted:
        begin_again(training, cause)
    return fitted


def largest_sample(training: Training) -> Sample:
    """The first of the training's samples that has the most bytes."""
    count, seed = training.train.length, training.config.seed
    orders: dict[int, Any] = {}
    keys = [order.sample_at(position, seed, count, orders) for position in range(min(TRIED_SAMPLES, count))]
    largest = max(keys, key=lambda key: size_bytes(training.train.draw(key.index, key)))
    return training.train.draw(largest.index, largest)


def size_bytes(sample: Sample) -> int:
    """Of its arrays and tensors."""
    return sum(getattr(value, "nbytes", 0) for value in sample.values())


def fits(training: Training, sample: Sample) -> bool:
    """Can a micro-batch of this sample be trained on, with every objective? Gradients and statistics are put back."""
    statistics = [(buffer, buffer.clone()) for module in training.parts.modules.values() for buffer in module.buffers()]
    try:
        train_on(training, sample)
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        for tensor in training.tensors.values():
            tensor.requires_grad_(True)
            tensor.grad = None
        for buffer, before in statistics:
            buffer.copy_(before)


def train_on(training: Training, sample: Sample) -> None:
    """Forward and backward beside the memory that the optimisers' two moments will take."""
    adapters.set_mode(training.parts, training=True)
    device = training.accelerator.device
    moments = torch.empty(2 * sum(sharding.local(p).numel() for p in training.tensors.values()), device=device)
    if training.feature_cache is not None:
        with torch.no_grad(), training.accelerator.autocast():
            sample = training.feature_cache.fill(sample)
    batch = training.job.recipe.collate(training.job.config, training.stage, [sample] * training.micro_batch)
    batch = to_device(batch, device)
    for objective in training.objectives:
        for name, tensor in training.tensors.items():
            tensor.requires_grad_(name in training.sums[objective.name].tensors)
            tensor.grad = None
        with training.accelerator.autocast():
            loss, _ = objective.loss(training.parts, batch, max(training.step, objective.from_step))
        audit.backward(training.accelerator, loss)
    del moments


# ---------------------------------------------------------------------------------------------- what can be lowered


def can_halve(training: Training) -> bool:
    each = training.accelerator.num_processes
    return training.micro_batch > 1 and training.config.global_batch % (training.micro_batch // 2 * each) == 0


def can_use_less(training: Training) -> bool:
    return can_halve(training) or not training.gradient_checkpointing


def use_less(training: Training, cause: str) -> None:
    """First a smaller micro-batch, then recomputed activations. Stop: nothing is left to lower."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if can_halve(training):
        training.micro_batch //= 2
        what = f"micro_batch is now {training.micro_batch}, the global batch stays {training.config.global_batch}"
    elif not training.gradient_checkpointing:
        training.gradient_checkpointing = training.job.config.train.gradient_checkpointing = True
        for module in training.parts.modules.values():
            module.gradient_checkpointing = True
        what = "activations are recomputed in the backward pass (train.gradient_checkpointing)"
    else:
        raise Stop(
            "out of memory with micro_batch 1 and recomputed activations",
            "use a lower resolution or a lower lora.rank",
            FAILED,
        )
    print(f"{cause}; {what}", flush=True)
    note(training, what)


def begin_again(training: Training, cause: str) -> None:
    """Out of memory on one process of a network that is spread over them: ends the process.

    The others wait for it in the middle of a gather and cannot be asked, but they end with it. What is lower from now
    on is on disk, and the step goes on from its last checkpoint (step4_train.py).
    """
    try:
        use_less(training, cause)
        write_record(training.job.run.record, training.job.record)  # whichever process this is
        write_text(training.job.run.again, str(len(training.job.record["changes"])))
        print(f"the step begins again; started by hand: {training.job.run.command(4)}", flush=True)
    except Stop as stop:
        print(stop.text, file=sys.stderr, flush=True)
    os._exit(FAILED)


def note(training: Training, what: str) -> None:
    lowered = {"micro_batch": training.micro_batch, "gradient_checkpointing": training.gradient_checkpointing}
    training.job.record |= lowered
    training.job.record.setdefault("changes", []).append({"step": training.step + 1, "what": what})
    if is_first_rank():
        write_record(training.job.run.record, training.job.record)
