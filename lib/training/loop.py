"""The one training loop. It serves every recipe and knows none.

It owns the order of the samples, random keys, accumulation to the global batch, precision, the sum of gradients,
clipping, the schedule, averaged weights, the first-step audit, finite checks, logs, evaluation, checkpoints and the
deadline. A recipe gives it `Parts`, `Objective`s, a `Sampler` and `score_batch` (lib.core.contract).

Everything that can be a function of the step is one, so that a run that was killed ten times equals one that was not.
"""

import contextlib
import math
import re
import time
from pathlib import Path

import torch

from lib.core import order
from lib.core.errors import FAILED, Paused, Stop
from lib.core.processes import any_asks, is_first_rank
from lib.core.progress import Progress
from lib.core.records import Batch, Objective
from lib.core.run import append_line
from lib.network import adapters, anomaly, audit, gradients, scoring, sharding
from lib.network.gradients import GradientSum
from lib.training import memory
from lib.training.selection import evaluate, is_due, out_of_patience
from lib.training.state import Training, begin, restore, restore_optimisers, save


def run_stage(training: Training, resume: Path | None) -> None:
    """Train a stage to its end, from the start or from a checkpoint. Paused: the session ends, all is on disk."""
    set_up(training)
    restore_optimisers(training, training.inherited_moments)
    if resume:
        restore(training, resume)
    else:
        begin(training)
        memory.probe(training)
        if training.select and training.evaluate_every_steps:
            evaluate(training)
    with anomaly.named(training.parts) if training.job.args.detect_anomaly else contextlib.nullcontext():
        take_steps(training)
    save(training)


def take_steps(training: Training) -> None:
    """Optimiser steps to the end of the stage; evaluation, checkpoint and pause fall between them."""
    title, total, every = f"train {training.stage.name}", training.stage.steps, training.config.log_seconds
    progress = Progress(title, training.step, total, "steps", training.job.clock, every)
    while training.step < training.stage.steps and not out_of_patience(training):
        started = time.monotonic()
        record = optimiser_step(training)
        training.step += 1
        check_movement(training)
        write_log(training, record, time.monotonic() - started)
        if is_first_rank():
            shown = {name: value for name, value in record.items() if name.startswith(("loss_", "lr_"))}
            progress.update(training.step, shown)
        if is_due(training):
            evaluate(training)
        save_or_pause(training, time.monotonic() - started)
    progress.close()


def check_movement(training: Training) -> None:
    """Once, a while after the warm-up; a shorter stage is not judged: two small steps may cancel out."""
    config = training.config
    due = int(config.warmup_ratio * training.stage.steps) + audit.SETTLED_STEPS
    if training.movement and training.step == due:
        if training.skipped == 0 and all(group.lr for one in training.objectives for group in one.groups):
            training.movement.refuse_standing_still(training.tensors)
        training.movement = None


def set_up(training: Training) -> None:
    """Optimisers and one gradient buffer per objective; every trained tensor must sit in exactly one group."""
    training.average = {name: p.detach().clone() for name, p in training.tensors.items()} if training.config.ema else {}
    training.gradient_checkpointing = training.config.gradient_checkpointing
    training.micro_batch = training.job.record.get("micro_batch") or training.config.micro_batch
    taken: dict[str, str] = {}
    for objective in training.objectives:
        mine: dict[str, torch.nn.Parameter] = {}
        for group in objective.groups:
            label = f"{objective.name}/{group.name}"
            tensors = {name: p for name, p in training.tensors.items() if re.fullmatch(group.tensors, name)}
            audit.refuse_bad_group(objective, group, list(tensors), taken)
            taken |= dict.fromkeys(tensors, label)
            training.optimisers[label] = gradients.optimiser(group, list(tensors.values()))
            mine |= tensors
        training.sums[objective.name] = GradientSum(mine)
    audit.refuse_orphans(training.tensors, taken)
    refuse_half_precision(training)
    training.movement = audit.Movement(training.tensors)


def refuse_half_precision(training: Training) -> None:
    """The scaler looks for an overflow on each process by itself; of spread gradients each would see its own rows."""
    spread = [name for name, tensor in training.tensors.items() if sharding.is_spread(tensor)]
    if spread and training.accelerator.scaler is not None:
        cause = f"{spread[0]} is trained and spread over the processes, which fp16 does not allow"
        raise Stop(cause, "train.precision=fp32, or train.shard=off")


# ---------------------------------------------------------------------------------------------- one optimiser step


