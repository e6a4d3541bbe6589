"""The Q-Former of BLIP-2 (Li et al. 2023) and its new neighbours: what makes scene tokens of six views.

`QFormer` has the key names of the published checkpoint and nothing else, so that it can be loaded strictly; everything
that the checkpoint does not know is in `Bridge`. Each view is read on its own, as in BLIP-2's training, by
`tokens_per_view` queries; what the views have in common is left to the language model.
"""

import torch
from torch import Tensor, nn

from lib.recipes.llava_map.encoder import RayCode
from lib.recipes.llava_map.sizes import QFormerSize

VIEWS = 6
NOISE = 0.02  # keeps repeated BLIP-2 queries apart
BLIP2_PREFIXES = ("query_tokens", "qformer.")  # 255 tensors of the published file


class QFormer(nn.Module):
    """`query_tokens` and `qformer.*`, exactly as in Salesforce/blip2-opt-2.7b: 255 tensors at full size."""

    def __init__(self, size: QFormerSize):
        super().__init__()
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        config = Blip2QFormerConfig(
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            encoder_hidden_size=size.encoder_width,
            cross_attention_frequency=2,
            hidden_dropout_prob=size.dropout,
            attention_probs_dropout_prob=size.dropout,
        )
        self.query_tokens = nn.Parameter(torch.randn(1, size.queries, size.width) * NOISE)
        self.qformer = Blip2QFormerModel(config)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """queries (views, queries, width), tokens (views, tokens, encoder width) -> like queries."""
        answers: Tensor = self.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
        return answers


class Bridge(nn.Module):
    """Image tokens, with their rays, to the width that the Q-Former expects; its answers to the language model's."""

    def __init__(self, image_width: int, qformer: QFormerSize, tokens_per_view: int, hidden: int):
        super().__init__()
        self.rays = RayCode(qformer.rays)
        self.norm = nn.LayerNorm(image_width)
        self.from_image = nn.Linear(image_width, qformer.encoder_width)
        self.from_rays = nn.Linear(qformer.rays.widths[-1], qformer.encoder_width)
        if image_width == qformer.encoder_width:  # its own encoder: what it knows serves from the first step
            nn.init.eye_(self.from_image.weight)
            nn.init.zeros_(self.from_image.bias)
        nn.init.zeros_(self.from_rays.weight)  # it never saw rays: they come in with training
        nn.init.zeros_(self.from_rays.bias)
        self.view = nn.Parameter(torch.randn(VIEWS, 1, qformer.width) * NOISE)
        self.slot = nn.Parameter(torch.randn(tokens_per_view, qformer.width) * NOISE)
        self.to_llm = nn.Sequential(nn.Linear(qformer.width, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def encoder_tokens(self, image_tokens: Tensor, rays: Tensor) -> Tensor:
        """image_tokens (views, tokens, image width), rays (views, tokens, ray width) -> (…, encoder width)."""
        tokens: Tensor = self.from_image(self.norm(image_tokens)) + self.from_rays(rays)
        return tokens

    def queries(self, learned: Tensor) -> Tensor:
        """The published queries, repeated to `tokens_per_view`, told apart by slot and view: (views, tokens, width)."""
        repeats = -(-len(self.slot) // learned.shape[1])
        return learned.repeat(1, repeats, 1)[:, : len(self.slot)] + self.slot + self.view


def scene_tokens(qformer: QFormer, bridge: Bridge, image_tokens: Tensor, rays: Tensor, batch: int) -> Tensor:
    """(batch * 6, tokens, width) -> (batch, 6 * tokens_per_view, hidden of the language model), views in order."""
    queries = bridge.queries(qformer.query_tokens).repeat(batch, 1, 1)
    answers: Tensor = bridge.to_llm(qformer(queries, bridge.encoder_tokens(image_tokens, rays)))
    return answers.reshape(batch, -1, answers.shape[-1])
