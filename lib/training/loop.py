"""The one training loop. It serves every recipe and knows none.

It owns the order of the samples, random keys, accumulation to the global batch, precision, the sum of gradients,
clipping, the schedule, averaged weights, the first-step audit, finite checks, logs, evaluation, checkpoints and the
deadline. A recipe gives it `Parts`, `Objective`s, a `Sampler` and `score_batch` (lib.core.contract).

Everything that can be a function of the step is one, so that a run that was killed ten times equals one that was not.
"""

import contextlib
import functools
import re
import time
from pathlib import Path

import torch

from lib.core.errors import Stop
from lib.core.processes import any_asks, is_first_rank
from lib.core.progress import Progress
from lib.core.run import append_line
from lib.network import adapters, anomaly, audit, gradients, sharding
from lib.network.batches import Batches
from lib.network.gradients import GradientSum
from lib.network.running import RunningStatistics
from lib.training import compiling, memory, trackers, workers
from lib.training.one_step import following, optimiser_step
from lib.training.selection import evaluate, is_due, out_of_patience
from lib.training.state import Training, begin, restore, restore_optimisers, save


def run_stage(training: Training, resume: Path | None) -> None:
    """Train a stage to its end, from the start or from a checkpoint. Paused: the session ends, all is on disk."""
    set_up(training)
    compiling.begin(training)
    restore_optimisers(training, training.inherited_moments)
    if resume:
        restore(training, resume)
    else:
        begin(training)
        memory.probe(training)
        if training.select and training.evaluate_every_steps:
            evaluate(training)
    watched = anomaly.named(training.parts) if training.job.args.detect_anomaly else contextlib.nullcontext()
    with contextlib.closing(training.writing), contextlib.closing(training.batches), watched:
        take_steps(training)
        save(training)


def take_steps(training: Training) -> None:
    """Optimiser steps to the end of the stage; evaluation, checkpoint and pause fall between them."""
    workers.refuse_shared_chance(training)
    title, total, every = f"train {training.stage.name}", training.stage.steps, training.config.log_seconds
    progress, trial = Progress(title, training.step, total, "steps", training.job.clock, every), workers.Trial(training)
    while training.step < training.stage.steps and not out_of_patience(training):
        started, waited_seconds = time.monotonic(), training.batches.ahead.waited_seconds
        record = optimiser_step(training)
        training.step += 1
        check_movement(training)
        seconds = time.monotonic() - started
        write_log(training, record, seconds, training.batches.ahead.waited_seconds - waited_seconds)
        trial.note(seconds)
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
    if training.movement and training.step >= due:
        moving = training.skipped == 0 and all(group.lr for one in training.objectives for group in one.groups)
        if moving and training.step == due:  # a training that goes on later was judged in the session before
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
    training.batches, training.modes = batches_of(training), adapters.Modes(training.parts)
    training.running = RunningStatistics(training.parts)


def batches_of(training: Training) -> Batches:
    job, stage, at_first = training.job, training.stage, workers.at_start(training)
    after = functools.partial(following, training)
    return Batches(
        job.recipe, job.config, stage, training.train, training.accelerator, training.feature_cache, after, at_first
    )


def refuse_half_precision(training: Training) -> None:
    """The scaler looks for an overflow on each process by itself; of spread gradients each would see its own rows."""
    spread = [name for name, tensor in training.tensors.items() if sharding.is_spread(tensor)]
    if spread and training.accelerator.scaler is not None:
        cause = f"{spread[0]} is trained and spread over the processes, which fp16 does not allow"
        raise Stop(cause, "train.precision=fp32, or train.shard=off")


# ---------------------------------------------------------------------------------------------- checkpoint, log


def save_or_pause(training: Training, step_seconds: float) -> None:
    """A checkpoint when it is due, or when the session ends before another step would.

    It is on the disk before the stage ends or pauses (`run_stage` closes what writes it).
    """
    job, config = training.job, training.config
    job.advance(training.step, training.stage.steps, f"steps of stage {training.stage.name}")
    finished = training.step >= training.stage.steps
    stop = any_asks(training.accelerator, not job.clock.has_time(step_seconds)) and not finished
    by_steps = any(
        every and training.step % every == 0 for every in (config.checkpoint_steps, training.checkpoint_every_steps)
    )
    by_time = any_asks(training.accelerator, time.monotonic() - training.saved_at >= 60 * config.checkpoint_minutes)
    training.writing.look()
    if stop or by_steps or by_time or finished:
        save(training)
    if stop:
        raise job.clock.pause()


def write_log(training: Training, record: dict[str, float], seconds: float, waited_seconds: float) -> None:
    """log.jsonl holds values only and is equal bit for bit after any interruption; times go to timing.jsonl.

    waited_seconds: of the step's `seconds`, until its batches were there.
    """
    if not is_first_rank():
        return
    append_line(training.folder / "log.jsonl", record)
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_bytes()
    rate = training.config.global_batch / seconds
    times = {"step": training.step, "seconds": round(seconds, 4), "waited_seconds": round(waited_seconds, 4)}
    times |= {"samples_per_second": round(rate, 3), "memory_bytes": used}
    append_line(training.folder / "timing.jsonl", times)
    values = {name: value for name, value in record.items() if name != "step"}
    trackers.log_step(training.accelerator, values, training.step)


def resident_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
