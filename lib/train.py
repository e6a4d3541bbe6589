"""The one training loop. It serves every recipe and knows none.

It owns the order of the samples, random keys, accumulation to the global batch, precision, the sum of gradients,
clipping, the schedule, averaged weights, the first-step audit, finite checks, logs, evaluation, checkpoints and the
deadline. A recipe gives it `Parts`, `Objective`s, a `Sampler` and `score_batch` (lib.recipes).

Everything that can be a function of the step is one, so that a run that was killed ten times equals one that was not.
"""
import contextlib
import math
import re
import time
from pathlib import Path
from typing import Any

import torch

from lib import adapters, anomaly, audit, gradients, memory, order, score
from lib.cli import is_first_rank
from lib.errors import FAILED, Paused, Stop
from lib.gradients import GradientSum
from lib.processes import any_asks
from lib.progress import Progress
from lib.recipes import Objective, main_measure
from lib.run import append_line
from lib.state import Training, averaged, begin, restore, restore_optimisers, save


def run_stage(training: Training, resume: Path | None) -> None:
    """Train a stage to its end, from the start or from a checkpoint; raises Paused when the session ends."""
    set_up(training)
    restore_optimisers(training, training.handed_over)
    if resume:
        restore(training, resume)
    else:
        begin(training)
        memory.probe(training)
        if training.evaluate_every_steps:
            evaluate(training)
    with anomaly.named(training.parts) if training.job.args.detect_anomaly else contextlib.nullcontext():
        take_steps(training)
    save(training)


def take_steps(training: Training) -> None:
    """Optimiser steps to the end of the stage; evaluation, checkpoint and pause fall between them."""
    progress = Progress(f"train {training.stage.name}", training.step, training.stage.steps, "steps", training.job.clock, training.config.log_seconds)
    while training.step < training.stage.steps and not out_of_patience(training):
        started = time.monotonic()
        record = optimiser_step(training)
        training.step += 1
        write_log(training, record, time.monotonic() - started)
        if is_first_rank():
            progress.update(training.step, {name: value for name, value in record.items() if name.startswith(("loss_", "lr_"))})
        if training.evaluate_every_steps and (training.step % training.evaluate_every_steps == 0 or training.step == training.stage.steps):
            evaluate(training)
        save_or_pause(training, time.monotonic() - started)
    progress.close()


def set_up(training: Training) -> None:
    """Optimisers and one gradient buffer per objective; every trained tensor must sit in exactly one group."""
    training.average = {name: p.detach().clone() for name, p in training.tensors.items()} if training.config.ema else {}
    training.checkpointing = training.config.checkpointing
    training.micro_batch = training.job.record.get("micro_batch") or training.config.micro_batch
    taken: dict[str, str] = {}
    for objective in training.objectives:
        mine = {}
        for group in objective.groups:
            names = [name for name in training.tensors if re.fullmatch(group.tensors, name)]
            audit.refuse_bad_group(objective, group, names, taken)
            taken |= dict.fromkeys(names, f"{objective.name}/{group.name}")
            training.optimisers[f"{objective.name}/{group.name}"] = gradients.optimiser(group, [training.tensors[name] for name in names])
            mine |= {name: training.tensors[name] for name in names}
        training.sums[objective.name] = GradientSum(mine)
    audit.refuse_orphans(training.tensors, taken)


# ---------------------------------------------------------------------------------------------- one optimiser step


def optimiser_step(training: Training) -> dict[str, float]:
    """All objectives that are due, each with its own forward, gradient sum and update. Returns the log record."""
    record: dict[str, float] = {"step": training.step + 1, "epoch": training.step * training.config.global_batch / training.train.length}
    adapters.set_mode(training.parts, training=True)
    due = [(i, objective) for i, objective in enumerate(training.objectives) if training.step >= objective.from_step and training.step % objective.every_steps == 0]
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
        average.lerp_(training.tensors[name].detach(), 1 - gradients.average_decay(training.config.ema, training.step))
    return record


def accumulate_until_it_fits(training: Training, number: int, objective: Objective) -> tuple[dict[str, float], list[str]]:
    """Out of memory on any process: the step is undone on all, the micro-batch halved, the global batch stays the same."""
    while True:
        try:
            result, fits = accumulate(training, number, objective), True
        except torch.OutOfMemoryError:
            result, fits = None, False
        if not any_asks(training.accelerator, not fits):
            training.sums[objective.name].reduce(training.accelerator)
            return reduced(training, result[0]), result[1]
        memory.use_less(training, f"step {training.step + 1}: out of memory")


