"""The frozen vision network whose features the latents are aligned with: transformers' DINOv2, timm's names of weights.

The published checkpoint holds it under timm's names. Two details decide whether the features are the published ones:
the position table is resampled with antialiasing once, at loading (transformers resamples without), and the input stays
in [-1, 1] (the authors' choice, which the published projection was trained with), unless `imagenet` is asked for.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.size import VisionSize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PATCH_PX = 14

# timm's name -> transformers' (5.x) name. `qkv` becomes three tensors.
RENAMED = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
)


class Vision(nn.Module):
    """image in [-1, 1] (n, 3, h, w) -> features (n, width, grid, grid), after the last norm, no class token."""

    def __init__(self, size: VisionSize):
        from transformers import Dinov2Config, Dinov2Model

        super().__init__()
        self.size = size
        self.model = Dinov2Model(
            Dinov2Config(
                hidden_size=size.width,
                num_hidden_layers=size.depth,
                num_attention_heads=size.heads,
                mlp_ratio=4,
                patch_size=PATCH_PX,
                image_size=PATCH_PX * size.grid,
                layer_norm_eps=1e-6,
                hidden_act="gelu",
                qkv_bias=True,
                layerscale_value=1.0,
                drop_path_rate=0.0,
            )
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        side = PATCH_PX * self.size.grid
        image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
        if self.size.imagenet:
            statistics = (torch.tensor(x, device=image.device) for x in (IMAGENET_MEAN, IMAGENET_STD))
            mean, std = (x.reshape(1, 3, 1, 1) for x in statistics)
            image = ((image + 1) / 2 - mean) / std
        tokens = self.model(image).last_hidden_state[:, 1:]
        return tokens.transpose(1, 2).unflatten(2, (self.size.grid, self.size.grid))


def timm_names(depth: int) -> list[str]:
    """The names of timm's `vit_*_patch14_dinov2`: 6 outside the blocks and 14 in each (342 for ViT-L)."""
    names = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"]
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for block in range(depth):
        names += [f"blocks.{block}.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        names += [f"blocks.{block}.ls1.gamma", f"blocks.{block}.ls2.gamma"]
    return names


def from_timm(state: dict[str, torch.Tensor], grid: int) -> dict[str, torch.Tensor]:
    """timm's tensors under the names of `Vision`, with the position table at grid x grid.

    Unknown names are kept, for a strict load to refuse.
    """
    out = {"model.embeddings.mask_token": torch.zeros_like(state["cls_token"][:, 0])} if "cls_token" in state else {}
    for name, tensor in state.items():
        if name == "pos_embed":
            tensor = resampled(tensor, grid)
        out |= zip(renamed(name), tensor.chunk(3) if ".qkv." in name else (tensor,), strict=True)
    return out


def to_timm(module: Vision) -> dict[str, torch.Tensor]:
    """The inverse, for the demo's shipped base; the position table keeps its grid."""
    state = module.state_dict()
    return {name: torch.cat([state[ours] for ours in renamed(name)]) for name in timm_names(module.size.depth)}


def renamed(name: str) -> list[str]:
    """The name, or the three names, of a timm tensor in `Vision`."""
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    name = "model." + name
    if ".attn.qkv." not in name:
        return [name]
    return [name.replace(".attn.qkv.", f".attention.{letter}_proj.") for letter in "qkv"]


def resampled(table: torch.Tensor, grid: int) -> torch.Tensor:
    """(1, 1 + s², width) -> (1, 1 + grid², width): bicubic with antialiasing, as timm does; the class token stays."""
    side = round((table.shape[1] - 1) ** 0.5)
    if side == grid:
        return table
    patches = table[:, 1:].transpose(1, 2).unflatten(2, (side, side)).float()
    patches = F.interpolate(patches, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2).to(table.dtype)], 1)


def from_transformers(folder: Path, grid: int) -> dict[str, torch.Tensor]:
    """The tensors of a DINOv2 in transformers' own format (facebook/dinov2-base), for `Vision`.

    Stop: the folder lacks tensors, or some are of another size.
    """
    from transformers import Dinov2Model

    loaded: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)  # a pair, which its types do not say
    model, report = loaded
    if report["missing_keys"] or report["mismatched_keys"]:
        lacks = f"{folder} lacks {len(report['missing_keys'])} tensors of a DINOv2"
        raise Stop(lacks, "python step2_download.py --force")
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    table = "model.embeddings.position_embeddings"
    return state | {table: resampled(state[table], grid)}
