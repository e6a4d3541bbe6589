"""The PatchGAN discriminator of pix2pix (Isola et al. 2017), as in taming-transformers: it judges overlapping patches.

Settings and checkpoints call it the critic.
"""

import torch
from torch import nn


class PatchCritic(nn.Module):
    """image (n, 3, h, w) -> logits (n, 1, about h/8, w/8), higher where a patch looks real.

    Convolutions of width 4: `layers` of stride 2, two of stride 1. Key names `main.{0,2,3,5,6,...}` are the published
    ones.
    """

    def __init__(self, width: int = 64, layers: int = 3):
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        main: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            main += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride, 1, bias=False),
                nn.BatchNorm2d(widths[level]),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*main, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.apply(initialise)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.main(image)


def initialise(module: nn.Module) -> None:
    """pix2pix: convolutions N(0, 0.02), norm scales N(1, 0.02)."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
