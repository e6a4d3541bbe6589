"""What the transformers of both networks share: the block, and rotary positions in 2D."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Rope(NamedTuple):
    """Cosines and sines of rotary positions, (tokens, 2 axes, head_dim / 4) each."""

    cos: Tensor
    sin: Tensor


def rope(positions_yx: Tensor, head_dim: int, base: float) -> Rope:
    """Rotary angles of integer grid positions (tokens, 2): the first half of a head turns with y, the second with x.

    Su et al. 2021 (arXiv 2104.09864) along each axis, theta_k = position * base^(-2k / (head_dim / 2)).
    """
    frequencies = base ** -(torch.arange(0, head_dim // 2, 2, device=positions_yx.device) / (head_dim // 2))
    angles = positions_yx[..., None] * frequencies
    return Rope(angles.cos(), angles.sin())


def rotate(tokens: Tensor, turn: Rope) -> Tensor:
    """Queries or keys (batch, heads, tokens, head_dim), turned.

    Entry i of an axis is paired with entry i + head_dim / 4.
    """
    first, second = tokens.unflatten(-1, (2, 2, -1)).unbind(-2)  # (batch, heads, tokens, 2 axes, head_dim / 4)
    turned = (first * turn.cos - second * turn.sin, second * turn.cos + first * turn.sin)
    return torch.stack(turned, -2).flatten(-3)


class Attention(nn.Module):
    """Self-attention over tokens (batch, tokens, width), whose queries and keys may be normalised and turned.

    Their norms have eps 1e-5, as published, also inside blocks whose own norms have 1e-6 (Depth Anything 3).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, turn: Rope | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)  # (batch, heads, tokens, head_dim)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, width: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block.

    LayerNorm's eps is 1e-6 in blocks that come from DINOv2 (VGGT's patch embed, all of Depth Anything 3's backbone) and
    1e-5 everywhere else, as published.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, layer_scale: float, eps: float = 1e-5, qk_norm: bool = False
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, qk_norm)
        self.ls1 = LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), width)
        self.ls2 = LayerScale(width, layer_scale)

    def forward(self, x: Tensor, turn: Rope | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), turn))
        return x + self.ls2(self.mlp(self.norm2(x)))


def recomputed(on: bool, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`; with `on`, its activations are not kept but computed again in the backward pass."""
    if on and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)
