"""Trains the demo's base from nothing, on worlds of boxes, and writes demo/base.safetensors (fp16):

    python -m lib.recipes.da3_eth3d.pretrain

Twelve minutes on one core. Every other batch has known cameras, so that the base knows what to do with them.
"""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from lib.core.records import Batch
from lib.recipes.da3_eth3d import assemble, losses
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.model import DA3
from lib.scenes import pretrain

WORLDS = 140
POSED_EVERY = 2  # batches; the published training has known cameras in a fifth of them


def main() -> None:
    home = Path(__file__).parent
    said = pretrain.words(str(__doc__).split("\n")[0], 700, home / "demo" / "base.safetensors")
    tensors = train(said.steps, said.lr).state_dict()
    pretrain.write({f"model.{name}": tensor for name, tensor in tensors.items()}, said.out)


def train(steps: int, lr: float) -> DA3:
    """The trained network in evaluation mode."""
    config: Config = pretrain.demo_config("da3_eth3d")
    weights = dataclasses.replace(config.loss, ray_weight=0.5, camera_weight=2.0, depth_weight=5.0)
    torch.manual_seed(0)
    network = DA3(config.model)

    def loss_of(batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        known = assemble.known(batch) if step % POSED_EVERY else None
        return losses.objective(network(batch["images"], known=known, rays=True), batch, weights)

    return pretrain.train(network, loss_of, config, steps, lr, WORLDS)


if __name__ == "__main__":
    main()