def accumulate(training: Training, number: int, objective: Objective) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The gradients of this process's micro-batches in the objective's buffer, and the mean of its logged numbers."""
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
            totals[name] = totals.get(name, 0) + torch.as_tensor(value, dtype=torch.float64).detach().cpu() / parts_of_batch
    for tensor in training.tensors.values():
        tensor.requires_grad_(True)
    return totals, seen


def micro_batch(training: Training, index: int) -> tuple[Any, list[str]]:
    keys = order.micro_batch_keys(training.step, index, training.micro_batch, training.config.global_batch, training.config.seed, training.train.length, training.orders)
    samples = [training.train.draw(key.index, key) for key in keys]
    if training.prefix is not None:
        with torch.no_grad(), training.accelerator.autocast():
            samples = [training.prefix.fill(sample) for sample in samples]
    batch = score.to_device(training.job.recipe.collate(samples), training.accelerator.device)
    return batch, [sample["sample_id"] for sample in samples]


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
    overflow = not sums.finite()  # with a scaler the usual sign that its scale is still too large; the scaler skips the step
    if objective.name not in training.audited and not (overflow and scaler is not None):
        audit.after_backward(objective, sums, training.parts)
        training.audited.add(objective.name)
    if not all(map(math.isfinite, numbers.values())) or overflow and (scaler is None or scaler.get_scale() < 1):
        return skip(training, objective, samples)
    sums.give_back()
    record = {}
    for group in objective.groups:
        chosen = training.optimisers[f"{objective.name}/{group.name}"]
        rate = gradients.learning_rate(group.lr, training.config.lr_floor, training.step, training.stage.steps, training.config.warmup_share)
        for setting in chosen.param_groups:
            setting["lr"] = rate
        if scaler is not None:
            scaler.unscale_(chosen)
        limit = training.config.clip if group.clip is None else group.clip
        record |= {f"lr_{group.name}": rate, f"grad_norm_{group.name}": gradients.clip(chosen.param_groups[0]["params"], limit)}
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
    """A step is bad when one of its objectives was skipped; so many in a row are no accident."""
    training.bad_steps = training.bad_steps + 1 if bad else 0
    training.skipped += bad
    if training.bad_steps >= training.config.stop_after_bad_steps:
        raise Stop(
            f"{training.bad_steps} steps in a row were not finite; the last good checkpoint stands",
            training.job.run.command(4, "--detect-anomaly") + "   (goes back to it and names the module)", FAILED,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- evaluation, log


def evaluate(training: Training) -> None:
    """Score the selection samples; a better main metric makes this step the best. Step 0 is the base, for the log alone."""
    started = time.monotonic()
    recipe, config = training.job.recipe, training.job.config
    with averaged(training):
        scored = score.sharded_rows(recipe, config, training.parts, training.select, training.accelerator, training.prefix)
    scores = recipe.summarise(config, scored)
    main, measure = main_measure(recipe, config, training.stage)
    value = scores[main]
    if not math.isfinite(value):
        raise Stop(f"{main} is {value} at step {training.step}", training.job.run.command(4, "--detect-anomaly"), FAILED)
    better = training.step > 0 and (training.best is None or (value < training.best["value"] if measure.lower_is_better else value > training.best["value"]))
    training.evaluations_since_best = 0 if better or not training.step else training.evaluations_since_best + 1
    if is_first_rank():
        append_line(training.folder / "log.jsonl", {"step": training.step, "eval": scores, "main": main})
        print(f"  step {training.step}: {main} {value:.5g}" + (" (best)" if better else ""), flush=True)
    if better:
        training.best = {"step": training.step, "metric": main, "value": value}
        if training.config.keep_best:
            save(training)
    training.job.clock.note_finishing(time.monotonic() - started)


def out_of_patience(training: Training) -> bool:
    patience = training.config.patience_evaluations
    return bool(patience) and training.evaluations_since_best >= patience


def save_or_pause(training: Training, step_seconds: float) -> None:
    """A checkpoint when it is due, or when the session ends before another step would."""
    job, config = training.job, training.config
    job.advance(training.step, training.stage.steps, f"steps of stage {training.stage.name}")
    finished = training.step >= training.stage.steps
    stop = any_asks(training.accelerator, not job.clock.has_time(step_seconds)) and not finished
    by_steps = config.checkpoint_steps and training.step % config.checkpoint_steps == 0
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
    append_line(training.folder / "timing.jsonl", {"step": training.step, "seconds": round(seconds, 4), "samples_per_second": round(rate, 3), "memory_bytes": used})
    training.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=training.step)


def resident_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
