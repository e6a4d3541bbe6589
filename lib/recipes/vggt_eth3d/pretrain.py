"""Trains the base of the demo from nothing, on generic worlds of boxes, and writes demo/base.safetensors (fp16):

    python -m lib.recipes.vggt_eth3d.pretrain

About 20 minutes on one core.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from lib import recipes
from lib.core.config import compose
from lib.core.records import Batch
from lib.recipes.vggt_eth3d import losses
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.model import VGGT
from lib.scenes import pretrain

WORLDS = 320
TARGET = Path(__file__).parent / "demo" / "base.safetensors"
# The published 0.01 is for weeks of training: for the first thousand steps it leaves the blocks nearly out.
LAYER_SCALE = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--steps", type=int, default=5200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    pretrain.write(train(demo_config(), args.steps, args.lr).state_dict(), args.out)


def demo_config() -> Config:
    return compose(recipes.load("vggt_eth3d"), "strategy_b", True, "full", {})[0]


def train(config: Config, steps: int, lr: float) -> VGGT:
    """The trained network in evaluation mode."""
    torch.manual_seed(0)
    network = VGGT(dataclasses.replace(config.model, layer_scale=LAYER_SCALE))

    def loss_of(batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return losses.objective(network(batch["images"]), batch, config.loss)

    return pretrain.train(network, loss_of, config, steps, lr, WORLDS)


if __name__ == "__main__":
    main()
