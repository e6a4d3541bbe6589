"""Dense maps by DPT (Ranftl et al. 2021, arXiv 2103.13413), as VGGT and Depth Anything 3 have it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.scenes.layers import recomputed
from lib.scenes.sections import DenseSize

FRAMES_AT_ONCE = 8  # of a dense head; more only costs memory


class DPTHead(nn.Module):
    """Four aggregator layers -> a dense map and its confidence, frame by frame."""

    def __init__(self, size: DenseSize, values: int, activation: Callable[[Tensor], Tensor]):
        """`values`: channels of the map (1 depth, 3 points). `activation`: raw map -> map."""
        super().__init__()
        self.patch_px, self.activation, self.gradient_checkpointing = size.patch_size, activation, False
        one, two, _, four = size.dpt_out_channels
        self.norm = nn.LayerNorm(2 * size.embed_dim)
        self.projects = nn.ModuleList(nn.Conv2d(2 * size.embed_dim, channels, 1) for channels in size.dpt_out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(one, one, 4, 4),
                nn.ConvTranspose2d(two, two, 2, 2),
                nn.Identity(),
                nn.Conv2d(four, four, 3, 2, 1),
            ]
        )
        self.scratch = Scratch(size, values + 1)

    def forward(self, layers: list[Tensor], height_px: int, width_px: int) -> tuple[Tensor, Tensor]:
        """Patch tokens of four layers (b, s, n, 2c) -> map (b, s, h, w, values) and confidence >= 1 (b, s, h, w)."""
        batch, frames = layers[0].shape[:2]
        flat = [layer.flatten(0, 1) for layer in layers]
        at_once = 1 if self.gradient_checkpointing and torch.is_grad_enabled() else FRAMES_AT_ONCE
        raw = torch.cat([
            recomputed(self.gradient_checkpointing, self.dense, height_px, width_px, *chunk)
            for chunk in zip(*(layer.split(at_once) for layer in flat), strict=True)
        ])  # fmt: skip
        raw = raw.permute(0, 2, 3, 1).unflatten(0, (batch, frames))
        return self.activation(raw[..., :-1]), 1 + raw[..., -1].exp()

    def dense(self, height_px: int, width_px: int, *layers: Tensor) -> Tensor:
        """Tokens of a few frames (f, n, 2c) -> raw map with the confidence last (f, values + 1, h, w)."""
        grid = (height_px // self.patch_px, width_px // self.patch_px)
        aspect = width_px / height_px
        maps = []
        for layer, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(layer).transpose(1, 2).unflatten(2, grid))
            maps.append(resize(with_uv(x, aspect)))
        x = self.scratch.fuse(*maps)
        x = F.interpolate(x, (height_px, width_px), mode="bilinear", align_corners=True)
        return self.scratch.output_conv2(with_uv(x, aspect))


class Scratch(nn.Module):
    """The convolutions that fuse four maps from coarse to fine; its name is the checkpoint's."""

    def __init__(self, size: DenseSize, out: int):
        super().__init__()
        features, hidden = size.dpt_features, size.dpt_output_hidden
        narrow = (nn.Conv2d(channels, features, 3, 1, 1, bias=False) for channels in size.dpt_out_channels)
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = narrow
        self.refinenet1, self.refinenet2, self.refinenet3 = (Fusion(features, skip=True) for _ in range(3))
        self.refinenet4 = Fusion(features, skip=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, 1, 1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, hidden, 3, 1, 1), nn.ReLU(), nn.Conv2d(hidden, out, 1)
        )

    def fuse(self, one: Tensor, two: Tensor, three: Tensor, four: Tensor) -> Tensor:
        """Maps from fine to coarse -> (f, features / 2, 2h, 2w), twice the grid of the finest."""
        one, two, three, four = self.layer1_rn(one), self.layer2_rn(two), self.layer3_rn(three), self.layer4_rn(four)
        x = self.refinenet4(four, None, three.shape[-2:])
        x = self.refinenet3(x, three, two.shape[-2:])
        x = self.refinenet2(x, two, one.shape[-2:])
        x = self.refinenet1(x, one, (2 * one.shape[-2], 2 * one.shape[-1]))
        return self.output_conv1(x)


class Fusion(nn.Module):
    """Adds a finer map and upsamples; the 1x1 convolution comes after the upsampling, as published."""

    def __init__(self, features: int, skip: bool):
        super().__init__()
        if skip:
            self.resConfUnit1 = Residual(features)
        self.resConfUnit2 = Residual(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None, grid: tuple[int, int]) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(F.interpolate(self.resConfUnit2(x), grid, mode="bilinear", align_corners=True))


class Residual(nn.Module):
    """The published network applies its first ReLU in place, so the skip path carries ReLU(x), not x."""

    def __init__(self, features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, 1, 1)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return x + self.conv2(self.conv1(x).relu())


def with_uv(x: Tensor, aspect: float) -> Tensor:
    """A feature map (f, channels, h, w) plus a tenth of its UV embedding."""
    return x + 0.1 * uv_embedding(x.shape[1], x.shape[2], x.shape[3], aspect).to(x)


def uv_embedding(channels: int, height: int, width: int, aspect: float) -> Tensor:
    """Sines and cosines of where a cell lies in an image of `aspect` = width / height: (channels, height, width).

    The image's diagonal has length 2, cells are sampled at their centres; the first half of the channels sees x, the
    other y.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    along_x = waves(channels // 2, width, aspect / diagonal)[:, None, :].expand(-1, height, -1)
    along_y = waves(channels // 2, height, 1 / diagonal)[:, :, None].expand(-1, -1, width)
    return torch.cat([along_x, along_y])


def waves(channels: int, cells: int, half_length: float) -> Tensor:
    """[sine, cosine] of the cells' coordinates at channels / 2 frequencies from 1 down to 1/100: (channels, cells)."""
    limit = half_length * (cells - 1) / cells
    coordinates = torch.linspace(-limit, limit, cells, dtype=torch.float64, device="cpu")
    frequencies = 100.0 ** -(torch.arange(channels // 2, dtype=torch.float64, device="cpu") / (channels // 2))
    angles = frequencies[:, None] * coordinates
    return torch.cat([angles.sin(), angles.cos()]).float()
