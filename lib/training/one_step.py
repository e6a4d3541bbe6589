"""One optimiser step: forwards and backwards of its micro-batches, the sum of their gradients, clipping, the update.

Every objective that is due has its own. What a step does is a function of its number and of the tensors before it.
"""

import itertools
import math
from collections.abc import Iterator

import torch

from lib.core import order
from lib.core.errors import FAILED, Stop
from lib.core.processes import any_asks
from lib.core.records import Objective
from lib.network import anomaly, audit, gradients, sharding
from lib.network.batches import Keys
from lib.training import memory
from lib.training.state import Training


def optimiser_step(training: Training) -> dict[str, float]:
    """All objectives that are due, each with its own forward, gradient sum and update. Returns the log record."""
    record: dict[str, float] = {
        "step": training.step + 1,
        "epoch": training.step * training.config.global_batch / training.train.length,
    }
    training.modes.set()
    due = due_at(training, training.step)
    first = any(objective.name not in training.audited for _, objective in due)
    frozen = audit.frozen_checksums(training.parts) if first else {}
    for number, objective in due:
        numbers, samples = accumulate_until_it_fits(training, number, objective)
        done = update(training, objective, numbers, samples)
        if "skipped" not in done:  # a batch that moves no weight moves no statistic: one NaN would stay in it for good
            training.running.finish(training.accelerator, training.config.global_batch // training.micro_batch)
        record |= numbers | done
    if first:
        audit.refuse_moved(frozen, audit.frozen_checksums(training.parts))
    if training.accelerator.scaler is not None and any(name.startswith("grad_norm_") for name in record):
        training.accelerator.scaler.update()  # once per step, whatever the number of optimisers
    count_bad_steps(training, "skipped" in record)
    for name, average in training.average.items():
        share = 1 - gradients.average_decay(training.config.ema, training.step)
        sharding.local(average).lerp_(sharding.local(training.tensors[name]), share)
    return record


def due_at(training: Training, step: int) -> list[tuple[int, Objective]]:
    """The objectives that are updated in a step (finished steps before it), with their numbers."""
    return [
        (number, objective)
        for number, objective in enumerate(training.objectives)
        if step >= objective.from_step and step % objective.every_steps == 0
    ]


def accumulate_until_it_fits(
    training: Training, number: int, objective: Objective
) -> tuple[dict[str, float], list[str]]:
    """Out of memory on one process: the step is undone on all, the micro-batch is halved, the global batch stays.

    Where the network is spread over the processes, they end and begin again (`memory.begin_again`).
    """
    while True:
        try:
            result = accumulate(training, number, objective)
        except torch.OutOfMemoryError:
            result = None
            training.running.undo()
            if training.job.shard:
                memory.begin_again(training, f"step {training.step + 1}: out of memory")
        if not any_asks(training.accelerator, result is None) and result is not None:
            training.sums[objective.name].reduce(training.accelerator)
            return reduced(training, result[0]), result[1]
        memory.use_less(training, f"step {training.step + 1}: out of memory")


def accumulate(training: Training, number: int, objective: Objective) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The gradients of this process's micro-batches, in the objective's buffer.

    Returns this process's part of the mean of the logged numbers, and the ids of the samples.
    """
    sums, accelerator = training.sums[objective.name], training.accelerator
    sums.clear()
    training.running.begin()
    for name, tensor in training.tensors.items():
        tensor.requires_grad_(name in sums.tensors)
        tensor.grad = None
    parts_of_batch = training.config.global_batch // training.micro_batch
    totals: dict[str, torch.Tensor] = {}
    seen: list[str] = []
    for index in mine(training):
        batch, names = training.batches.take(keys_of(training, training.step, index))
        seen += names
        seed_noise(accelerator.device, order.noise_seed(training.config.seed, training.step, index, number))
        with accelerator.autocast():
            loss, numbers = objective.loss(training.parts, batch, training.step)
        if training.job.args.detect_anomaly:
            anomaly.refuse_bad_loss(objective.name, loss, names)
        audit.backward(accelerator, loss / parts_of_batch)
        sums.collect()
        training.running.collect()
        label = "loss_objective" if number == 0 else f"loss_{objective.name}"
        for name, value in ({label: loss} | numbers).items():  # they stay where they are: a copy would wait for them
            part = torch.as_tensor(value, dtype=torch.float64).detach() / parts_of_batch
            totals[name] = totals.get(name, 0) + part
    for tensor in training.tensors.values():
        tensor.requires_grad_(True)
    return totals, seen


def seed_noise(device: torch.device, seed: int) -> None:
    """torch.manual_seed, of the processor's generator alone where the network is there.

    For every kind of device that is not there torch would note the lines that led to the call, half a millisecond each.
    """
    torch.default_generator.manual_seed(seed) if device.type == "cpu" else torch.manual_seed(seed)


def mine(training: Training) -> range:
    """The numbers of this process's micro-batches within a step."""
    whole = training.config.global_batch // training.micro_batch
    return range(training.accelerator.process_index, whole, training.accelerator.num_processes)


def keys_of(training: Training, step: int, index: int) -> Keys:
    """Of the samples of one micro-batch."""
    size, whole, seed = training.micro_batch, training.config.global_batch, training.config.seed
    return tuple(order.micro_batch_keys(step, index, size, whole, seed, training.train.length, training.orders))


def following(training: Training, keys: Keys) -> Iterator[Keys]:
    """What `accumulate` will take after this micro-batch of the present step, to the end of the stage."""
    steps = range(training.step, training.stage.steps)
    coming = (
        keys_of(training, step, index) for step in steps for _ in due_at(training, step) for index in mine(training)
    )
    return itertools.islice(itertools.dropwhile(lambda one: one != keys, coming), 1, None)


def reduced(training: Training, totals: dict[str, torch.Tensor]) -> dict[str, float]:
    """The logged numbers as means over the global batch, the same on every process."""
    device = training.accelerator.device
    names = sorted(totals)
    values = torch.stack([totals[name].to(device) for name in names])
    if training.accelerator.num_processes > 1:
        values = training.accelerator.reduce(values, "sum")
    found = dict(zip(names, values.tolist(), strict=True))
    return {name: found[name] for name in totals}


def update(training: Training, objective: Objective, numbers: dict[str, float], samples: list[str]) -> dict[str, float]:
    """Clip and step every group of an objective, or skip the batch when a number is not finite."""
    sums, scaler = training.sums[objective.name], training.accelerator.scaler
    # with a scaler, overflow is the usual sign that its scale is still too large; the scaler skips the step
    overflow = not sums.finite()
    if objective.name not in training.audited and not (overflow and scaler is not None):
        audit.after_backward(objective, sums, training.parts)
        training.audited.add(objective.name)
    if not all(map(math.isfinite, numbers.values())) or (overflow and (scaler is None or scaler.get_scale() < 1)):
        return skip(training, objective, samples)
    if training.movement:
        training.movement.note(sums)
    sums.give_back()
    record: dict[str, float] = {}
    config, steps = training.config, training.stage.steps
    for group in objective.groups:
        chosen = training.optimisers[f"{objective.name}/{group.name}"]
        rate = gradients.learning_rate(group.lr, config.min_lr_ratio, training.step, steps, config.warmup_ratio)
        for setting in chosen.param_groups:
            setting["lr"] = rate
        if scaler is not None:
            scaler.unscale_(chosen)
        limit = config.clip if group.clip is None else group.clip
        norm = gradients.clip(gradients.tensors_of(chosen), limit)
        record |= {f"lr_{group.name}": rate, f"grad_norm_{group.name}": norm}
        scaler.step(chosen) if scaler is not None else chosen.step()
    for tensor in sums.tensors.values():
        tensor.grad = None
    return record


def skip(training: Training, objective: Objective, samples: list[str]) -> dict[str, float]:
    print(f"step {training.step + 1}: {objective.name} is not finite, batch skipped: {', '.join(samples)}", flush=True)
    if training.job.args.detect_anomaly:
        anomaly.refuse_bad_gradient(training.sums[objective.name])
    return {"skipped": 1.0}


def count_bad_steps(training: Training, bad: bool) -> None:
    """A step is bad when one of its objectives was skipped; so many of them in a row are not an accident."""
    training.bad_steps = training.bad_steps + 1 if bad else 0
    training.skipped += bad
    if training.bad_steps >= training.config.stop_after_bad_steps:
        raise Stop(
            f"{training.bad_steps} steps in a row were not finite; the last good checkpoint stands",
            training.job.run.command(4, "--detect-anomaly") + "   (goes back to it and names the module)", FAILED,
        )  # fmt: skip
