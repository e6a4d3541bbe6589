"""Image encoders from transformers, and where each of their tokens looks.

A frozen encoder's tokens depend on the picture alone, so the loop keeps them (`FrozenFeatures`); the ray code below is
trained and is computed every time.
"""

import torch
from torch import Tensor, nn

from lib.recipes.llava_map.sizes import EncoderSize, RaySize

NEAREST_M, FARTHEST_M = 1.0, 60.0
HALF_HEIGHT_M = 2.0  # with the region's half extents, what maps a position to [-1, 1]


class ImageEncoder(nn.Module):
    """Pictures (n, 3, h, w), normalised, to tokens (n, rows * columns, width).

    Key names are the published ones of its kind.
    """

    def __init__(self, size: EncoderSize):
        super().__init__()
        self.size = size
        self.body = {"resnet": resnet, "clip": clip, "blip2": blip2}[size.kind](size)

    def forward(self, pictures: Tensor) -> Tensor:
        if self.size.kind == "resnet":
            grid: Tensor = self.body(pixel_values=pictures).last_hidden_state  # (n, width, rows, columns)
            return grid.flatten(2).transpose(1, 2)
        tokens: Tensor = self.body(pixel_values=pictures, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, 1:]  # without the class token

    def grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Rows and columns of tokens: a ResNet rounds up, a patch embedding drops the rest."""
        stride = self.size.stride_px
        if self.size.kind == "resnet":
            return -(-height_px // stride), -(-width_px // stride)
        return height_px // stride, width_px // stride


def resnet(size: EncoderSize) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=size.stem, hidden_sizes=list(size.widths), depths=list(size.depths), layer_type=size.block
    )
    model: nn.Module = ResNetModel(config)
    model.pooler = nn.Identity()
    return model


def clip(size: EncoderSize) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        patch_size=size.stride_px,
        image_size=size.image_px,
    )
    return CLIPVisionModel(config)


def blip2(size: EncoderSize) -> nn.Module:
    from transformers import Blip2VisionConfig, Blip2VisionModel

    config = Blip2VisionConfig(
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        patch_size=size.stride_px,
        image_size=size.image_px,
    )
    return Blip2VisionModel(config)


class RayCode(nn.Module):
    """3-D position of image tokens: points along each token's ray, as in PETR (Liu et al. 2022).

    Rays are in the `bev` frame, where the map vectors are; a code in the ego frame would be turned by 90 degrees
    against them.
    """

    def __init__(self, size: RaySize):
        super().__init__()
        self.size = size
        self.shared = nn.Sequential(
            nn.Linear(6 * size.octaves, size.per_depth), nn.LayerNorm(size.per_depth), nn.ReLU()
        )
        layers: list[nn.Module] = []
        width = size.per_depth * size.depths
        for wanted in size.widths:
            layers += [nn.Linear(width, wanted), nn.LayerNorm(wanted), nn.ReLU()]
            width = wanted
        self.mix = nn.Sequential(*layers[:-1])

    def forward(
        self,
        intrinsics: Tensor,
        bev_from_cam: Tensor,
        grid: tuple[int, int],
        size_px: tuple[int, int],
        half_extent_m: tuple[float, float],
    ) -> Tensor:
        """intrinsics (n, 3, 3) in pixels of size_px (height, width), bev_from_cam (n, 4, 4) in metres; grid (rows,
        columns) of tokens; half extents of the region -> (n, rows * columns, width), in fp32.
        """
        with torch.autocast(intrinsics.device.type, enabled=False):
            points = ray_points(
                intrinsics.float(), bev_from_cam.float(), grid, size_px, self.size.depths, half_extent_m
            )
            code: Tensor = self.mix(self.shared(sine_code(points, self.size.octaves)).flatten(2))
            return code


def ray_points(
    intrinsics: Tensor,
    bev_from_cam: Tensor,
    grid: tuple[int, int],
    size_px: tuple[int, int],
    depths: int,
    half_extent_m: tuple[float, float],
) -> Tensor:
    """Positions along the ray through each token's middle, in half extents: (n, tokens, depths, 3) in [-2, 2].

    intrinsics (n, 3, 3), bev_from_cam (n, 4, 4), grid (rows, columns), size_px (height, width). Depths grow with the
    square of their number from 1 m to 60 m. They are z-depths, not distances.
    """
    rows, columns = grid
    height_px, width_px = size_px
    v = (torch.arange(rows, device=intrinsics.device) + 0.5) * height_px / rows
    u = (torch.arange(columns, device=intrinsics.device) + 0.5) * width_px / columns
    pixels = torch.stack(
        [u.expand(rows, columns), v[:, None].expand(rows, columns), torch.ones_like(u).expand(rows, columns)], -1
    ).flatten(0, 1)
    rays = torch.einsum("nij,njk,tk->nti", bev_from_cam[:, :3, :3], torch.linalg.inv(intrinsics), pixels)
    steps = torch.arange(depths, device=intrinsics.device) / (depths - 1)
    depths_m = NEAREST_M + (FARTHEST_M - NEAREST_M) * steps.square()
    points_m = rays[:, :, None] * depths_m[:, None] + bev_from_cam[:, None, None, :3, 3]
    half_m = torch.tensor([*half_extent_m, HALF_HEIGHT_M])
    return (points_m / half_m.to(points_m)).clamp(-2, 2)


def sine_code(points: Tensor, octaves: int) -> Tensor:
    """Sine and cosine at `octaves` frequencies (temperature 10 000) of each axis: (..., 3) -> (..., 6 * octaves)."""
    frequencies = 10000.0 ** (-torch.arange(octaves, device=points.device) / octaves)
    angles = 2 * torch.pi * points[..., None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)
