"""What a VGGT costs, from its sizes alone: tensors, adapters, memory. No torch, so that `--plan` answers at once.

Memory is in bytes, everything else counts parameters. A test compares every name and shape with the network on the meta
device, and every count with PEFT's own injection.
"""

import re
from collections.abc import Iterable, Iterator
from math import prod

from lib.core.records import Block, Footprint, Pace, Plan
from lib.recipes.vggt_eth3d.sections import LICENCES, Settings
from lib.recipes.vggt_eth3d.size import POSE_NUMBERS, SPECIAL_TOKENS, ModelSize

MODULE = "vggt"  # the network's name among the recipe's modules
LINEARS = r"(attn\.(qkv|proj)|mlp\.(fc1|fc2))"
BLOCKS = r"aggregator\.(patch_embed\.blocks|frame_blocks|global_blocks)\.\d+"  # that cards can divide among them

# The published README's table: seconds of the backbone for so many frames, and of the dense head for each, on an H100.
INFERENCE_SECONDS = {1: 0.04, 2: 0.05, 4: 0.07, 8: 0.11, 10: 0.14, 20: 0.31, 50: 1.04, 100: 3.12, 200: 8.75}
HEAD_SECONDS = 0.03

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def tensors(size: ModelSize) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors, as the published checkpoint has them."""
    found = dict(aggregator(size))
    if size.camera_head:
        found |= dict(camera_head(size))
    for name, built, values in (("depth_head", size.depth_head, 1), ("point_head", size.point_head, 3)):
        if built:
            found |= dict(dense_head(size, name, values))
    return found


def layer(name: str, *weight: int, bias: int | None = None) -> Shapes:
    """A layer's weight and its bias, which is as long as the weight's first side unless said; 0 = none."""
    yield f"{name}.weight", weight
    if bias != 0:
        yield f"{name}.bias", (bias or weight[0],)


def block(name: str, width: int, mlp_ratio: float, head_dim: int = 0) -> Shapes:
    """A transformer block; `head_dim` where queries and keys are normalised."""
    hidden = int(width * mlp_ratio)
    for part in ("norm1", "norm2"):
        yield from layer(f"{name}.{part}", width)
    for part in ("q_norm", "k_norm") if head_dim else ():
        yield from layer(f"{name}.attn.{part}", head_dim)
    yield from layer(f"{name}.attn.qkv", 3 * width, width)
    yield from layer(f"{name}.attn.proj", width, width)
    yield from layer(f"{name}.mlp.fc1", hidden, width)
    yield from layer(f"{name}.mlp.fc2", width, hidden)
    for part in ("ls1", "ls2"):
        yield f"{name}.{part}.gamma", (width,)


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


def dense_head(size: ModelSize, name: str, values: int) -> Shapes:
    """The DPT head under the name `name`, for maps of `values` channels and a confidence."""
    channels, features, scratch = size.dpt_out_channels, size.dpt_features, f"{name}.scratch"
    yield from layer(f"{name}.norm", 2 * size.embed_dim)
    for i, count in enumerate(channels):
        yield from layer(f"{name}.projects.{i}", count, 2 * size.embed_dim, 1, 1)
        yield from layer(f"{scratch}.layer{i + 1}_rn", features, count, 3, 3, bias=0)
        yield from layer(f"{scratch}.refinenet{i + 1}.out_conv", features, features, 1, 1)
        for unit in ("resConfUnit1", "resConfUnit2") if i < 3 else ("resConfUnit2",):
            for conv in ("conv1", "conv2"):
                yield from layer(f"{scratch}.refinenet{i + 1}.{unit}.{conv}", features, features, 3, 3)
    for i, side in ((0, 4), (1, 2), (3, 3)):
        yield from layer(f"{name}.resize_layers.{i}", channels[i], channels[i], side, side)
    yield from layer(f"{scratch}.output_conv1", features // 2, features, 3, 3)
    yield from layer(f"{scratch}.output_conv2.0", size.dpt_output_hidden, features // 2, 3, 3)
    yield from layer(f"{scratch}.output_conv2.2", values + 1, size.dpt_output_hidden, 1, 1)


def lora_targets(config: Settings) -> tuple[str, ...]:
    """Regexes of the adapted layers: the strategy's, relative to the depth, or the ones that the settings name."""
    if config.lora.targets:
        return tuple(config.lora.targets)
    depth, linears = config.model.depth, chosen(config, "qkv", "proj", "fc1", "fc2")
    head = rf"depth_head\.{chosen(config, 'projects', 'scratch')}\..*"  # its transposed convolutions: no LoRA in PEFT
    indices = ["|".join(map(str, range(first, depth))) for first in (depth // 2, 0)]
    second_half, all_blocks = (
        rf"aggregator\.(frame|global)_blocks\.({some})\.(attn|mlp)\.{linears}" for some in indices
    )
    trunk = rf"camera_head\.trunk\.\d+\.(attn|mlp)\.{linears}"
    found = {"a": (head,), "b": (head, second_half), "c": (head, all_blocks, trunk), "head_full": ()}
    return tuple(target for target in found[config.lora.strategy] if r"\.()" not in target)


def chosen(config: Settings, *layers: str) -> str:
    """A regex of those of the layers that lora.layers names; "()" for none of them."""
    return f"({'|'.join(layer for layer in layers if layer in config.lora.layers)})"


def full_tensors(config: Settings) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>" of what is trained without adapters."""
    head = (rf"{MODULE}\.depth_head\..*",) if config.lora.strategy == "head_full" and not config.lora.targets else ()
    return (*head, *config.lora.full)


def adapted(shapes: dict[str, tuple[int, ...]], targets: Iterable[str]) -> list[str]:
    """The weights of the linear and convolution layers that a target matches by its whole name."""
    weights = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 1]
    layers = [name.removesuffix(".weight") for name in weights if not re.search(r"resize_layers\.[01]\.weight$", name)]
    return [f"{name}.weight" for name in layers if any(re.fullmatch(target, name) for target in targets)]


def fully_trained(shapes: dict[str, tuple[int, ...]], full: Iterable[str]) -> list[str]:
    """The tensors that a regex over "<module>.<tensor>" matches by its whole name."""
    return [name for name in shapes if any(re.fullmatch(pattern, f"{MODULE}.{name}") for pattern in full)]


def adapter_parameters(config: Settings) -> int:
    """Parameters of the adapters: one of rank r on a weight (out, in, ...) has r (in ... + out)."""
    shapes = tensors(config.model)
    sides = [prod(shapes[name][1:]) + shapes[name][0] for name in adapted(shapes, lora_targets(config))]
    return config.lora.rank * sum(sides)


def trainable(config: Settings) -> int:
    """Parameters that are trained: the adapters and what is trained fully."""
    shapes = tensors(config.model)
    return adapter_parameters(config) + sum(prod(shapes[name]) for name in fully_trained(shapes, full_tensors(config)))


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
    trained = adapted(shapes, lora_targets(config)) + fully_trained(shapes, full_tensors(config))
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
    kept = blocks_bytes(config)
    return Plan(parameters, trainable(config), footprint(config), lighter=fewer, pace=pace(config), blocks_bytes=kept)


def blocks_bytes(config: Settings) -> int:
    """Of what `VGGT.front` of all frozen blocks makes of an epoch of samples, in fp32; 0 where it may not be kept."""
    size, blocks = config.model, frozen_blocks(config) or 0
    if not blocks or config.data.colour_jitter or config.data.scale_jitter:
        return 0
    patches = (size.image_height_px // size.patch_size) * (size.image_width_px // size.patch_size)
    tokens = sum(config.data.frames) / 2 * (patches + SPECIAL_TOKENS + size.num_register_tokens)
    kept = [index for index in size.kept_layers if index < blocks]
    width = (2 * len(kept) + (blocks - 1 not in kept)) * size.embed_dim
    return int(config.data.samples_per_epoch * tokens * width * 4)


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
    """What the largest sample needs. An estimate: kernels' own workspace is not in it."""
    shapes, held = tensors(config.model), held_bytes(config)
    of_blocks, full = tensors_of_blocks(shapes), set(fully_trained(shapes, full_tensors(config)))
    inside = {name for names in of_blocks for name in names}
    blocks = [
        Block(
            whole=sum(held[name] for name in names),
            frozen=sum(held[name] for name in names if name not in full),
            trained=sum(prod(shapes[name]) for name in names if name in full),
        )
        for names in of_blocks
    ]
    return Footprint(
        frozen_rest=sum(held[name] for name in shapes.keys() - inside - full),
        trained=trainable(config) - sum(block.trained for block in blocks),
        activations=activation_bytes(config),
        blocks=tuple(blocks),
        averaged=bool(config.train.ema),
    )


def tensors_of_blocks(shapes: Iterable[str]) -> list[list[str]]:
    """The names of each block's tensors."""
    found: dict[str, list[str]] = {}
    for name in shapes:
        if block_name := re.match(BLOCKS, name):
            found.setdefault(block_name[0], []).append(name)
    return list(found.values())


def activation_bytes(config: Settings) -> dict[str, int]:
    size = config.model
    frames = config.train.micro_batch * config.data.frames[1]
    number = 4 if config.train.precision == "fp32" else 2  # bytes of a number inside linear layers
    patches = (size.image_height_px // size.patch_size) * (size.image_width_px // size.patch_size)
    tokens = frames * (patches + SPECIAL_TOKENS + size.num_register_tokens)
    blocks = 2 * (size.depth - (frozen_blocks(config) or 0))
    one_block, one_frame = block_bytes(config, tokens, number), dense_frame_bytes(config, patches)
    between_blocks = 4 * tokens * size.embed_dim
    recompute = config.train.gradient_checkpointing
    return {
        "layers that heads read": len(size.kept_layers) * 2 * between_blocks,
        "aggregator": blocks * between_blocks + one_block if recompute else max(blocks, 1) * one_block,
        "dense head": one_frame * (1 if recompute else frames),
    }


def block_bytes(config: Settings, tokens: int, number: int) -> int:
    """What one adapted block keeps for the backward pass of so many tokens; `number` is the bytes of one number.

    fp32: the stream before both norms. Low precision: qkv, q and k after RoPE, the attention's output, the MLP's hidden
    layer before GELU, and the four adapters' inputs, each with a byte of dropout mask; q and k before their norm are
    kept in fp32 too. Low-precision copies of frozen weights that are held in fp32 stay as long as the block's graph.
    """
    width, ratio = config.model.embed_dim, config.model.mlp_ratio
    stream, attention, hidden = 2 * 4, (3 + 2 + 1) * number + (2 * 4 if number < 4 else 0), ratio * number
    inputs = (3 + ratio) * (number + bool(config.lora.dropout))
    copies = number * (4 + 2 * ratio) * width**2 if number < 4 and config.model.base_precision == "fp32" else 0
    return int(tokens * width * (stream + attention + hidden + inputs) + copies)


def dense_frame_bytes(config: Settings, patches: int) -> int:
    """What the depth head keeps for one frame of so many patches, all in fp32: the input of each convolution, and what
    an adapter's dropout makes of it.
    """
    size = config.model
    channels, features, hidden = size.dpt_out_channels, size.dpt_features, size.dpt_output_hidden
    pixels = size.image_height_px * size.image_width_px
    # At full size, and at twice the finest grid.
    inputs: float = pixels * (features // 2 + hidden) + 64 * patches * 2 * features
    for cells, convolutions, count in zip((16, 4, 1, 1 / 4), (5, 5, 5, 2), channels, strict=True):
        inputs += cells * patches * (convolutions * features + count)
    inputs += 4 * patches * 2 * size.embed_dim
    once = 4 * patches * (4 * 2 * size.embed_dim + sum(channels)) + 4 * pixels * 4
    dropped = 4 + 1 if config.lora.dropout and lora_targets(config) else 0  # the values and a byte of mask
    return int(inputs * (4 + dropped) + once)
