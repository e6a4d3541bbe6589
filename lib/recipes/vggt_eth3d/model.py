"""VGGT (Wang et al. 2025, arXiv 2503.11651) under the published key names, in any size and in parts.

Frames attend to themselves and to all frames in turn; small heads read cameras and dense maps from a few of the layers.
The front can be computed once and kept (`VGGT.front`), because adapters of strategies A and B leave it untouched.
The track head is not built.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.recipes.vggt_eth3d.heads import CameraHead, inverse_log
from lib.recipes.vggt_eth3d.size import SPECIAL_TOKENS, ModelSize
from lib.scenes.dpt import DPTHead
from lib.scenes.fronts import packed, unpacked
from lib.scenes.layers import Block, Rope, recomputed, rope

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGT(nn.Module):
    """The aggregator and the heads that `size` names."""

    def __init__(self, size: ModelSize):
        super().__init__()
        self.size = size
        self.aggregator = Aggregator(size)
        if size.camera_head:
            self.camera_head = CameraHead(size)
        if size.depth_head:
            self.depth_head = DPTHead(size, 1, torch.exp)
        if size.point_head:
            self.point_head = DPTHead(size, 3, inverse_log)

    def forward(self, images: Tensor, front: Tensor | None = None, blocks: int = 0) -> dict[str, Tensor | list[Tensor]]:
        """RGB in 0..1 (b, s, 3, h, w), h and w multiples of the patch, the first frame the reference -> predictions:

        pose_enc (b, s, 9), pose_enc_list (every iteration), depth (b, s, h, w, 1), depth_conf (b, s, h, w),
        world_points (b, s, h, w, 3), world_points_conf (b, s, h, w); as far as the heads were built. `front` is
        `self.front(images, blocks)`.
        """
        layers = self.layers(images, self.front(images, 0) if front is None else front, blocks)
        # exp() and 3x3 convolutions lose too much in half precision.
        with torch.autocast(images.device.type, enabled=False):
            return self.predict({index: layer.float() for index, layer in layers.items()}, *images.shape[-2:])

    def front(self, images: Tensor, blocks: int) -> Tensor:
        """What the patch embed and the first `blocks` pairs of blocks make of the images, in one tensor.

        blocks = 0: patch tokens (b, s, n, c), which depend on their own frame alone. Otherwise as `fronts.packed`,
        which depends on all frames and their order.
        """
        patches = self.aggregator.patch_tokens(images)
        if not blocks:
            return patches
        tokens, layers = self.aggregator.run(self.aggregator.start(patches), self.grid(images), 0, blocks)
        return packed(layers, tokens, blocks)

    def layers(self, images: Tensor, front: Tensor, blocks: int) -> dict[int, Tensor]:
        """The aggregator layers that the heads read, by index, going on from the front: (b, s, tokens, 2c) each."""
        if blocks:
            early, tokens = unpacked(front, self.size.kept_layers, blocks, self.size.embed_dim)
        else:
            early, tokens = {}, self.aggregator.start(front)
        _, late = self.aggregator.run(tokens, self.grid(images), blocks, self.size.depth)
        return early | late

    def predict(self, layers: dict[int, Tensor], height_px: int, width_px: int) -> dict[str, Tensor | list[Tensor]]:
        """What the heads make of the aggregator's layers; shapes as in `forward`."""
        found: dict[str, Tensor | list[Tensor]] = {}
        if self.size.camera_head:
            codes = self.camera_head(layers[self.size.depth - 1])
            found |= {"pose_enc_list": codes, "pose_enc": codes[-1]}
        if self.size.depth_head or self.size.point_head:
            dense = [layers[index][:, :, self.aggregator.first_patch :] for index in self.size.dpt_intermediate_layers]
        if self.size.depth_head:
            found["depth"], found["depth_conf"] = self.depth_head(dense, height_px, width_px)
        if self.size.point_head:
            found["world_points"], found["world_points_conf"] = self.point_head(dense, height_px, width_px)
        return found

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return images.shape[-2] // self.size.patch_size, images.shape[-1] // self.size.patch_size

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass: per block, and per frame of a dense head."""
        return self.aggregator.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, Aggregator | PatchEmbed | CameraHead | DPTHead):
                module.gradient_checkpointing = on


class Aggregator(nn.Module):
    """Alternating attention: a frame block and a global block per layer, on patch tokens and five special tokens.

    The special tokens of a frame are the camera token and four registers.
    """

    def __init__(self, size: ModelSize):
        super().__init__()
        self.size, self.gradient_checkpointing = size, False
        self.first_patch = SPECIAL_TOKENS + size.num_register_tokens
        self.patch_embed = PatchEmbed(size)
        self.frame_blocks = nn.ModuleList(self.block() for _ in range(size.depth))
        self.global_blocks = nn.ModuleList(self.block() for _ in range(size.depth))
        # Entry 0 is for the reference frame, entry 1 for all others.
        self.camera_token = nearly_zero(1, 2, SPECIAL_TOKENS, size.embed_dim)
        self.register_token = nearly_zero(1, 2, size.num_register_tokens, size.embed_dim)

    def block(self) -> Block:
        size = self.size
        return Block(size.embed_dim, size.num_heads, size.mlp_ratio, size.layer_scale, qk_norm=size.qk_norm)

    def patch_tokens(self, images: Tensor) -> Tensor:
        """RGB in 0..1 (b, s, 3, h, w) -> normalised DINO patch tokens (b, s, n, c)."""
        mean, std = (images.new_tensor(numbers).view(3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
        return self.patch_embed(((images - mean) / std).flatten(0, 1)).unflatten(0, images.shape[:2])

    def start(self, patches: Tensor) -> Tensor:
        """Patch tokens (b, s, n, c) -> the token stream (b, s, camera + registers + n, c)."""
        special = torch.cat([self.camera_token, self.register_token], 2)  # (1, 2, 1 + registers, c)
        others = special[:, 1:].expand(-1, patches.shape[1] - 1, -1, -1)
        special = torch.cat([special[:, :1], others], 1).expand(patches.shape[0], -1, -1, -1)
        return torch.cat([special, patches.to(special.dtype)], 2)

    def run(self, tokens: Tensor, grid: tuple[int, int], first: int, last: int) -> tuple[Tensor, dict[int, Tensor]]:
        """Block pairs `first`..`last`-1 on the stream (b, s, tokens, c), and the layers among them that heads read.

        A layer is [after its frame block | after its global block], (b, s, tokens, 2c).
        """
        shape, layers, recompute = tokens.shape, {}, self.gradient_checkpointing
        one_frame, all_frames = self.turns(grid, shape[1], tokens.device)
        for index in range(first, last):
            tokens = recomputed(recompute, self.frame_blocks[index], tokens.reshape(-1, *shape[2:]), one_frame)
            frame = tokens = tokens.view(shape)
            tokens = recomputed(recompute, self.global_blocks[index], tokens.flatten(1, 2), all_frames).view(shape)
            if index in self.size.kept_layers:
                layers[index] = torch.cat([frame, tokens], -1)
        return tokens, layers

    def turns(self, grid: tuple[int, int], frames: int, device: torch.device) -> tuple[Rope, Rope]:
        """Rotary positions of the tokens of one frame and of all.

        Patches count from 1; special tokens stay at 0, unturned. Frames have no coordinate of their own, so their order
        does not matter beyond the first.
        """
        rows, columns = (torch.arange(1, count + 1, device=device) for count in grid)
        patches = torch.cartesian_prod(rows, columns)
        positions = torch.cat([patches.new_zeros(self.first_patch, 2), patches])
        one_frame = rope(positions, self.size.embed_dim // self.size.num_heads, self.size.rope_base)
        return one_frame, Rope(*(part.repeat(frames, 1, 1) for part in one_frame))


class PatchEmbed(nn.Module):
    """DINOv2 ViT with registers (Darcet et al. 2023, arXiv 2309.16588); only its normalised patch tokens are used."""

    def __init__(self, size: ModelSize):
        super().__init__()
        self.cells, self.gradient_checkpointing = size.img_size // size.patch_size, False
        self.cls_token = nearly_zero(1, 1, size.embed_dim)
        table = torch.empty(1, 1 + self.cells**2, size.embed_dim)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_tokens = nearly_zero(1, size.num_register_tokens, size.embed_dim)
        # In the checkpoint, never used.
        self.mask_token = nn.Parameter(torch.zeros(1, size.embed_dim), requires_grad=False)
        self.patch_embed = Patches(size)
        self.blocks = nn.ModuleList(
            Block(size.embed_dim, size.patch_embed_num_heads, size.patch_embed_mlp_ratio, layer_scale=1.0, eps=1e-6)
            for _ in range(size.patch_embed_depth)
        )
        self.norm = nn.LayerNorm(size.embed_dim, eps=1e-6)
        for linear in (module for module in self.blocks.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (f, 3, h, w) -> patch tokens (f, n, c)."""
        x = self.patch_embed.proj(images)
        cls_position, patch_positions = self.positions(x.shape[-2:])
        x = x.flatten(2).transpose(1, 2) + patch_positions
        first = torch.cat([self.cls_token + cls_position, self.register_tokens], 1).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = recomputed(self.gradient_checkpointing, block, x)
        return self.norm(x)[:, first.shape[1] :]

    def positions(self, grid: torch.Size) -> tuple[Tensor, Tensor]:
        """Positions of cls (1, 1, c) and of the patches (1, n, c), resampled with antialiasing for another grid."""
        cls_position, patches = self.pos_embed.split([1, self.cells**2], 1)
        if tuple(grid) == (self.cells, self.cells):
            return cls_position, patches
        table = patches.float().transpose(1, 2).unflatten(2, (self.cells, self.cells))
        table = F.interpolate(table, tuple(grid), mode="bicubic", antialias=True)
        return cls_position, table.flatten(2).transpose(1, 2).to(patches.dtype)


def nearly_zero(*shape: int) -> nn.Parameter:
    """Tokens as the published training starts them."""
    return nn.Parameter(nn.init.normal_(torch.empty(*shape), std=1e-6))


class Patches(nn.Module):
    """Only for the doubled name `patch_embed.patch_embed.proj` of the checkpoint."""

    def __init__(self, size: ModelSize):
        super().__init__()
        self.proj = nn.Conv2d(3, size.embed_dim, size.patch_size, size.patch_size)
