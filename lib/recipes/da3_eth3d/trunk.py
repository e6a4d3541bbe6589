"""The backbone of Depth Anything 3: a plain DINOv2 whose later blocks look across the views in turn.

The blocks before `alt_start` see one picture each, so what they make of it can be kept. From there on a camera token
stands in the place of the class token.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.recipes.da3_eth3d.reference import FEWEST_VIEWS, chosen, reference_first, reordered
from lib.recipes.da3_eth3d.size import ModelSize
from lib.scenes.layers import Block, Rope, recomputed, rope

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POSITION_OFFSET = 0.1  # cells that the published training adds when it resamples its table; the sum is a scale factor
ROPE_BASE = 100.0


class Front(NamedTuple):
    """What the blocks before `alt_start` make of the pictures, each by itself."""

    tokens: Tensor  # (b, s, 1 + n, c)
    class_tokens: Tensor  # (b, s, c) before the last of these blocks, from which a reference view is chosen
    layers: dict[int, Tensor]  # those of them that the heads read, (b, s, 1 + n, 2c)


class Trunk(nn.Module):
    def __init__(self, size: ModelSize):
        super().__init__()
        self.size, self.gradient_checkpointing = size, False
        width = size.embed_dim
        self.cls_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=1e-6))
        # Entry 0 is for the reference view, entry 1 for all others.
        self.camera_token = nn.Parameter(torch.randn(1, 2, width))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + size.cells**2, width), std=0.02))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, size.patch_size, size.patch_size)})
        self.blocks = nn.ModuleList(
            Block(width, size.num_heads, size.mlp_ratio, 1.0, eps=1e-6, qk_norm=index >= size.qknorm_start)
            for index in range(size.depth)
        )
        self.norm = nn.LayerNorm(width)
        for linear in (module for module in self.blocks.modules() if isinstance(module, nn.Linear)):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    # ------------------------------------------------------------------------------------------ each picture by itself

    def front(self, images: Tensor) -> Front:
        """RGB in 0..1 (b, s, 3, h, w) -> what lies before the first block that knows of other views."""
        tokens, class_tokens, layers = self.patch_tokens(images), images, {}
        for index in range(self.size.alt_start):
            class_tokens = tokens[:, :, 0]
            tokens = self.in_view(index, tokens, self.turns(images)[0])
            if index in self.size.out_layers:
                layers[index] = torch.cat([tokens, tokens], -1)
        return Front(tokens, class_tokens, layers)

    def patch_tokens(self, images: Tensor) -> Tensor:
        """Class token and patch tokens with their positions, (b, s, 1 + n, c)."""
        mean, std = (images.new_tensor(numbers).view(3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
        x = self.patch_embed["proj"](((images - mean) / std).flatten(0, 1))
        patches = x.flatten(2).transpose(1, 2).to(self.cls_token.dtype)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1) + self.positions(x.shape[-2:])
        return tokens.unflatten(0, images.shape[:2])

    def positions(self, grid: torch.Size) -> Tensor:
        """Positions of the class token and of the patches, (1, 1 + n, c).

        Another grid than the table's own is read off it by a scale factor that is a tenth of a cell too large, without
        antialiasing, as the published weights were trained.
        """
        cells = self.size.cells
        if tuple(grid) == (cells, cells):
            return self.pos_embed
        of_class, of_patches = self.pos_embed.split([1, cells**2], 1)
        table = of_patches.float().transpose(1, 2).unflatten(2, (cells, cells))
        factors = [(count + POSITION_OFFSET) / cells for count in grid]
        with torch.autocast(table.device.type, enabled=False):
            table = F.interpolate(table, scale_factor=factors, mode="bicubic", align_corners=False, antialias=False)
        return torch.cat([of_class, table.flatten(2).transpose(1, 2).to(of_class.dtype)], 1)

    # ------------------------------------------------------------------------------------------ across the views

    def forward(
        self, images: Tensor, front: Front, camera_tokens: Tensor | None, reference: str
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """The blocks that the heads read, by index, (b, s, 1 + n, 2c) each, and the reference view (b,) if one is made.

        A layer is [after the last block inside the view | after this block], neither normalised. camera_tokens (b, s,
        c): of known cameras; there is then no reference view to choose.
        """
        views, tokens, order, index = images.shape[1], front.tokens, None, None
        if camera_tokens is None and views >= FEWEST_VIEWS:
            index = chosen(reference, front.class_tokens)
            order = reference_first(index, views)
            tokens = reordered(tokens, order)
        started = self.start(tokens, camera_tokens)
        _, late = self.across(images, started, self.size.alt_start, self.size.depth)
        if order is not None:
            late = {block: reordered(layer, order.argsort(-1)) for block, layer in late.items()}
        return front.layers | late, index

    def start(self, tokens: Tensor, camera_tokens: Tensor | None) -> Tensor:
        """The token stream (b, s, 1 + n, c) whose class tokens have made place for camera tokens (b, s, c).

        None: the learned ones, of which the first view has one of its own.
        """
        if camera_tokens is None:
            others = self.camera_token[:, 1:].expand(-1, tokens.shape[1] - 1, -1)
            camera_tokens = torch.cat([self.camera_token[:, :1], others], 1).expand(len(tokens), -1, -1)
        return torch.cat([camera_tokens[:, :, None].to(tokens.dtype), tokens[:, :, 1:]], 2)

    def across(self, images: Tensor, tokens: Tensor, first: int, last: int) -> tuple[Tensor, dict[int, Tensor]]:
        """Blocks `first`..`last`-1, none before `alt_start`, in turn inside each view and over the tokens of all.

        The stream after them, and the layers among them that heads read. They may go on at any block: one that looks
        across views comes right after one that does not, whose output the stream then is.
        """
        alone, layers, shape = tokens, {}, tokens.shape  # `alone`: after the last block inside the view
        one_view, all_views = self.turns(images)
        for index in range(first, last):
            if self.size.crosses(index):
                turn = all_views if index >= self.size.rope_start else None
                tokens = recomputed(self.gradient_checkpointing, self.blocks[index], tokens.flatten(1, 2), turn)
                tokens = tokens.view(shape)
            else:
                tokens = alone = self.in_view(index, tokens, one_view)
            if index in self.size.out_layers:
                layers[index] = torch.cat([alone, tokens], -1)
        return tokens, layers

    def in_view(self, index: int, tokens: Tensor, one_view: Rope) -> Tensor:
        turn = one_view if index >= self.size.rope_start else None
        return recomputed(self.gradient_checkpointing, self.blocks[index], tokens.flatten(0, 1), turn).view(
            tokens.shape
        )

    def turns(self, images: Tensor) -> tuple[Rope, Rope]:
        """Rotary positions of the tokens inside one view, and over all views.

        The camera token stays at 0, unturned. Patches count from 1 inside a view; across views each of them is at (1,
        1), so that they are turned against the camera tokens and not against one another.
        """
        size = self.size
        rows, columns = (
            torch.arange(1, side // size.patch_size + 1, device=images.device) for side in images.shape[-2:]
        )
        patches = torch.cartesian_prod(rows, columns)
        camera = patches.new_zeros(1, 2)
        one_view, everywhere = (
            rope(torch.cat([camera, places]), size.embed_dim // size.num_heads, ROPE_BASE)
            for places in (patches, torch.ones_like(patches))
        )
        return one_view, Rope(*(part.repeat(images.shape[1], 1, 1) for part in everywhere))
