"""HaMeR's decoder: one query token reads the image tokens, three linear read-outs correct a mean hand."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.recipes.hamer.config import ModelConfig
from lib.recipes.hamer.geometry import rotation_from_6d

JOINTS = 16  # wrist and three per finger, MANO order
BETAS = 10


class ManoHead(nn.Module):
    """Image tokens -> rotations of 16 joints, 10 shape parameters, 3 camera parameters.

    The mean hand (`init_*`) is part of the checkpoint and must come from it: joint 0 of the published one looks wrong
    (it was written in another 6D layout), but the network has learnt its corrections relative to that.
    """

    init_hand_pose: Tensor
    init_betas: Tensor
    init_cam: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.iterations, self.mean_token = config.refinements, config.mean_token
        self.transformer = Decoder(config, 6 * JOINTS + BETAS + 3 if config.mean_token else 1)
        self.decpose = nn.Linear(config.decoder_width, 6 * JOINTS)
        self.decshape = nn.Linear(config.decoder_width, BETAS)
        self.deccam = nn.Linear(config.decoder_width, 3)
        identity = torch.tensor([[1.0, 0, 0, 0, 1, 0]]).repeat(1, JOINTS)
        self.register_buffer("init_hand_pose", identity)
        self.register_buffer("init_betas", torch.zeros(1, BETAS))
        self.register_buffer("init_cam", torch.tensor([[4.0, 0, 0]]))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """(b, n, width) -> global_orient (b, 1, 3, 3), hand_pose (b, 15, 3, 3), betas (b, 10), cam (b, 3)."""
        return self.refine(tokens)[-1]

    def refine(self, tokens: Tensor) -> list[dict[str, Tensor]]:
        """One estimate per refinement; the published model has one."""
        means = (self.init_hand_pose, self.init_betas, self.init_cam)
        pose, betas, camera = (mean.expand(len(tokens), -1) for mean in means)
        estimates = []
        for _ in range(self.iterations):
            query = tokens.new_zeros(len(tokens), 1, 1)
            if self.mean_token:
                query = torch.cat([pose, betas, camera], 1)[:, None]
            answer = self.transformer(query, tokens)[:, 0]
            pose, betas = pose + self.decpose(answer), betas + self.decshape(answer)
            camera = camera + self.deccam(answer)
            estimates.append(as_rotations(pose, betas, camera))
        return estimates


def as_rotations(pose: Tensor, betas: Tensor, camera: Tensor) -> dict[str, Tensor]:
    """An estimate as `ManoHead.forward` gives it, from the 6D codes (b, 96) of the joints."""
    with torch.autocast(pose.device.type, enabled=False):
        rotations = rotation_from_6d(pose.float().unflatten(-1, (JOINTS, 6)))
    return {"global_orient": rotations[:, :1], "hand_pose": rotations[:, 1:], "betas": betas, "cam": camera}


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig, query_width: int) -> None:
        super().__init__()
        self.to_token_embedding = nn.Linear(query_width, config.decoder_width)
        self.pos_embedding = nn.Parameter(torch.randn(1, 1, config.decoder_width))
        self.transformer = Layers(config)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """(b, 1, query_width), (b, n, width) -> (b, 1, decoder_width)."""
        return self.transformer(self.to_token_embedding(query) + self.pos_embedding, context)


class Layers(nn.Module):
    """`decoder_depth` times self-attention, cross-attention, feed-forward, each with a residual; no norm at the end."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.layers = nn.ModuleList(
            nn.ModuleList([
                PreNorm(width, SelfAttention(config)),
                PreNorm(width, CrossAttention(config)),
                PreNorm(width, FeedForward(config)),
            ])
            for _ in range(config.decoder_depth)
        )  # fmt: skip

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        for layer in self.layers:
            self_attention, cross_attention, feed_forward = cast(nn.ModuleList, layer)
            query = query + self_attention(query)
            query = query + cross_attention(query, context)
            query = query + feed_forward(query)
        return query


class PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5)  # the backbone has 1e-6: the two must not be swapped
        self.fn = fn

    def forward(self, query: Tensor, *context: Tensor) -> Tensor:
        return self.fn(self.norm(query), *context)


class SelfAttention(nn.Module):
    """Over a single token this is the value path alone, so the q and k rows of `to_qkv` never get a gradient."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.decoder_heads * config.decoder_head_width
        self.heads = config.decoder_heads
        self.to_qkv = nn.Linear(config.decoder_width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, config.decoder_width), nn.Dropout(0.0))

    def forward(self, query: Tensor) -> Tensor:
        q, k, v = self.to_qkv(query).chunk(3, -1)
        return self.to_out(attend(q, k, v, self.heads))


class CrossAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.decoder_heads * config.decoder_head_width
        self.heads = config.decoder_heads
        self.to_kv = nn.Linear(config.width, 2 * inner, bias=False)
        self.to_q = nn.Linear(config.decoder_width, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, config.decoder_width), nn.Dropout(0.0))

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        q = self.to_q(query)  # before k and v: the noise of the adapters' dropout follows this order
        k, v = self.to_kv(context).chunk(2, -1)
        return self.to_out(attend(q, k, v, self.heads))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(b, n, heads * d) each -> (b, n, heads * d)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.decoder_width, config.decoder_mlp
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, width), nn.Dropout(0.0)
        )

    def forward(self, query: Tensor) -> Tensor:
        return self.net(query)