def optimiser_step(training: Training) -> dict[str, float]:
    """All objectives that are due, each with its own forward, gradient sum and update. Returns the log record."""
    record: dict[str, float] = {
        "step": training.step + 1,
        "epoch": training.step * training.config.global_batch / training.train.length,
    }
    adapters.set_mode(training.parts, training=True)
    due = [
        (i, objective)
        for i, objective in enumerate(training.objectives)
        if training.step >= objective.from_step and training.step % objective.every_steps == 0
    ]
    first = any(objective.name not in training.audited for _, objective in due)
    frozen = audit.frozen_checksums(training.parts) if first else {}
    for number, objective in due:
        numbers, samples = accumulate_until_it_fits(training, number, objective)
        record |= numbers | update(training, objective, numbers, samples)
    if first:
        audit.refuse_moved(frozen, audit.frozen_checksums(training.parts))
    if training.accelerator.scaler is not None and any(name.startswith("grad_norm_") for name in record):
        training.accelerator.scaler.update()  # once per step, whatever the number of optimisers
    count_bad_steps(training, "skipped" in record)
    for name, average in training.average.items():
        share = 1 - gradients.average_decay(training.config.ema, training.step)
        sharding.local(average).lerp_(sharding.local(training.tensors[name]), share)
    return record


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
    for name, tensor in training.tensors.items():
        tensor.requires_grad_(name in sums.tensors)
        tensor.grad = None
    parts_of_batch = training.config.global_batch // training.micro_batch
    totals: dict[str, torch.Tensor] = {}
    seen: list[str] = []
    for index in range(accelerator.process_index, parts_of_batch, accelerator.num_processes):
        batch, names = micro_batch(training, index)
        seen += names
        torch.manual_seed(order.noise_seed(training.config.seed, training.step, index, number))
        with accelerator.autocast():
            loss, numbers = objective.loss(training.parts, batch, training.step)
        if training.job.args.detect_anomaly:
            anomaly.refuse_bad_loss(objective.name, loss, names)
        accelerator.backward(loss / parts_of_batch)
        sums.collect()
        label = "loss_objective" if number == 0 else f"loss_{objective.name}"
        for name, value in ({label: loss} | numbers).items():
            part = torch.as_tensor(value, dtype=torch.float64).detach().cpu() / parts_of_batch
            totals[name] = totals.get(name, 0) + part
    for tensor in training.tensors.values():
        tensor.requires_grad_(True)
    return totals, seen


def micro_batch(training: Training, index: int) -> tuple[Batch, list[str]]:
    """The collated samples of one micro-batch, on the device, and their ids."""
    size, whole, seed = training.micro_batch, training.config.global_batch, training.config.seed
    keys = order.micro_batch_keys(training.step, index, size, whole, seed, training.train.length, training.orders)
    samples = [training.train.draw(key.index, key) for key in keys]
    if training.feature_cache is not None:
        with torch.no_grad(), training.accelerator.autocast():
            samples = training.feature_cache.fill_all(samples)
    batch = training.job.recipe.collate(training.job.config, training.stage, samples)
    return scoring.to_device(batch, training.accelerator.device), [sample["sample_id"] for sample in samples]


def reduced(training: Training, totals: dict[str, torch.Tensor]) -> dict[str, float]:
    """The logged numbers as means over the global batch, the same on every process."""
    if training.accelerator.num_processes > 1:
        names = sorted(totals)
        values = torch.stack([totals[name] for name in names]).to(training.accelerator.device)
        totals = dict(zip(names, training.accelerator.reduce(values, "sum").cpu(), strict=True))
    return {name: float(value) for name, value in totals.items()}


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


# ---------------------------------------------------------------------------------------------- checkpoint, log


def save_or_pause(training: Training, step_seconds: float) -> None:
    """A checkpoint when it is due, or when the session ends before another step would."""
    job, config = training.job, training.config
    job.advance(training.step, training.stage.steps, f"steps of stage {training.stage.name}")
    finished = training.step >= training.stage.steps
    stop = any_asks(training.accelerator, not job.clock.has_time(step_seconds)) and not finished
    by_steps = any(
        every and training.step % every == 0 for every in (config.checkpoint_steps, training.checkpoint_every_steps)
    )
    by_time = any_asks(training.accelerator, time.monotonic() - training.saved_at >= 60 * config.checkpoint_minutes)
    if stop or by_steps or by_time or finished:
        save(training)
    if stop:
        raise Paused(job.clock.stop_asked or "the session's time is over")


def write_log(training: Training, record: dict[str, float], seconds: float) -> None:
    """log.jsonl holds values only and is equal bit for bit after any interruption; times go to timing.jsonl."""
    if not is_first_rank():
        return
    append_line(training.folder / "log.jsonl", record)
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_bytes()
    rate = training.config.global_batch / seconds
    times = {"step": training.step, "seconds": round(seconds, 4), "samples_per_second": round(rate, 3)}
    append_line(training.folder / "timing.jsonl", times | {"memory_bytes": used})
    training.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=training.step)


def resident_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
