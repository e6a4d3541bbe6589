"""What the loop costs beside the network: milliseconds of an optimiser step, part by part, and what threads hide.

    python -m tests.bench.loop_host

The network is VGGT's strategy C in count and tiny in size (237 adapted layers, 474 trained tensors), so a step is host
work alone. "plain" is the same step as a person writes it: PEFT, train(), backward, clip_grad_norm_, AdamW. "hidden" is
a step that sleeps as a GPU computes, with a draw that takes as long: what is left of the throughput of sleeping alone.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.core.config import TrainConfig
from lib.core.records import Group, LoraSpec, Objective, Parts, Sampler, Stage
from lib.network import adapters, gradients
from lib.training import loop, one_step, trackers
from lib.training.state import Training
from tests.bench import turns

ADAPTED, FROZEN, WIDTH = 237, 900, 4
STEPS = 20


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(ADAPTED))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(FROZEN))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + 0.01 * layer(x)
        return x


def training(
    folder: Path, loss: Callable[..., Any], draw: Callable[..., Any], workers: int, adapted: bool = True
) -> Training:
    """A stage in memory. adapted: the 237 layers, else a single one."""
    from lib.core import processes

    torch.manual_seed(0)
    net = Network() if adapted else nn.Linear(WIDTH, WIDTH)
    pattern = r"layers\..*" if adapted else r".*"
    parts = Parts({"net": net}, {"net": LoraSpec((pattern,), 16, 32.0)} if adapted else {}, () if adapted else (".*",))
    wrapped = adapters.attach(parts)
    settings = SimpleNamespace(train=TrainConfig(workers=str(workers)))
    collate = lambda config, stage, samples: {"x": torch.stack([sample["x"] for sample in samples])}  # noqa: E731
    recipe = SimpleNamespace(collate=collate, name="bench")
    record: dict[str, Any] = {"config": {}}
    job: Any = SimpleNamespace(
        recipe=recipe, config=settings, record=record, args=SimpleNamespace(detect_anomaly=False)
    )
    objective = Objective("fit", loss, (Group("all", r"net\..*", 1e-4),))
    made = Training(
        job, Stage("adapt", 10_000), folder, processes.accelerator("fp32", folder), parts, wrapped, [objective],
        Sampler(10_000, draw), None, None, adapters.trainable(parts),
    )  # fmt: skip
    loop.set_up(made)
    made.movement = None  # it watches the first steps only
    trackers.open_for(job, folder, made.accelerator)
    return made


def error(parts: Parts, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, Any]]:
    loss = parts.modules["net"](batch["x"]).square().mean()
    return loss, {"loss_square": loss}


def drawn(index: int, key: Any) -> dict[str, Any]:
    return {"sample_id": str(index), "x": torch.ones(WIDTH)}


def step_of(made: Training) -> Callable[[], object]:
    def step() -> None:
        one_step.optimiser_step(made)
        made.step += 1

    return step


def plain(made: Training) -> Callable[[], object]:
    """The same network in a loop of one's own."""
    module, tensors = made.parts.modules["net"], list(made.tensors.values())
    optimiser = torch.optim.AdamW(tensors, lr=1e-4)

    def step() -> None:
        module.train()
        loss, _ = error(made.parts, {"x": torch.ones(1, WIDTH)}, 0)
        loss.backward()
        nn.utils.clip_grad_norm_(tensors, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()

    return step


def milliseconds(work: dict[str, Callable[[], object]], turns_each: int) -> dict[str, dict[str, float]]:
    """`turns.in_turns` of one call of each, in ms."""
    found = turns.in_turns(work, turns_each, STEPS)
    return {name: {key: round(1000 * value, 3) for key, value in one.items()} for name, one in found.items()}


def parts_of_step(made: Training) -> dict[str, Callable[[], None]]:
    sums, tensors = made.sums["fit"], list(made.tensors.values())
    ones = [torch.ones_like(tensor) for tensor in tensors]

    def with_gradients(work: Callable[[], None]) -> Callable[[], None]:
        def one() -> None:
            for tensor, gradient in zip(tensors, ones, strict=True):
                tensor.grad = gradient
            work()

        return one

    return {
        "walk all modules": lambda: adapters.set_mode(made.parts, training=True),
        "modes": made.modes.set,
        "write_log": lambda: loop.write_log(made, {"step": 1.0, "loss_objective": 0.5, "lr_all": 1e-4}, 1.0, 0.0),
        "collect": with_gradients(sums.collect),
        "give_back": with_gradients(sums.give_back),
        "clip": with_gradients(lambda: void(gradients.clip(tensors, 1e9))),
    }


def void(_: Any) -> None:
    pass


def share_kept(folder: Path, seconds: float, python_share: float, workers: int) -> float:
    """Throughput of steps that sleep `seconds`, whose draw takes as long, over that of sleeping alone.

    python_share: of the draw that holds Python's lock; the rest waits as a disk or a decoder does.
    """

    def slow(index: int, key: Any) -> dict[str, Any]:
        time.sleep(seconds * (1 - python_share))
        until = time.thread_time() + seconds * python_share
        while time.thread_time() < until:
            np.dot(np.ones(3), np.ones(3))
        return drawn(index, key)

    def asleep(parts: Parts, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        time.sleep(seconds)
        return error(parts, batch, step)

    made = training(folder, asleep, slow, workers, adapted=False)
    step, count = step_of(made), 20
    for _ in range(3):
        step()
    started = time.perf_counter()
    for _ in range(count):
        step()
    took, started = time.perf_counter() - started, time.perf_counter()
    for _ in range(count):
        time.sleep(seconds)  # which sleeps a little longer
    made.batches.close()
    return round((time.perf_counter() - started) / took, 3)


def measure(turns_each: int, seconds: float = 0.1) -> dict[str, Any]:
    """seconds: of a simulated step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full, small = training(folder, error, drawn, 0), training(folder, error, drawn, 0, adapted=False)
        work = {"step": step_of(full), "plain": plain(training(folder, error, drawn, 0))}
        work |= {"small_step": step_of(small), "small_plain": plain(training(folder, error, drawn, 0, adapted=False))}
        result: dict[str, Any] = {"tensors": len(full.tensors)}
        result["milliseconds"] = milliseconds(work | parts_of_step(training(folder, error, drawn, 0)), turns_each)
        result["share of the throughput of sleeping alone"] = {
            f"{workers} threads, {share:.0%} of the draw in Python": share_kept(folder, seconds, share, workers)
            for workers in (0, 1)
            for share in (0.0, 0.5)
        }
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(5), indent=1))
