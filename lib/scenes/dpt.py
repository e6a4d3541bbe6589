"""Dense maps by DPT (Ranftl et al. 2021, arXiv 2103.13413), as VGGT and Depth Anything 3 have it."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.scenes.layers import recomputed
from lib.scenes.sections import DenseSize

FRAMES_AT_ONCE = 8  # of a dense head; more only costs memory


class DenseHead(nn.Module):
    """Four layers of tokens -> four maps from fine to coarse; a subclass says what `dense` makes of them."""

    def __init__(self, size: DenseSize):
        super().__init__()
        self.patch_px, self.gradient_checkpointing = size.patch_size, False
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

    def in_chunks(self, dense: Callable[..., Sequence[Tensor]], layers: list[Tensor], *rest: int) -> list[Tensor]:
        """What `dense(*rest, *layers)` makes of a few frames at a time: maps (b, s, h, w, values).

        Layers are (b, s, n, 2c); `dense` gets tokens (f, n, 2c) and returns (f, values, h, w) for every map.
        """
        flat = [layer.flatten(0, 1) for layer in layers]
        at_once = 1 if self.gradient_checkpointing and torch.is_grad_enabled() else FRAMES_AT_ONCE
        found = [
            recomputed(self.gradient_checkpointing, dense, *rest, *chunk)
            for chunk in zip(*(layer.split(at_once) for layer in flat), strict=True)
        ]
        maps = (torch.cat(parts) for parts in zip(*found, strict=True))
        return [one.permute(0, 2, 3, 1).unflatten(0, layers[0].shape[:2]) for one in maps]

    def maps(self, height_px: int, width_px: int, layers: Sequence[Tensor]) -> list[Tensor]:
        """Tokens of a few frames (f, n, 2c) -> (f, channels, h, w), 4 and 2 times, once and half as fine as patches."""
        grid = (height_px // self.patch_px, width_px // self.patch_px)
        found = []
        for layer, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(layer).transpose(1, 2).unflatten(2, grid))
            found.append(resize(with_uv(x, width_px / height_px)))
        return found


class DPTHead(DenseHead):
    """A dense map and its confidence, frame by frame."""

    def __init__(self, size: DenseSize, values: int, activation: Callable[[Tensor], Tensor]):
        """`values`: channels of the map (1 depth, 3 points). `activation`: raw map -> map."""
        super().__init__(size)
        self.activation, self.scratch = activation, Scratch(size, values + 1, Residual)

    def forward(self, layers: list[Tensor], height_px: int, width_px: int) -> tuple[Tensor, Tensor]:
        """Patch tokens of four layers (b, s, n, 2c) -> map (b, s, h, w, values) and confidence >= 1 (b, s, h, w)."""
        (raw,) = self.in_chunks(self.dense, layers, height_px, width_px)
        return self.activation(raw[..., :-1]), 1 + raw[..., -1].exp()

    def dense(self, height_px: int, width_px: int, *layers: Tensor) -> tuple[Tensor]:
        """Tokens of a few frames (f, n, 2c) -> raw map with the confidence last (f, values + 1, h, w)."""
        return (self.scratch(self.maps(height_px, width_px, layers), height_px, width_px),)


class Scratch(nn.Module):
    """The convolutions that fuse four maps from coarse to fine; its name is the checkpoint's."""

    def __init__(self, size: DenseSize, out: int, residual: type["Residual"]):
        super().__init__()
        features, hidden = size.dpt_features, size.dpt_output_hidden
        narrow = (nn.Conv2d(channels, features, 3, 1, 1, bias=False) for channels in size.dpt_out_channels)
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = narrow
        self.refinenet1, self.refinenet2, self.refinenet3 = (Fusion(features, True, residual) for _ in range(3))
        self.refinenet4 = Fusion(features, False, residual)
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, 1, 1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, hidden, 3, 1, 1), nn.ReLU(), nn.Conv2d(hidden, out, 1)
        )

    def forward(self, maps: list[Tensor], height_px: int, width_px: int) -> Tensor:
        """Maps from fine to coarse (f, channels, h, w) -> (f, out, height_px, width_px)."""
        return self.read_out(self.narrow(maps), height_px, width_px)

    def narrow(self, maps: list[Tensor]) -> list[Tensor]:
        """Every map with `dpt_features` channels."""
        one, two, three, four = maps
        return [self.layer1_rn(one), self.layer2_rn(two), self.layer3_rn(three), self.layer4_rn(four)]

    def read_out(self, maps: list[Tensor], height_px: int, width_px: int) -> Tensor:
        x = fused(maps, [self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4])
        x = F.interpolate(self.output_conv1(x), (height_px, width_px), mode="bilinear", align_corners=True)
        return self.output_conv2(with_uv(x, width_px / height_px))


def fused(maps: list[Tensor], fusions: Sequence[nn.Module]) -> Tensor:
    """Maps from fine to coarse (f, features, h, w) -> one of twice the grid of the finest, (f, features, 2h, 2w)."""
    finest, skips = maps[0].shape[-2:], [*maps[:-1], None]
    grids = [(2 * finest[0], 2 * finest[1]), *(one.shape[-2:] for one in maps[:-1])]
    x = maps[-1]
    for fusion, skip, grid in reversed(list(zip(fusions, skips, grids, strict=True))):
        x = fusion(x, skip, grid)
    return x


class Fusion(nn.Module):
    """Adds a finer map and upsamples; the 1x1 convolution comes after the upsampling, as published."""

    def __init__(self, features: int, skip: bool, residual: type["Residual"]):
        super().__init__()
        if skip:
            self.resConfUnit1 = residual(features)
        self.resConfUnit2 = residual(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None, grid: tuple[int, int]) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(F.interpolate(self.resConfUnit2(x), grid, mode="bilinear", align_corners=True))


class Residual(nn.Module):
    """VGGT applies its first ReLU in place, so the skip path carries ReLU(x), not x."""

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
