"""Trains the base of a demo from nothing, on generic worlds of boxes: the demo's buildings are new to it."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib import recipes
from lib.core.config import compose
from lib.core.order import Key, mix, noise_seed
from lib.core.records import Batch, Sample, Stage
from lib.core.run import atomic
from lib.network.gradients import learning_rate
from lib.scenes import samples, stand_in
from lib.scenes.sections import Settings

VIEWS, FRAMES, BATCH = 5, 3, 3
FLOOR_RATIO = 0.01  # of the peak: where the rate begins and ends
FIRST_WORLD = 1_000_000  # seeds of box worlds; the demo's streets have seeds of their own kind

Loss = Callable[[Batch, int], tuple[Tensor, dict[str, Tensor]]]  # of a batch in a step, and its parts


def words(description: str, steps: int, out: Path) -> argparse.Namespace:
    """What a person may say: --steps, --lr, --out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args()


def demo_config(recipe: str) -> Any:
    """The settings of the demo of a recipe's default preset."""
    loaded = recipes.load(recipe)
    return compose(loaded, next(iter(loaded.PRESETS)), True, "full", {})[0]


def train(network: nn.Module, loss_of: Loss, config: Settings, steps: int, lr: float, worlds: int) -> Any:
    """The network, trained on so many worlds, in evaluation mode."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.02)
    stage, started = Stage("pretrain", steps), time.monotonic()
    made: list[Sample] = []
    for step in range(steps):
        grow(made, config, min(worlds, BATCH + step))
        batch = samples.collate(config, stage, [choose(made, mix(step, i)) for i in range(BATCH)])
        torch.manual_seed(noise_seed(0, step, 0, 0))
        loss, parts = loss_of(batch, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(lr, FLOOR_RATIO, step, steps, 0.03)
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 0:
            said = "  ".join(f"{name} {value.item():.4f}" for name, value in parts.items())
            print(f"step {step} of {steps}  {said}  {time.monotonic() - started:.0f} s", flush=True)
    return network.eval()


def grow(made: list[Sample], config: Settings, count: int) -> None:
    """So many worlds; with one more per step training starts at once."""
    width_px, height_px = config.model.image_width_px, config.model.image_height_px
    while len(made) < count:
        made.append(stand_in.box_sample(FIRST_WORLD + len(made), VIEWS, width_px, height_px))


def choose(worlds: list[Sample], counter: int) -> Sample:
    """FRAMES of the views of a world, in random order."""
    generator = Key(1, 0, counter).generator()
    world = worlds[generator.integers(len(worlds))]
    views = generator.permutation(VIEWS)[:FRAMES]
    return {name: value[views] if hasattr(value, "shape") else value for name, value in world.items()}


def write(tensors: dict[str, Tensor], path: Path) -> None:
    """The base that a demo ships, rounded to fp16."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file({name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}, temporary)
    print(f"wrote {path.name}: {path.stat().st_size / 1e6:.2f} MB")
