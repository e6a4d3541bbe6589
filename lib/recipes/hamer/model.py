"""HaMeR: ViT backbone (ViTPose), MANO decoder head, MANO, camera; every tensor has its published name and shape.

Sizes come from `config.ModelConfig`. At full size: backbone 389 tensors / 630 912 000 parameters, head 111 and 3
buffers / 39 497 837.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lib.recipes.hamer.config import ModelConfig
from lib.recipes.hamer.geometry import crop_translation, project
from lib.recipes.hamer.head import ManoHead
from lib.recipes.hamer.mano import Mano


class HaMeR(nn.Module):
    """Square crop of a right hand -> mesh, joints and camera.

    `mano` has only buffers that a state dict leaves out (licence).
    """

    def __init__(self, config: ModelConfig, mano: Mano) -> None:
        super().__init__()
        self.config, self.gradient_checkpointing = config, False
        self.backbone = ViT(config)
        self.mano_head = ManoHead(config)
        self.mano = mano

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """crops (b, 3, crop_px, crop_px), normalised -> see `decode`."""
        return self.finish(self.front(crops, 0), 0)

    def front(self, crops: Tensor, blocks: int) -> Tensor:
        """The patch embedding and the first `blocks` blocks: tokens (b, n, width)."""
        return self.backbone.run(self.backbone.embed(self.columns(crops)), 0, blocks)

    def finish(self, tokens: Tensor, blocks: int) -> dict[str, Tensor]:
        """From `front` to the hand."""
        tokens = self.backbone.run(tokens, blocks, len(self.backbone.blocks), self.gradient_checkpointing)
        return self.decode(self.backbone.last_norm(tokens))

    def columns(self, crops: Tensor) -> Tensor:
        """The middle three quarters of the columns, which are all that the backbone sees."""
        return crops[..., self.config.margin_px : -self.config.margin_px]

    def decode(self, tokens: Tensor) -> dict[str, Tensor]:
        """tokens (b, n, width) -> published names; metres, 2D in fractions of the crop (-0.5 … 0.5).

        pred_cam (b, 3) = scale, tx, ty; pred_cam_t (b, 3); global_orient (b, 1, 3, 3); hand_pose (b, 15, 3, 3); betas
        (b, 10); pred_vertices (b, 778, 3); pred_keypoints_3d (b, 21, 3); pred_keypoints_2d (b, 21, 2).
        """
        head = self.mano_head(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            head = {name: value.float() for name, value in head.items()}
            vertices, joints = self.mano(head["global_orient"], head["hand_pose"], head["betas"])
            config = self.config
            translation = crop_translation(head["cam"], config.focal_px, config.crop_px)
            focal = translation.new_full((len(translation), 2), config.focal_px / config.crop_px)
            return {
                "pred_cam": head["cam"],
                "pred_cam_t": translation,
                "global_orient": head["global_orient"],
                "hand_pose": head["hand_pose"],
                "betas": head["betas"],
                "pred_vertices": vertices,
                "pred_keypoints_3d": joints,
                "pred_keypoints_2d": project(joints, translation, focal),
            }


class ViT(nn.Module):
    """ViTPose's plain ViT.

    Usable in parts (embed, run, last_norm), because frozen first blocks are computed once and kept.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.patches + 1, config.width))
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.last_norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> tokens (b, rows * columns, width)."""
        return self.last_norm(self.run(self.embed(images), 0, len(self.blocks)))

    def embed(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> tokens (b, n, width).

        Entry 0 of the position table belongs to a class token that does not exist; it is added to every token all the
        same.
        """
        return self.patch_embed(images) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]

    def run(self, tokens: Tensor, first: int, last: int, gradient_checkpointing: bool = False) -> Tensor:
        """The blocks from `first` up to `last`, not included: (b, n, width) -> (b, n, width)."""
        for block in self.blocks[first:last]:
            if gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens


class PatchEmbed(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_px, stride=config.patch_px, padding=2)  # ViTPose pads by 2

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).mT  # (b, rows * columns, width)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = Mlp(config)
        self.drop_path = drop_path

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.kept(self.attn(self.norm1(tokens)))
        return tokens + self.kept(self.mlp(self.norm2(tokens)))

    def kept(self, branch: Tensor) -> Tensor:
        """Stochastic depth: the branch is left out for a sample with probability `drop_path`."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(keep) / keep


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        together = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))
        q, k, v = together.permute(2, 0, 3, 1, 4)  # each (b, heads, n, width / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_ratio * config.width)
        self.fc2 = nn.Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))
