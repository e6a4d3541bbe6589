"""The whole chain: pictures -> image tokens -> scene tokens -> language model with map queries -> map vectors."""

from typing import Any

import torch
from torch import Tensor, nn

from lib.core.records import Batch
from lib.recipes.llava_map import causal
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.decoder import MapDecoder, MapQueries, SceneInteraction
from lib.recipes.llava_map.encoder import ImageEncoder
from lib.recipes.llava_map.qformer import Bridge, QFormer, scene_tokens
from lib.recipes.llava_map.sizes import ENCODERS, QFORMERS


def new_parts(config: Config, hidden: int) -> dict[str, nn.Module]:
    """What no published file holds; initialised under the caller's seed, or on the meta device to be counted."""
    model = config.model
    parts: dict[str, nn.Module] = {
        "bridge": Bridge(ENCODERS[model.encoder].width, QFORMERS[model.qformer], model.tokens_per_view, hidden),
        "queries": MapQueries(model.instances, model.points, hidden),
        "decoder": MapDecoder(
            model.instances,
            model.points,
            hidden,
            model.decoder_width,
            model.decoder_layers,
            model.decoder_heads,
            len(config.data.classes),
        ),
    }
    if model.scene_interaction:
        parts["interaction"] = SceneInteraction(hidden, model.decoder_width, model.decoder_layers)
    return parts


def new_qformer(config: Config) -> QFormer:
    return QFormer(QFORMERS[config.model.qformer])


def published_parts(config: Config) -> dict[str, nn.Module]:
    """What is loaded from published files beside the language model: image encoder and Q-Former."""
    return {"image": ImageEncoder(ENCODERS[config.model.encoder]), "qformer": new_qformer(config)}


def image_tokens(image: ImageEncoder, pictures: Tensor) -> Tensor:
    """(batch, 6, 3, h, w) uint8 or normalised float -> (batch, 6, tokens, width)."""
    tokens: Tensor = image(normalised(pictures).flatten(0, 1))
    return tokens.reshape(*pictures.shape[:2], *tokens.shape[1:])


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


def normalised(pictures: Tensor) -> Tensor:
    """(..., 3, h, w) of 0 to 255 -> float, as ImageNet's networks expect it."""
    mean, std = (torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (MEAN, STD))
    return (pictures.float() / 255 - mean) / std


def detect(modules: dict[str, Any], config: Config, batch: Batch) -> tuple[Tensor, Tensor]:
    """Class logits (layers, batch, instances, classes) and points in [0, 1] (layers, batch, instances, points, 2).

    batch: `pictures` (batch, 6, 3, h, w) or their cached tokens `frozen_features` (batch, 6, tokens, width),
    `intrinsics` (batch, 6, 3, 3) in pixels, `bev_from_cam` (batch, 6, 4, 4) in metres. KeyError without cameras: the
    image tokens would have no place in the world.
    """
    image, bridge = modules["image"], modules["bridge"]
    tokens = batch["frozen_features"] if "frozen_features" in batch else image_tokens(image, batch["pictures"])
    size_px = (config.data.height_px, config.data.width_px)
    rays = bridge.rays(
        batch["intrinsics"].flatten(0, 1),
        batch["bev_from_cam"].flatten(0, 1),
        image.grid(*size_px),
        size_px,
        config.data.half_extent_m,
    )
    scene = scene_tokens(modules["qformer"], bridge, tokens.flatten(0, 1).to(rays.dtype), rays, len(tokens))
    asked = modules["queries"]().expand(len(scene), -1, -1)
    features: Tensor = asked
    if "llm" in modules:
        causal.recompute(modules["llm"], config.train.gradient_checkpointing or config.model.llm != "demo")
        features = causal.through(modules["llm"], scene, modules["prompt"], asked, config.model.instances)
    if "interaction" in modules:
        features = modules["interaction"](features, scene)
    logits, points = modules["decoder"](features)
    return logits, points
