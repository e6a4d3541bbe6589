"""LPIPS v0.1 on VGG16 (Zhang et al. 2018) under the names of the copy inside the published checkpoint.

The pip package wants torchvision and downloads VGG16 in its constructor; the checkpoint already holds both parts.
"""

import torch
from torch import nn

from lib.recipes.vavae_microdoppler.size import VGG16

CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # indices in torchvision's VGG16 `features`


class Scaling(nn.Module):
    """[-1, 1] to the statistics that the VGG was trained with."""

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.shift) / self.scale


class Trunk(nn.Module):
    """image (n, 3, h, w) -> the maps relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, each of half the side before."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        before = 3
        for number, (indices, width) in enumerate(zip(CONVOLUTIONS, widths, strict=True), 1):
            part = nn.Sequential()
            if number > 1:
                part.add_module(str(indices[0] - 1), nn.MaxPool2d(2))
            for index in indices:
                part.add_module(str(index), nn.Conv2d(before, width, 3, padding=1))
                part.add_module(str(index + 1), nn.ReLU())
                before = width
            self.add_module(f"slice{number}", part)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for part in self.children():
            image = part(image)
            maps.append(image)
        return maps


class Head(nn.Module):
    """Non-negative weights of the channels. Index 0 is a dropout in the original; it must never be active here."""

    def __init__(self, width: int):
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, difference: torch.Tensor) -> torch.Tensor:
        return self.model(difference)


class Perceptual(nn.Module):
    """Distance of two images in [-1, 1] (n, 3, h, w) -> (n, 1, 1, 1). Computed in fp32 whatever surrounds it."""

    def __init__(self, widths: tuple[int, ...] = VGG16):
        super().__init__()
        self.scaling_layer = Scaling()
        self.net = Trunk(widths)
        for number, width in enumerate(widths):
            self.add_module(f"lin{number}", Head(width))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        with torch.autocast(first.device.type, enabled=False):
            pairs = zip(self.features(first.float()), self.features(second.float()), strict=True)
            weighted = [getattr(self, f"lin{n}")((a - b) ** 2) for n, (a, b) in enumerate(pairs)]
            return sum(part.mean((2, 3), keepdim=True) for part in weighted)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The five maps with unit length over the channels."""
        return [unit(features) for features in self.net(self.scaling_layer(image))]


def unit(features: torch.Tensor) -> torch.Tensor:
    """Unit length over the channels of (n, c, h, w).

    The 1e-20 keeps the gradient finite where all channels are 0 (black images): a bare root gives infinity times zero.
    """
    return features / ((features**2).sum(1, keepdim=True) + 1e-20).sqrt().add(1e-10)
