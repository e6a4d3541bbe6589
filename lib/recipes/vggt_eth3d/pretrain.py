"""Trains the base of the demo from nothing, on generic worlds of boxes, and writes demo/base.safetensors (fp16):

    python -m lib.recipes.vggt_eth3d.pretrain

About 20 minutes on one core. The demo's buildings are a domain that this base has never seen, so fine-tuning has work.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import torch

from lib import recipes
from lib.core.config import compose
from lib.core.order import Key, mix, noise_seed
from lib.core.records import Sample, Stage
from lib.core.run import atomic
from lib.network.gradients import learning_rate
from lib.recipes.vggt_eth3d import losses, samples, stand_in
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.model import VGGT

TARGET = Path(__file__).parent / "demo" / "base.safetensors"
WORLDS, VIEWS, FRAMES, BATCH = 320, 5, 3, 3
# The published 0.01 is for weeks of training: for the first thousand steps it leaves the blocks nearly out.
LAYER_SCALE = 0.5
FLOOR_RATIO = 0.01  # of the peak: where the rate begins and ends
FIRST_WORLD = 1_000_000  # seeds of box worlds; the demo's streets have seeds of their own kind


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--steps", type=int, default=5200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    network = train(demo_config(), args.steps, args.lr)
    write(network, args.out)


def demo_config() -> Config:
    return compose(recipes.load("vggt_eth3d"), "strategy_b", True, "full", {})[0]


def train(config: Config, steps: int, lr: float) -> VGGT:
    """The trained network in evaluation mode."""
    torch.manual_seed(0)
    network = VGGT(dataclasses.replace(config.model, layer_scale=LAYER_SCALE))
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.02)
    stage, started = Stage("pretrain", steps), time.monotonic()
    worlds: list[Sample] = []
    for step in range(steps):
        grow(worlds, config, step)
        batch = samples.collate(config, stage, [choose(worlds, mix(step, i)) for i in range(BATCH)])
        torch.manual_seed(noise_seed(0, step, 0, 0))
        loss, parts = losses.objective(network(batch["images"]), batch, config.loss)
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


def grow(worlds: list[Sample], config: Config, step: int) -> None:
    """One more world per step until there are WORLDS, so that training starts at once."""
    width_px, height_px = config.model.image_width_px, config.model.image_height_px
    while len(worlds) < min(WORLDS, BATCH + step):
        worlds.append(stand_in.box_sample(FIRST_WORLD + len(worlds), VIEWS, width_px, height_px))


def choose(worlds: list[Sample], counter: int) -> Sample:
    """FRAMES of the views of a world, in random order."""
    generator = Key(1, 0, counter).generator()
    world = worlds[generator.integers(len(worlds))]
    views = generator.permutation(VIEWS)[:FRAMES]
    return {name: value[views] if hasattr(value, "shape") else value for name, value in world.items()}


def write(network: VGGT, path: Path) -> None:
    """The base that the demo ships, rounded to fp16."""
    from safetensors.torch import save_file

    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in network.state_dict().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary)
    print(f"wrote {path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
