"""LightningDiT (Yao et al., CVPR 2025): the velocity network of a latent, given time and user.

Key names, shapes and options are those of the published checkpoints. The table of labels has one row more than there
are labels: the last one is "no label", in training (dropped labels) and in sampling (guidance) alike.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.recipes.vavae_microdoppler.size import DiTSize

FREQUENCIES = 256  # of the time embedding


class Rope(nn.Module):
    """Rotary position embedding: half of a head's channels turn with the row, half with the column, in pairs."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head: int, side: int):
        super().__init__()
        rate = 1.0 / 10000.0 ** (torch.arange(0, head // 2, 2).float() / (head // 2))
        angle = (torch.arange(side).float()[:, None] * rate).repeat_interleave(2, 1)  # (side, head / 2)
        rows, columns = angle[:, None].expand(side, side, -1), angle[None].expand(side, side, -1)
        angles = torch.cat([rows, columns], -1).flatten(0, 1)  # (side², head)
        self.register_buffer("freqs_cos", angles.cos())
        self.register_buffer("freqs_sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:  # (n, heads, side², head)
        turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        return x * self.freqs_cos.to(x.dtype) + turned * self.freqs_sin.to(x.dtype)


class Attention(nn.Module):
    """tokens (n, side², width) -> the same shape."""

    def __init__(self, size: DiTSize):
        super().__init__()
        self.heads = size.heads
        self.qkv, self.proj = nn.Linear(size.width, 3 * size.width), nn.Linear(size.width, size.width)
        head, kind = size.width // size.heads, rms_norm if size.rmsnorm else nn.LayerNorm
        self.q_norm: nn.Module = kind(head) if size.qk_norm else nn.Identity()
        self.k_norm: nn.Module = kind(head) if size.qk_norm else nn.Identity()

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(out.transpose(1, 2).reshape(n, tokens, width))


class SwiGLU(nn.Module):
    """tokens (n, side², width) -> the same shape."""

    def __init__(self, size: DiTSize):
        super().__init__()
        self.w12, self.w3 = nn.Linear(size.width, 2 * size.hidden), nn.Linear(size.hidden, size.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class MLP(nn.Module):
    """tokens (n, side², width) -> the same shape."""

    def __init__(self, size: DiTSize):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size.width, size.hidden), nn.Linear(size.hidden, size.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP on tokens (n, side², width), each modulated by time and label (n, width) (adaLN).

    The gates start at 0, so a fresh block is the identity.
    """

    def __init__(self, size: DiTSize):
        super().__init__()
        self.shift = size.shift
        self.norm1, self.norm2 = norm(size), norm(size)
        self.attn = Attention(size)
        self.mlp = SwiGLU(size) if size.swiglu else MLP(size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size.width, (6 if size.shift else 4) * size.width))

    def forward(self, x: Tensor, condition: Tensor, rope: Rope | None) -> Tensor:
        parts = self.adaLN_modulation(condition)[:, None].chunk(6 if self.shift else 4, -1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts if self.shift else (0, *parts[:2], 0, *parts[2:])
        x = x + gate_a * self.attn(modulate(self.norm1(x), shift_a, scale_a), rope)
        return x + gate_m * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    """tokens (n, side², width), condition (n, width) -> (n, side², patch² c)."""

    def __init__(self, size: DiTSize):
        super().__init__()
        self.norm_final = norm(size)
        self.linear = nn.Linear(size.width, size.patch**2 * size.latent_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size.width, 2 * size.width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, -1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class Patches(nn.Module):
    """latent (n, c, h, w) -> tokens (n, side², width), row by row."""

    def __init__(self, size: DiTSize):
        super().__init__()
        self.proj = nn.Conv2d(size.latent_channels, size.width, size.patch, stride=size.patch)

    def forward(self, latent: Tensor) -> Tensor:
        return self.proj(latent).flatten(2).transpose(1, 2)


class Times(nn.Module):
    """t (n,) -> (n, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(time_frequencies(t).to(next(self.mlp.parameters()).dtype))


class Labels(nn.Module):
    """label (n,) -> (n, width)."""

    def __init__(self, labels: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(labels + 1, width)

    def forward(self, label: Tensor) -> Tensor:
        return self.embedding_table(label)


class LightningDiT(nn.Module):
    """velocity = model(latent (n, c, h, w), t (n,) in [0, 1] with 0 = noise, label (n,); `null` means no label)."""

    def __init__(self, size: DiTSize):
        super().__init__()
        self.size, self.null = size, size.labels
        self.x_embedder, self.t_embedder = Patches(size), Times(size.width)
        self.y_embedder = Labels(size.labels, size.width)
        self.pos_embed = nn.Parameter(position_table(size.width, size.side)[None], requires_grad=False)
        self.feat_rope = Rope(size.width // size.heads, size.side) if size.rope else None
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.final_layer = FinalLayer(size)
        self.gradient_checkpointing = False
        self.apply(initialise)
        self.initialise_special()

    def forward(self, latent: Tensor, t: Tensor, label: Tensor) -> Tensor:
        condition = self.t_embedder(t) + self.y_embedder(label)
        x = self.x_embedder(latent) + self.pos_embed
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = torch.utils.checkpoint.checkpoint(block, x, condition, self.feat_rope, use_reentrant=False)
            else:
                x = block(x, condition, self.feat_rope)
        return self.unpatchify(self.final_layer(x, condition))

    def unpatchify(self, tokens: Tensor) -> Tensor:
        n, side, p, c = len(tokens), self.size.side, self.size.patch, self.size.latent_channels
        return tokens.reshape(n, side, side, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, side * p, side * p)

    def initialise_special(self) -> None:
        """Embeddings N(0, 0.02); modulations and the last layer 0, so that a fresh network predicts velocity 0."""
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))  # a view: fills the weight
        embeddings: list[Any] = [self.y_embedder.embedding_table, self.t_embedder.mlp[0], self.t_embedder.mlp[2]]
        for layer in embeddings:
            nn.init.normal_(layer.weight, std=0.02)
        modulated: list[Any] = [*self.blocks, self.final_layer]
        for layer in (*(part.adaLN_modulation[1] for part in modulated), self.final_layer.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def rms_norm(width: int) -> nn.RMSNorm:
    return nn.RMSNorm(width, eps=1e-6)


def norm(size: DiTSize) -> nn.Module:
    return rms_norm(size.width) if size.rmsnorm else nn.LayerNorm(size.width, eps=1e-6, elementwise_affine=False)


def modulate(x: Tensor, shift: Tensor | int, scale: Tensor) -> Tensor:
    """x (n, side², width), shift and scale (n, 1, width)."""
    return x * (1 + scale) + shift


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def time_frequencies(t: Tensor) -> Tensor:
    """t (n,) in [0, 1], not scaled -> (n, 256), cosines first."""
    half = FREQUENCIES // 2
    rate = torch.exp(-math.log(10000) * torch.arange(half, device=t.device).float() / half)
    angle = t.float()[:, None] * rate
    return torch.cat([angle.cos(), angle.sin()], -1)


def position_table(width: int, side: int) -> Tensor:
    """(side², width): the first half encodes the column, the second the row, sines before cosines."""
    rate = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * rate
    line = torch.cat([angle.sin(), angle.cos()], 1)  # (side, width / 2)
    table = torch.cat([line[None].expand(side, -1, -1), line[:, None].expand(-1, side, -1)], -1)
    return table.flatten(0, 1).float()
