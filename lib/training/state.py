"""One stage in memory, and its way to disk and back: what a checkpoint holds is made from `Training`."""

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib.core.behind import Behind
from lib.core.config import TrainConfig
from lib.core.job import Job
from lib.core.processes import is_first_rank
from lib.core.records import Objective, Parts, Row, Sampler, Stage
from lib.core.run import cut_log, write_record
from lib.network import checkpoint, gradients, lineage, pieces, sharding
from lib.network.adapters import Modes
from lib.network.audit import Movement
from lib.network.batches import Batches
from lib.network.frozen_features import FeatureCache
from lib.network.gradients import GradientSum
from lib.network.lineage import Lineage
from lib.network.running import RunningStatistics
from lib.training import trackers


@dataclass
class Training:
    """One stage in memory. `step` counts finished optimiser steps; a checkpoint is made from these fields."""

    job: Job
    stage: Stage
    folder: Path
    accelerator: Any
    parts: Parts
    wrapped: dict[str, Any]
    objectives: list[Objective]
    train: Sampler
    select: Sampler | None  # None: no group chooses, the last step is scored
    feature_cache: FeatureCache | None
    tensors: dict[str, torch.nn.Parameter]
    sums: dict[str, GradientSum] = field(default_factory=dict)  # by objective
    optimisers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)  # by "objective/group"
    average: dict[str, torch.Tensor] = field(default_factory=dict)  # with train.ema: by tensor, in its shape and dtype
    batches: Batches = field(init=False)  # of the training side; the loop opens it
    modes: Modes = field(init=False)  # of the layers in a step
    running: RunningStatistics = field(init=False)
    base_rows: list[Row] | None = None  # of the selection samples, where the base was asked before the training
    step: int = 0
    micro_batch: int = 1
    gradient_checkpointing: bool = False
    best: dict[str, Any] | None = None
    leaders: list[dict[str, Any]] = field(default_factory=list)  # {step, value} of the train.keep_best best, best first
    movement: Movement | None = None  # watches whether trained parameters move, until a while after the warm-up
    lineage: Lineage = field(default_factory=Lineage)  # what the checkpoints were trained on, with all their ancestors
    evaluations_since_best: int = 0
    bad_steps: int = 0  # in a row
    audited: set[str] = field(default_factory=set)  # objectives whose first backward was checked (lib.network.audit)
    skipped: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int = -1
    writing: Behind = field(default_factory=Behind)  # the last checkpoint
    orders: dict[int, Any] = field(default_factory=dict)
    inherited_moments: dict[str, torch.Tensor] = field(default_factory=dict)  # optimiser tensors of the stage before

    @property
    def config(self) -> TrainConfig:
        return self.job.config.train

    @property
    def evaluate_every_steps(self) -> int:
        epochs = self.config.evaluate_epochs if self.stage.evaluate_epochs is None else self.stage.evaluate_epochs
        return self.steps_of(epochs)

    @property
    def checkpoint_every_steps(self) -> int:
        return self.steps_of(self.config.checkpoint_epochs)

    def steps_of(self, epochs: float) -> int:
        """Optimiser steps in so many epochs, at least one; 0 for no epochs."""
        return max(1, round(epochs * self.train.length / self.config.global_batch)) if epochs else 0


