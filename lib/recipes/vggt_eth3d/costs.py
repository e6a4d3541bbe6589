"""What a VGGT costs, from its sizes alone: tensors, adapters, memory. No torch, so that `--plan` answers at once.

Memory is in bytes, everything else counts parameters. A test compares every name and shape with the network on the meta
device, and every count with PEFT's own injection.
"""

import re
from dataclasses import replace
from math import prod

from lib.core.records import Footprint, Pace, Plan
from lib.recipes.vggt_eth3d.sections import LICENCES, Settings
from lib.recipes.vggt_eth3d.size import POSE_NUMBERS, SPECIAL_TOKENS, ModelSize
from lib.scenes import memory
from lib.scenes import shapes as shapes_of
from lib.scenes.shapes import Shapes, adapted, block, chosen, dense_head, fully_trained, layer

MODULE = "vggt"  # the network's name among the recipe's modules
LINEARS = r"(attn\.(qkv|proj)|mlp\.(fc1|fc2))"
BLOCKS = r"aggregator\.(patch_embed\.blocks|frame_blocks|global_blocks)\.\d+"  # that cards can divide among them

# The published README's table: seconds of the backbone for so many frames, and of the dense head for each, on an H100.
INFERENCE_SECONDS = {1: 0.04, 2: 0.05, 4: 0.07, 8: 0.11, 10: 0.14, 20: 0.31, 50: 1.04, 100: 3.12, 200: 8.75}
HEAD_SECONDS = 0.03


