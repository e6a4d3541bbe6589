"""One optimiser step in three ways: ours, a person's own loop, and the least that it can take.

ours   `lib.training`, whole: draw, cache, collate, step, log, with the settings that a run has
peer   PEFT and Accelerate as their guides show them: every module and the loader prepared, default settings, pictures
       decoded by the loader, the whole network in every step
floor  forward and backward of what is trained, on tensors that are in memory
"""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lib.core import processes
from lib.core.records import Parts, Sampler, Stage
from lib.network import adapters
from lib.network.batches import to_device
from lib.network.frozen_features import FeatureCache
from lib.training import loop, one_step, trackers
from lib.training.state import Training

Step = Callable[[], object]
ROOM_BYTES = 20e9  # of a cache


def precision() -> str:
    return "bf16" if torch.cuda.is_available() else "fp32"


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training(folder: Path, recipe: Any, config: Any, stage: Stage, parts: Parts, draw: Sampler, keep: bool) -> Training:
    """A stage in memory on the device, adapters attached. keep: what frozen layers make is kept in `folder`."""
    wrapped = adapters.attach(parts)
    for module in parts.modules.values():
        module.to(device())
    args, record = SimpleNamespace(detect_anomaly=False), {"workers": 0, "config": {}}
    job: Any = SimpleNamespace(recipe=recipe, config=config, record=record, args=args)
    cache = FeatureCache(parts, folder / "units" if keep else None, ROOM_BYTES) if parts.frozen_features else None
    objectives = recipe.objectives(config, stage)
    made = Training(
        job, stage, folder, processes.accelerator(precision(), folder), parts, wrapped, objectives, draw, None, cache,
        adapters.trainable(parts),
    )  # fmt: skip
    loop.set_up(made)
    made.movement = None  # it watches the first steps only
    trackers.open_for(job, folder, made.accelerator)
    return made


def ours(made: Training) -> Step:
    def step() -> None:
        record = one_step.optimiser_step(made)
        made.step += 1
        loop.write_log(made, record, 1.0, 0.0)

    return step


def floor(made: Training) -> Step:
    """The objectives that are due in the next step of `made`, on one batch of it that is in memory."""
    batch, _ = made.batches.take(one_step.keys_of(made, made.step, 0))
    due = [objective for _, objective in one_step.due_at(made, made.step)]

    def step() -> None:
        for objective in due:
            sums = made.sums[objective.name]
            for name, tensor in made.tensors.items():
                tensor.requires_grad_(name in sums.tensors)
                tensor.grad = None
            with made.accelerator.autocast():
                loss, _ = objective.loss(made.parts, batch, made.step)
            loss.backward()

    made.modes.set()
    return step


class Samples(Dataset):
    def __init__(self, length: int, read: Callable[[int], Any]):
        self.length, self.read = length, read

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.read(index)


def peer(recipe: Any, config: Any, stage: Stage, parts: Parts, length: int, read: Callable[[int], Any]) -> Step:
    """read(index): a sample, its picture decoded from its file."""
    import peft
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision().replace("fp32", "no"))
    for name, module in parts.modules.items():
        module.requires_grad_(False)
        if spec := parts.lora.get(name):
            layers = adapters.matched(module, spec, name)
            settings: dict[str, Any] = {"r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout}
            peft.get_peft_model(module, peft.LoraConfig(**settings, target_modules=layers))
    adapters.open_fully(parts)
    objectives, tensors = recipe.objectives(config, stage), adapters.trainable(parts)
    mine = [matching(tensors, objective) for objective in objectives]
    rates = [objective.groups[0].lr for objective in objectives]
    optimisers = [torch.optim.AdamW(found, lr=rate) for found, rate in zip(mine, rates, strict=True)]
    collate = lambda samples: recipe.collate(config, stage, samples)  # noqa: E731
    loader = DataLoader(Samples(length, read), config.train.micro_batch, shuffle=True, collate_fn=collate)
    loader, *prepared = accelerator.prepare(loader, *parts.modules.values(), *optimisers)
    optimisers = prepared[len(parts.modules) :]
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def step() -> None:
        for module in parts.modules.values():
            module.train()
        for _ in range(config.train.global_batch // config.train.micro_batch):
            batch = to_device(next(batches), accelerator.device)
            for objective, found in zip(objectives, mine, strict=True):
                for tensor in tensors.values():
                    tensor.requires_grad_(any(tensor is one for one in found))
                with accelerator.autocast():
                    loss, _ = objective.loss(parts, batch, 0)
                accelerator.backward(loss)
        for optimiser, found in zip(optimisers, mine, strict=True):
            accelerator.clip_grad_norm_(found, 1.0)
            optimiser.step()
            optimiser.zero_grad()

    return step


def matching(tensors: dict[str, torch.nn.Parameter], objective: Any) -> list[torch.nn.Parameter]:
    patterns = [group.tensors for group in objective.groups]
    return [tensor for name, tensor in tensors.items() if any(re.fullmatch(one, name) for one in patterns)]
