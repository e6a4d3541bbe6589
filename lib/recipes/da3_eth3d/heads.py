"""The heads of Depth Anything 3: depth and rays from one pyramid, cameras out of a token and into one."""

import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn

from lib.recipes.da3_eth3d.size import POSE_NUMBERS, RAY_LEVELS, ModelSize
from lib.scenes import dpt
from lib.scenes.dpt import DenseHead, Fusion, Scratch, fused, with_uv
from lib.scenes.layers import Block, Mlp

RAY_NUMBERS = 6  # direction 3 (z = 1 in the camera), then origin 3, both in the world


class DualDPT(DenseHead):
    """Depth at full size, and rays at eight times the grid of patches, each with a confidence."""

    def __init__(self, size: ModelSize):
        super().__init__(size)
        self.scratch = DualScratch(size)

    def forward(self, layers: list[Tensor], height_px: int, width_px: int, rays: bool) -> dict[str, Tensor]:
        """Patch tokens of four blocks (b, s, n, 2c) -> depth (b, s, h, w, 1) and depth_conf (b, s, h, w).

        With `rays` also ray (b, s, 8 rows, 8 columns, 6) and ray_conf. A confidence is at least 1.
        """
        raw = self.in_chunks(self.dense, layers, height_px, width_px, rays)
        found = {"depth": raw[0][..., :1].exp(), "depth_conf": 1 + raw[0][..., 1].exp()}
        if rays:
            found |= {"ray": raw[1][..., :RAY_NUMBERS], "ray_conf": 1 + raw[1][..., RAY_NUMBERS].exp()}
        return found

    def dense(self, height_px: int, width_px: int, rays: bool, *layers: Tensor) -> list[Tensor]:
        """Tokens of a few frames (f, n, 2c) -> raw depth (f, 2, h, w) and, with `rays`, raw rays (f, 7, …)."""
        narrow = self.scratch.narrow(self.maps(height_px, width_px, layers))
        found = [self.scratch.read_out(narrow, height_px, width_px)]
        return [*found, self.scratch.read_out_rays(narrow, width_px / height_px)] if rays else found


class Residual(dpt.Residual):
    """The textbook unit: the skip path carries x itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x.relu()).relu())


class DualScratch(Scratch):
    """The depth chain, and a ray chain over the same four maps; `_aux` is the checkpoint's word for rays."""

    def __init__(self, size: ModelSize):
        super().__init__(size, 2, Residual)
        features, hidden = size.dpt_features, size.dpt_output_hidden
        one, two, three = (Fusion(features, True, Residual) for _ in range(3))
        self.refinenet1_aux, self.refinenet2_aux, self.refinenet3_aux = one, two, three
        self.refinenet4_aux = Fusion(features, False, Residual)
        self.output_conv1_aux = nn.ModuleList(neck(features) for _ in range(RAY_LEVELS))
        self.output_conv2_aux = nn.ModuleList(
            nn.ModuleDict({
                "0": nn.Conv2d(features // 2, hidden, 3, 1, 1), "5": nn.Conv2d(hidden, RAY_NUMBERS + 1, 1),
            })
            for _ in range(RAY_LEVELS)
        )  # fmt: skip
        # The four levels share one norm, which the published files name as level 0's.
        cast(nn.ModuleDict, self.output_conv2_aux[0])["2"] = nn.LayerNorm(hidden)

    def read_outs(self) -> tuple[nn.Module, nn.Module]:
        """That of the last level, and the first one, which has the norm."""
        return self.output_conv2_aux[-1], self.output_conv2_aux[0]

    def read_out_rays(self, maps: list[Tensor], aspect: float) -> Tensor:
        """Narrow maps -> raw rays with the confidence last (f, 7, 8 rows, 8 columns), at the last level."""
        x = fused(maps, [self.refinenet1_aux, self.refinenet2_aux, self.refinenet3_aux, self.refinenet4_aux])
        neck, last, first = (cast(Any, part) for part in (self.output_conv1_aux[-1], *self.read_outs()))
        x, norm = with_uv(neck(x), aspect), first["2"]
        x = norm(last["0"](x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return last["5"](x.relu())


def neck(features: int) -> nn.Sequential:
    """Five convolutions without activations between them."""
    widths = [features, features // 2, features, features // 2, features, features // 2]
    return nn.Sequential(*(nn.Conv2d(before, after, 3, 1, 1) for before, after in itertools.pairwise(widths)))


class CameraDecoder(nn.Module):
    """The camera token of the last block, un-normalised -> the published camera code."""

    def __init__(self, size: ModelSize):
        super().__init__()
        width = 2 * size.embed_dim
        self.backbone = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t, self.fc_qvec = nn.Linear(width, 3), nn.Linear(width, 4)
        self.fc_fov = nn.Sequential(nn.Linear(width, 2), nn.ReLU())

    def forward(self, camera_token: Tensor) -> Tensor:
        """(b, s, 2c) -> (b, s, 9), camera to world; the quaternion may have any length."""
        x = self.backbone(camera_token)
        return torch.cat([self.fc_t(x), self.fc_qvec(x), self.fc_fov(x)], -1)


class CameraEncoder(nn.Module):
    """The published codes of known cameras -> a camera token for every view, which knows of the other cameras."""

    def __init__(self, size: ModelSize):
        super().__init__()
        width = size.embed_dim
        self.pose_branch = Mlp(POSE_NUMBERS, width // 2, width)
        self.token_norm, self.trunk_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.trunk = nn.ModuleList(
            Block(width, size.camera_encoder_heads, 4.0, 0.01) for _ in range(size.camera_encoder_depth)
        )

    def forward(self, code: Tensor) -> Tensor:
        """(b, s, 9) -> (b, s, c)."""
        x = self.token_norm(self.pose_branch(code))
        for block in self.trunk:
            x = block(x)
        return self.trunk_norm(x)
