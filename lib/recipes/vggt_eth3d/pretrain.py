"""Trains the base of the demo from nothing, on generic worlds of boxes, and writes demo/base.safetensors (fp16):

    python -m lib.recipes.vggt_eth3d.pretrain

About 20 minutes on one core.
"""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

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
    said = pretrain.words(str(__doc__).split("\n")[0], 5200, TARGET)
    pretrain.write(train(pretrain.demo_config("vggt_eth3d"), said.steps, said.lr).state_dict(), said.out)


def train(config: Config, steps: int, lr: float) -> VGGT:
    """The trained network in evaluation mode."""
    torch.manual_seed(0)
    network = VGGT(dataclasses.replace(config.model, layer_scale=LAYER_SCALE))

    def loss_of(batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return losses.objective(network(batch["images"]), batch, config.loss)

    return pretrain.train(network, loss_of, config, steps, lr, WORLDS)


if __name__ == "__main__":
    main()
