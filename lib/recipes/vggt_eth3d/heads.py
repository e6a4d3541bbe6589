"""VGGT's camera head, which refines iteratively, and how its point head reaches far. Dense heads: lib.scenes.dpt."""

import torch
from torch import Tensor, nn

from lib.recipes.vggt_eth3d.size import POSE_NUMBERS, ModelSize
from lib.scenes.layers import Block, Mlp, recomputed


class CameraHead(nn.Module):
    """Refines the pose codes of all frames together, `camera_iterations` times (paper, section 3.3)."""

    def __init__(self, size: ModelSize):
        super().__init__()
        width = 2 * size.embed_dim
        self.iterations, self.gradient_checkpointing = size.camera_iterations, False
        self.trunk = nn.ModuleList(
            Block(width, size.camera_num_heads, size.camera_mlp_ratio, size.layer_scale)
            for _ in range(size.camera_trunk_depth)
        )
        self.token_norm, self.trunk_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_NUMBERS))
        self.embed_pose = nn.Linear(POSE_NUMBERS, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.adaln_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.pose_branch = Mlp(width, width // 2, POSE_NUMBERS)

    def forward(self, layer: Tensor) -> list[Tensor]:
        """The last aggregator layer (b, s, tokens, 2c) -> pose codes (b, s, 9) of each iteration, the last the best.

        The recurrence goes on from the raw code without a gradient; only what is returned has its field of view clipped
        at 0.
        """
        tokens = self.token_norm(layer[:, :, 0])
        raw: Tensor | None = None
        codes = []
        for _ in range(self.iterations):
            given = self.empty_pose_tokens.expand(*tokens.shape[:2], -1) if raw is None else raw.detach()
            update = self.refine(tokens, given)
            raw = update if raw is None else raw.detach() + update
            codes.append(torch.cat([raw[..., :7], raw[..., 7:].relu()], -1))
        return codes

    def refine(self, tokens: Tensor, given: Tensor) -> Tensor:
        """The change (b, s, 9) of the pose codes `given`, which modulate the camera tokens (b, s, 2c).

        Adaptive layer norm as in DiT (Peebles and Xie 2023, arXiv 2212.09748).
        """
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(given)).chunk(3, -1)
        x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
        for block in self.trunk:
            x = recomputed(self.gradient_checkpointing, block, x)
        return self.pose_branch(self.trunk_norm(x))


def inverse_log(x: Tensor) -> Tensor:
    """sign(x) (e^|x| - 1): lets the point head reach far points with small activations."""
    return x.sign() * x.abs().expm1()