def tensors(size: ModelSize) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors, as the published checkpoint has them."""
    found = dict(aggregator(size))
    if size.camera_head:
        found |= dict(camera_head(size))
    for name, built, values in (("depth_head", size.depth_head, 1), ("point_head", size.point_head, 3)):
        if built:
            found |= dict(dense_head(size, name, values))
    return found


def aggregator(size: ModelSize) -> Shapes:
    width, patch = size.embed_dim, "aggregator.patch_embed"
    yield "aggregator.camera_token", (1, 2, SPECIAL_TOKENS, width)
    yield "aggregator.register_token", (1, 2, size.num_register_tokens, width)
    yield f"{patch}.cls_token", (1, 1, width)
    yield f"{patch}.pos_embed", (1, 1 + (size.img_size // size.patch_size) ** 2, width)
    yield f"{patch}.register_tokens", (1, size.num_register_tokens, width)
    yield f"{patch}.mask_token", (1, width)
    yield from layer(f"{patch}.patch_embed.proj", width, 3, size.patch_size, size.patch_size)
    yield from layer(f"{patch}.norm", width)
    for i in range(size.patch_embed_depth):
        yield from block(f"{patch}.blocks.{i}", width, size.patch_embed_mlp_ratio)
    head_dim = width // size.num_heads if size.qk_norm else 0
    for kind in ("frame", "global"):
        for i in range(size.depth):
            yield from block(f"aggregator.{kind}_blocks.{i}", width, size.mlp_ratio, head_dim)


def camera_head(size: ModelSize) -> Shapes:
    width = 2 * size.embed_dim
    yield "camera_head.empty_pose_tokens", (1, 1, POSE_NUMBERS)
    yield from layer("camera_head.token_norm", width)
    yield from layer("camera_head.trunk_norm", width)
    yield from layer("camera_head.embed_pose", width, POSE_NUMBERS)
    yield from layer("camera_head.poseLN_modulation.1", 3 * width, width)
    yield from layer("camera_head.pose_branch.fc1", width // 2, width)
    yield from layer("camera_head.pose_branch.fc2", POSE_NUMBERS, width // 2)
    for i in range(size.camera_trunk_depth):
        yield from block(f"camera_head.trunk.{i}", width, size.camera_mlp_ratio)


def lora_targets(config: Settings) -> tuple[str, ...]:
    """Regexes of the adapted layers: the strategy's, relative to the depth, or the ones that the settings name."""
    if config.lora.targets:
        return tuple(config.lora.targets)
    depth, linears = config.model.depth, chosen(config.lora, "qkv", "proj", "fc1", "fc2")
    head = (
        rf"depth_head\.{chosen(config.lora, 'projects', 'scratch')}\..*"  # its transposed convolutions: no LoRA in PEFT
    )
    indices = ["|".join(map(str, range(first, depth))) for first in (depth // 2, 0)]
    second_half, all_blocks = (
        rf"aggregator\.(frame|global)_blocks\.({some})\.(attn|mlp)\.{linears}" for some in indices
    )
    trunk = rf"camera_head\.trunk\.\d+\.(attn|mlp)\.{linears}"
    found = {"a": (head,), "b": (head, second_half), "c": (head, all_blocks, trunk), "head_full": ()}
    return tuple(target for target in found[config.lora.strategy] if r"\.()" not in target)


def full_tensors(config: Settings) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>" of what is trained without adapters."""
    head = (rf"{MODULE}\.depth_head\..*",) if config.lora.strategy == "head_full" and not config.lora.targets else ()
    return (*head, *config.lora.full)


def adapter_parameters(config: Settings) -> int:
    return shapes_of.adapter_parameters(tensors(config.model), lora_targets(config), config.lora.rank)


def trainable(config: Settings) -> int:
    """Parameters that are trained: the adapters and what is trained fully."""
    shapes = tensors(config.model)
    full = fully_trained(shapes, full_tensors(config), MODULE)
    return adapter_parameters(config) + sum(prod(shapes[name]) for name in full)


def in_autocast(layer: str) -> bool:
    """Whether a layer is one of the aggregator's linear layers, which model.base_precision is about."""
    return re.fullmatch(rf"aggregator\..*\.{LINEARS}", layer) is not None


def held_bytes(config: Settings) -> dict[str, int]:
    """Bytes of each tensor as `build` holds it: fp32, or bf16 where model.base_precision says so."""
    short = 2 if config.model.base_precision == "bf16" else 4
    return {
        name: prod(shape) * (short if in_autocast(name.rpartition(".")[0]) else 4)
        for name, shape in tensors(config.model).items()
    }


def frozen_blocks(config: Settings) -> int | None:
    """How many of the aggregator's first blocks are frozen with all that lies before them; None if the patch embed
    itself is trained.
    """
    shapes = tensors(config.model)
    trained = adapted(shapes, lora_targets(config)) + fully_trained(shapes, full_tensors(config), MODULE)
    if any(name.startswith("aggregator.patch_embed.") for name in trained):
        return None
    if any(name in ("aggregator.camera_token", "aggregator.register_token") for name in trained):
        return 0
    matches = [re.match(r"aggregator\.(?:frame|global)_blocks\.(\d+)\.", name) for name in trained]
    return min((int(found[1]) for found in matches if found), default=config.model.depth)


def frozen_front(blocks: int) -> str:
    """A regex over "<module>.<tensor>" of all that `VGGT.front(images, blocks)` runs through."""
    parts = [r"patch_embed\..*"]
    if blocks:
        indices = "|".join(map(str, range(blocks)))
        parts += ["camera_token", "register_token", rf"(frame|global)_blocks\.({indices})\..*"]
    return rf"{MODULE}\.aggregator\.({'|'.join(parts)})"


def plan(config: Settings) -> Plan:
    """Parameters of the whole network, of what is trained, and the estimated peak on the device in bytes."""
    parameters = sum(prod(shape) for shape in tensors(config.model).values())
    fewest, most = config.data.frames
    fewer = {"data.frames": [min(fewest, most // 2), most // 2]} if most > 1 else {}
    size, blocks = config.model, frozen_blocks(config) or 0
    special = SPECIAL_TOKENS + size.num_register_tokens
    kept = memory.epoch_bytes(config, blocks, size.kept_layers, special, size.embed_dim)
    return Plan(parameters, trainable(config), footprint(config), lighter=fewer, pace=pace(config), blocks_bytes=kept)


def pace(config: Settings) -> Pace | None:
    """Three times the published inference time of a sample's frames (forward, and twice that backward), four times with
    checkpointing. None for weights of one's own and for more frames: nobody measured them.
    """
    frames, counts = sum(config.data.frames) / 2, sorted(INFERENCE_SECONDS)
    if config.model.weights not in LICENCES or frames > counts[-1]:
        return None
    below, above = max(n for n in counts if n <= frames), min(n for n in counts if n >= frames)
    share = (frames - below) / max(1, above - below)
    backbone = (1 - share) * INFERENCE_SECONDS[below] + share * INFERENCE_SECONDS[above]
    seconds = (3 + config.train.gradient_checkpointing) * (backbone + HEAD_SECONDS * frames)
    source = "three times VGGT's published inference time at 336 x 518 px with FlashAttention 3"
    return Pace(1 / seconds, "H100", source, config.train.epochs, config.data.samples_per_epoch)


def footprint(config: Settings) -> Footprint:
    """What the largest sample needs."""
    shapes = tensors(config.model)
    full = fully_trained(shapes, full_tensors(config), MODULE)
    found = memory.footprint(shapes, held_bytes(config), full, trainable(config), BLOCKS, activation_bytes(config))
    return replace(found, averaged=bool(config.train.ema))


def activation_bytes(config: Settings) -> dict[str, int]:
    size = config.model
    frames = config.train.micro_batch * config.data.frames[1]
    number = 4 if config.train.precision == "fp32" else 2  # bytes of a number inside linear layers
    patches = (size.image_height_px // size.patch_size) * (size.image_width_px // size.patch_size)
    tokens = frames * (patches + SPECIAL_TOKENS + size.num_register_tokens)
    blocks = 2 * (size.depth - (frozen_blocks(config) or 0))
    copies = size.base_precision == "fp32"
    one_block = memory.block_bytes(size.embed_dim, size.mlp_ratio, tokens, number, config.lora.dropout, copies)
    pixels, dropout = size.image_height_px * size.image_width_px, config.lora.dropout and lora_targets(config)
    one_frame = memory.dense_frame_bytes(size, pixels, bool(dropout))
    between_blocks = 4 * tokens * size.embed_dim
    recompute = config.train.gradient_checkpointing
    return {
        "layers that heads read": len(size.kept_layers) * 2 * between_blocks,
        "aggregator": blocks * between_blocks + one_block if recompute else max(blocks, 1) * one_block,
        "dense head": one_frame * (1 if recompute else frames),
    }