class averaged:
    """Within the block the tensors hold their running average (train.ema); nothing happens when it is off."""

    def __init__(self, training: Training):
        self.training = training

    def __enter__(self) -> dict[str, torch.Tensor]:
        self.raw = {name: self.training.tensors[name].detach().clone() for name in self.training.average}
        self.put(self.training.average)
        return self.raw

    def __exit__(self, *error: object) -> None:
        self.put(self.raw)

    @torch.no_grad()
    def put(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            sharding.local(self.training.tensors[name]).copy_(sharding.local(value))


def save(training: Training) -> None:
    """A checkpoint of this step, once. One process lets a thread write copies (`training.writing`).

    Of several, rank 0 writes, and each its rows of what is spread; nobody goes on before that.
    """
    if training.saved_step == training.step:
        return
    training.writing.wait()  # the checkpoint before takes its pieces from where those of this one are written
    with averaged(training) as raw:
        moments = optimiser_tensors(training, raw)
        cut = checkpoint.write_pieces(training.folder, training.parts, moments)
        held = checkpoint.content(training.parts, training.wrapped, moments) if is_first_rank() else None
    work = functools.partial(write, training, training.step, state_of(training), held, cut)
    if training.accelerator.num_processes == 1:
        training.writing.start(work)
    else:
        work()
        training.accelerator.wait_for_everyone()
    training.saved_at, training.saved_step = time.monotonic(), training.step


def write(
    training: Training, step: int, state: dict[str, Any], held: checkpoint.Content | None, cut: pieces.Written | None
) -> None:
    """To the disk, and only then are best.json and the older checkpoints touched. It looks at nothing that moves on."""
    started = time.monotonic()
    if held:
        checkpoint.write(training.folder, step, state, held, training.lineage, cut)
        tidy(training, state["best"], state["leaders"])
        trackers.flush(training.accelerator)
    training.job.clock.note_finishing(time.monotonic() - started)


def tidy(training: Training, best: dict[str, Any] | None, leaders: list[dict[str, Any]]) -> None:
    """best.json names the best checkpoint that is kept, and is there only while one is; older ones than those go."""
    if leaders:
        said = (
            (best or {})
            | leaders[0]
            | {"leaders": leaders, lineage.TRAINING: lineage.noted(training.job.record, training.stage.name)}
        )
        write_record(training.folder / "best.json", said)
    else:
        (training.folder / "best.json").unlink(missing_ok=True)
    checkpoint.rotate(training.folder, training.config.keep_checkpoints, [one["step"] for one in leaders])


def state_of(training: Training) -> dict[str, Any]:
    """state.json of a checkpoint: where the training stands, and what it was made from."""
    scaler = training.accelerator.scaler
    sections = ("model.", "data.", "loss.", "lora.", "train.")
    return {
        "step": training.step,
        "stage": training.stage.name,
        lineage.TRAINING: lineage.noted(training.job.record, training.stage.name),
        "base": training.parts.base,
        "best": training.best,
        "leaders": list(training.leaders),
        "bad_steps": training.bad_steps,
        "evaluations_since_best": training.evaluations_since_best,
        "skipped": training.skipped,
        "audited": sorted(training.audited),
        "micro_batch": training.micro_batch,
        "recipe": training.job.record["recipe"],
        "scaler": scaler.state_dict() if scaler is not None else None,
        "config": {key: value for key, value in training.job.record["config"].items() if key.startswith(sections)},
    }


def optimiser_tensors(training: Training, raw: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Moments by "objective/group/<tensor>/<name>"; with averaged weights also "raw/<tensor>".

    The checkpoint's own weights are then the averages: what was evaluated, and what a user exports.
    """
    names = {id(p): name for name, p in training.tensors.items()}
    found = {f"raw/{name}": tensor for name, tensor in raw.items()}
    for label, chosen in training.optimisers.items():
        for tensor, moments in chosen.state.items():
            found |= {f"{label}/{names[id(tensor)]}/{key}": torch.as_tensor(value) for key, value in moments.items()}
    return found


def begin(training: Training) -> None:
    """A stage that was killed before its first checkpoint left log records of steps that are now taken again."""
    if is_first_rank():
        cut_log(training.folder / "log.jsonl", -1)
        cut_log(training.folder / "timing.jsonl", -1)


def restore(training: Training, folder: Path) -> None:
    """Continue exactly where a checkpoint stands: weights, moments, counters, logs."""
    state = checkpoint.load(folder, training.parts, training.wrapped, training.parts.base)
    stored = checkpoint.moments(folder, training.parts)
    restore_optimisers(training, stored)
    restore_average(training, stored)
    training.step, training.best, training.skipped = state["step"], state["best"], state["skipped"]
    training.leaders = still_there(training, state["leaders"])
    training.bad_steps, training.evaluations_since_best = state["bad_steps"], state["evaluations_since_best"]
    training.saved_step = training.step
    training.audited = set(state.get("audited", ()))  # where an older checkpoint is silent, each is looked at again
    restore_micro_batch(training, state["micro_batch"])
    if state["scaler"]:
        training.accelerator.scaler.load_state_dict(state["scaler"])
    if is_first_rank():
        cut_log(training.folder / "log.jsonl", training.step)
        cut_log(training.folder / "timing.jsonl", training.step)
        checkpoint.drop_newer(training.folder, training.step)
        tidy(training, training.best, training.leaders)
        print(f"going on from {folder.name}", flush=True)
    training.accelerator.wait_for_everyone()


def still_there(training: Training, leaders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the best checkpoints those that a session with another train.keep_best, or what a broken newer one had
    replaced, has left.
    """
    steps = set(map(checkpoint.step_of, checkpoint.all_of(training.folder)))
    return [one for one in leaders if one["step"] in steps][: training.config.keep_best]


def restore_micro_batch(training: Training, stored: int) -> None:
    """That of the checkpoint; where the training began again because memory was short, the smaller one."""
    if training.job.shard and training.micro_batch < stored:
        return
    if stored != training.micro_batch:
        print(f"the checkpoint's micro_batch of {stored} is kept (dropout noise depends on it)")
        training.micro_batch = stored


def restore_optimisers(training: Training, stored: dict[str, torch.Tensor]) -> None:
    """The inverse of `optimiser_tensors`; a tensor without stored moments keeps its start."""
    names = {id(p): name for name, p in training.tensors.items()}
    for label, chosen in training.optimisers.items():
        for tensor in gradients.tensors_of(chosen):
            start = f"{label}/{names[id(tensor)]}/"
            moments = {key.removeprefix(start): value for key, value in stored.items() if key.startswith(start)}
            if moments:
                values = {
                    key: like(value.to(tensor.device), tensor) if key != "step" else value
                    for key, value in moments.items()
                }
                gradients.put_state(chosen, tensor, values)


def like(value: torch.Tensor, tensor: torch.nn.Parameter) -> torch.Tensor:
    """A stored moment, spread where its tensor is."""
    if sharding.is_spread(value) == sharding.is_spread(tensor):
        return value
    made = torch.empty_like(tensor.detach())
    sharding.put(made, value)
    return made


@torch.no_grad()
def restore_average(training: Training, stored: dict[str, torch.Tensor]) -> None:
    """The loaded weights are the averages; the raw ones lie beside the moments."""
    for name, average in training.average.items():
        sharding.put(average, training.tensors[name])
        sharding.put(training.tensors[name], stored[f"raw/{name}"])
