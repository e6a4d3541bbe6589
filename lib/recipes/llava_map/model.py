"""The whole chain: pictures -> image tokens -> scene tokens -> language model with map queries -> map vectors."""

from typing import Any

import torch
from torch import Tensor, nn

from lib.core.errors import FAILED, Stop
from lib.core.records import Batch
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.decoder import MapDecoder, MapQueries, SceneInteraction
from lib.recipes.llava_map.encoder import ImageEncoder
from lib.recipes.llava_map.layout import Layout
from lib.recipes.llava_map.qformer import Bridge, QFormer, scene_tokens
from lib.recipes.llava_map.sizes import ENCODERS, QFORMERS, LlamaSize


def new_parts(config: Config, hidden: int) -> dict[str, nn.Module]:
    """What no published file holds; initialised under the caller's seed, or on the meta device to be counted."""
    model = config.model
    parts: dict[str, nn.Module] = {
        "bridge": Bridge(ENCODERS[model.encoder].width, QFORMERS[model.qformer], model.tokens_per_view, hidden),
        "queries": MapQueries(model.instances, model.points, hidden),
        "decoder": MapDecoder(
            model.instances, model.points, hidden, model.decoder_width, model.decoder_layers, model.decoder_heads
        ),
    }
    if model.scene_interaction:
        parts["interaction"] = SceneInteraction(hidden, model.decoder_width, model.decoder_layers)
    return parts


def new_qformer(config: Config) -> QFormer:
    return QFormer(QFORMERS[config.model.qformer])


def published_parts(config: Config, llm: LlamaSize | None) -> dict[str, nn.Module]:
    """What is loaded from published files: image encoder, Q-Former, language model."""
    parts: dict[str, nn.Module] = {
        "image": ImageEncoder(ENCODERS[config.model.encoder]),
        "qformer": new_qformer(config),
    }
    if llm is not None:
        parts["llm"] = bare_llama(llm)
    return parts


def bare_llama(size: LlamaSize) -> nn.Module:
    """A Llama without its head: 32 000 logits for 2 000 tokens would cost 0.4 GB a sample for nothing."""
    from transformers import LlamaConfig, LlamaModel

    llama = LlamaConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        intermediate_size=size.mlp,
        vocab_size=size.vocabulary,
        rms_norm_eps=1e-5,
        use_cache=False,
    )
    llama._attn_implementation = "sdpa"  # takes the bool mask as it is; eager would add it to the scores
    return LlamaModel(llama)


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
        batch["intrinsics"].flatten(0, 1), batch["bev_from_cam"].flatten(0, 1), image.grid(*size_px), size_px
    )
    scene = scene_tokens(modules["qformer"], bridge, tokens.flatten(0, 1).to(rays.dtype), rays, len(tokens))
    asked = modules["queries"]().expand(len(scene), -1, -1)
    features: Tensor = asked
    if "llm" in modules:
        recompute(modules["llm"], config.train.gradient_checkpointing or config.model.llm != "demo")
        features = through_llm(modules["llm"], scene, modules["prompt"].ids, asked, config.model.instances)
    if "interaction" in modules:
        features = modules["interaction"](features, scene)
    logits, points = modules["decoder"](features)
    return logits, points


def through_llm(llm: Any, scene: Tensor, prompt: Tensor, asked: Tensor, instances: int) -> Tensor:
    """The language model's last states at the map queries. Its weights may be frozen, but gradients pass through it.

    scene (batch, scene tokens, hidden), prompt (words,) ids, asked (batch, map tokens, hidden) -> like asked.
    """
    words = llm.get_input_embeddings()(prompt).expand(len(scene), -1, -1)
    first, rest = words[:, :1], words[:, 1:]  # the beginning-of-sequence token comes before the scene
    sequence = torch.cat([first.to(scene.dtype), scene, rest.to(scene.dtype), asked], dim=1)
    layout = Layout(sequence.shape[1] - asked.shape[1], instances, asked.shape[1] // instances - 1)
    return masked_states(llm, sequence.to(words.dtype), layout)[:, layout.prefix :]


def recompute(llm: Any, wanted: bool) -> None:
    """Switches on gradient checkpointing: 0.5 GB a sample instead of 9 for Vicuna-7B.

    transformers recomputes in training mode only, which a frozen model never is in; a Llama has no dropout that this
    would wake.
    """
    if wanted and torch.is_grad_enabled() and not llm.layers[0].gradient_checkpointing:
        llm.gradient_checkpointing_enable({"use_reentrant": False})
    if llm.layers[0].gradient_checkpointing:
        llm.train(torch.is_grad_enabled())


def masked_states(llm: Any, sequence: Tensor, layout: Layout) -> Tensor:
    """Last hidden states (batch, length, hidden), each token seeing what the layout allows."""
    batch = len(sequence)
    mask = layout.allowed().to(sequence.device)[None, None].expand(batch, -1, -1, -1)
    places = layout.position_ids().to(sequence.device)[None].expand(batch, -1)
    output = llm(inputs_embeds=sequence, attention_mask=mask, position_ids=places, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


@torch.no_grad()
def refuse_leaking_mask(llm: Any, hidden: int) -> None:
    """Changes one token after another: in one layer exactly the rows may move that are allowed to see it; else Stop.

    Whether a mask is obeyed depends on the version of transformers and on the kind of attention (0/1 floats and eager
    attention let everything through without a word), so it is tried and not believed.
    """
    layout = Layout(prefix=3, instances=2, points=2)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, layout.length, hidden, generator=generator).to(llm.get_input_embeddings().weight)
    changed = torch.where(torch.eye(layout.length, dtype=torch.bool, device=rows.device)[..., None], rows[1], rows[0])
    layers, llm.layers = llm.layers, llm.layers[:1]  # through a second layer news travels on
    states = masked_states(llm, torch.cat([rows[:1], changed]), layout)
    llm.layers = layers
    moved = (states[1:] != states[:1]).any(-1).T  # (row, changed token)
    if not torch.equal(moved.cpu(), layout.allowed()):
        raise Stop(
            "the language model does not obey the attention mask: a token saw what it must not",
            "install the versions of constraints.txt",
            FAILED,
        )
