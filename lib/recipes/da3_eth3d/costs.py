"""What a Depth Anything 3 costs, from its sizes alone: tensors, adapters, memory. No torch."""

import re
from dataclasses import replace
from math import prod

from lib.core.records import Footprint, Plan
from lib.recipes.da3_eth3d.sections import Settings
from lib.recipes.da3_eth3d.size import POSE_NUMBERS, RAY_LEVELS, TRUNK, ModelSize
from lib.scenes import memory
from lib.scenes import shapes as common
from lib.scenes.shapes import Shapes, adapted, block, dense_head, fully_trained, layer

MODULE = "da3"  # the network's name among the recipe's modules
BLOCKS = r"backbone\.pretrained\.blocks\.\d+"  # that cards can divide among them
RAY_CHAIN = r"head\.scratch\.(refinenet\d_aux|output_conv[12]_aux)\."
DEPTH_SIDE = r"head\.(norm|projects|resize_layers|scratch\.(layer\d_rn|refinenet\d|output_conv\d))\."


def tensors(size: ModelSize) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors, as the published files have them, without "model."."""
    head = dense_head(size, "head", 1)
    return dict([*trunk(size), *head, *rays(size), *camera_decoder(size), *camera_encoder(size)])


def trunk(size: ModelSize) -> Shapes:
    width = size.embed_dim
    yield f"{TRUNK}cls_token", (1, 1, width)
    yield f"{TRUNK}camera_token", (1, 2, width)
    yield f"{TRUNK}pos_embed", (1, 1 + size.cells**2, width)
    yield from layer(f"{TRUNK}patch_embed.proj", width, 3, size.patch_size, size.patch_size)
    for index in range(size.depth):
        head_dim = width // size.num_heads if index >= size.qknorm_start else 0
        yield from block(f"{TRUNK}blocks.{index}", width, size.mlp_ratio, head_dim)
    yield from layer(f"{TRUNK}norm", width)


def rays(size: ModelSize) -> Shapes:
    """The ray chain, whose four levels share one norm; the last level is the one in use."""
    features, scratch = size.dpt_features, "head.scratch"
    for index in range(1, 5):
        chain = f"{scratch}.refinenet{index}_aux"
        yield from layer(f"{chain}.out_conv", features, features, 1, 1)
        for unit in ("resConfUnit1", "resConfUnit2") if index < 4 else ("resConfUnit2",):
            for conv in ("conv1", "conv2"):
                yield from layer(f"{chain}.{unit}.{conv}", features, features, 3, 3)
    for level in range(RAY_LEVELS):
        for index in range(5):
            wide, narrow = (features, features // 2) if index % 2 == 0 else (features // 2, features)
            yield from layer(f"{scratch}.output_conv1_aux.{level}.{index}", narrow, wide, 3, 3)
        out = f"{scratch}.output_conv2_aux.{level}"
        yield from layer(f"{out}.0", size.dpt_output_hidden, features // 2, 3, 3)
        yield from layer(f"{out}.5", 7, size.dpt_output_hidden, 1, 1)
    yield from layer(f"{scratch}.output_conv2_aux.0.2", size.dpt_output_hidden)


def camera_decoder(size: ModelSize) -> Shapes:
    width = 2 * size.embed_dim
    for index in (0, 2):
        yield from layer(f"cam_dec.backbone.{index}", width, width)
    for name, numbers in (("fc_t", 3), ("fc_qvec", 4), ("fc_fov.0", 2)):
        yield from layer(f"cam_dec.{name}", numbers, width)


def camera_encoder(size: ModelSize) -> Shapes:
    width = size.embed_dim
    yield from layer("cam_enc.pose_branch.fc1", width // 2, POSE_NUMBERS)
    yield from layer("cam_enc.pose_branch.fc2", width, width // 2)
    for norm in ("token_norm", "trunk_norm"):
        yield from layer(f"cam_enc.{norm}", width)
    for index in range(size.camera_encoder_depth):
        yield from block(f"cam_enc.trunk.{index}", width, 4)


# ---------------------------------------------------------------------------------------------- what is trained


def lora_targets(config: Settings) -> tuple[str, ...]:
    """Regexes of the adapted layers: the strategy's, relative to the depth, or the ones that the settings name."""
    lora, depth = config.lora, config.model.depth
    if lora.targets:
        return tuple(lora.targets)
    found = head_targets(config) if lora.strategy != "head_full" else []
    first = {"b": depth // 2, "c": 0}.get(lora.strategy, depth)
    if first < depth:
        indices = "|".join(str(index) for index in range(first, depth))
        linears = common.chosen(lora, "qkv", "proj", "fc1", "fc2")
        found.append(rf"backbone\.pretrained\.blocks\.({indices})\.(attn|mlp)\.{linears}")
    if lora.strategy == "c":  # an MLP of two layers
        found += [rf"cam_dec\.backbone\.({place})" for place, name in ((0, "fc1"), (2, "fc2")) if name in lora.layers]
    return tuple(target for target in found if r"\.()" not in target)


def head_targets(config: Settings) -> list[str]:
    """Its transposed convolutions are not among them, because PEFT has no LoRA for these."""
    found = [r"head\.projects\.\d"] if "projects" in config.lora.layers else []
    if "scratch" in config.lora.layers:
        found.append(r"head\.scratch\.(layer\d_rn|refinenet\d\..*|output_conv1|output_conv2\.\d)")
    last = RAY_LEVELS - 1
    if config.lora.ray:
        found.append(rf"head\.scratch\.(refinenet\d_aux\..*|output_conv[12]_aux\.{last}\..*)")
    return found


def full_tensors(config: Settings) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>" of what is trained without adapters."""
    whole = config.lora.strategy == "head_full" and not config.lora.targets
    return (*([rf"{MODULE}\.{DEPTH_SIDE}.*"] if whole else []), *config.lora.full)


def trained_names(config: Settings) -> list[str]:
    """The tensors that adapters or the training itself change."""
    shapes = tensors(config.model)
    return adapted(shapes, lora_targets(config)) + fully_trained(shapes, full_tensors(config), MODULE)


def adapter_parameters(config: Settings) -> int:
    return common.adapter_parameters(tensors(config.model), lora_targets(config), config.lora.rank)


def trainable(config: Settings) -> int:
    """Parameters that are trained: the adapters and what is trained fully."""
    shapes = tensors(config.model)
    whole = fully_trained(shapes, full_tensors(config), MODULE)
    return sum((prod(shapes[name]) for name in whole), adapter_parameters(config))


def is_of_rays(name: str) -> bool:
    return re.match(RAY_CHAIN, name) is not None


def is_dead(name: str) -> bool:
    """Whether a tensor is of a level of the ray chain that no output is made of; the shared norm lies under level 0."""
    found = re.match(r"head\.scratch\.output_conv[12]_aux\.(\d)\.", name)
    shared = name.startswith("head.scratch.output_conv2_aux.0.2.")
    return found is not None and int(found[1]) < RAY_LEVELS - 1 and not shared


def has_frozen_front(config: Settings) -> bool:
    """Whether nothing before the first block that sees several views is trained: then it can be kept per picture."""
    size, front = config.model, frozen_front(config, config.model.alt_start)
    read = any(index < size.alt_start for index in size.out_layers)  # its front is more than one tensor
    return not read and not any(re.fullmatch(front, f"{MODULE}.{name}") for name in trained_names(config))


def frozen_blocks(config: Settings) -> int:
    """How many of the first blocks are frozen with all that lies before them; 0 where none of them sees several views.

    Cameras that go into the network lie before the first of those.
    """
    told = config.data.poses == "given" and any(name.startswith("cam_enc.") for name in trained_names(config))
    blocks = first_trained(config) if has_frozen_front(config) and not told else 0
    return blocks if blocks > config.model.alt_start else 0


def frozen_front(config: Settings, blocks: int) -> str:
    """A regex over "<module>.<tensor>" of all that the first `blocks` blocks run through, their inputs among it."""
    indices = "|".join(str(index) for index in range(blocks))
    of_views = r"|camera_token" if blocks > config.model.alt_start else ""
    found = rf"backbone\.pretrained\.(cls_token|pos_embed|patch_embed\..*{of_views}|blocks\.({indices})\..*)"
    told = of_views and config.data.poses == "given"
    return rf"{MODULE}\.({found}|cam_enc\..*)" if told else rf"{MODULE}\.{found}"


# ---------------------------------------------------------------------------------------------- memory


def plan(config: Settings) -> Plan:
    """Parameters of the whole network, of what is trained, and the estimated peak on the device in bytes."""
    fewest, most = config.data.frames
    fewer = {"data.frames": [min(fewest, most // 2), most // 2]} if most > 1 else {}
    whole = sum(prod(shape) for shape in tensors(config.model).values())
    kept = memory.epoch_bytes(config, frozen_blocks(config), config.model.out_layers, 1, config.model.embed_dim)
    return Plan(whole, trainable(config), footprint(config), lighter=fewer, blocks_bytes=kept)


def footprint(config: Settings) -> Footprint:
    shapes = tensors(config.model)
    held = {name: 4 * prod(shape) for name, shape in shapes.items()}
    full = fully_trained(shapes, full_tensors(config), MODULE)
    found = memory.footprint(shapes, held, full, trainable(config), BLOCKS, activation_bytes(config))
    return replace(found, averaged=bool(config.train.ema))


def activation_bytes(config: Settings) -> dict[str, int]:
    """Bytes that the largest sample keeps for the backward pass: of the blocks from the first adapted one on."""
    size, views = config.model, config.train.micro_batch * config.data.frames[1]
    patches = (size.image_height_px // size.patch_size) * (size.image_width_px // size.patch_size)
    number = 4 if config.train.precision == "fp32" else 2  # bytes of a number inside linear layers
    tokens, dropout = views * (1 + patches), config.lora.dropout
    one_block = memory.block_bytes(size.embed_dim, size.mlp_ratio, tokens, number, dropout, True)
    pixels = size.image_height_px * size.image_width_px
    one_view = memory.dense_frame_bytes(size, pixels, bool(dropout and lora_targets(config)))
    between, count = 4 * tokens * size.embed_dim, size.depth - first_trained(config)
    again = config.train.gradient_checkpointing
    return {
        "layers that heads read": 4 * 2 * between,
        "blocks": count * between + one_block if again else max(count, 1) * one_block,
        "dense head": one_view * (1 if again else views) * (2 if config.loss.ray_weight else 1),
    }


def first_trained(config: Settings) -> int:
    """The first block that keeps activations: where the first trained tensor of the backbone lies."""
    names = [name for name in trained_names(config) if name.startswith(TRUNK)]
    found = [re.match(r"backbone\.pretrained\.blocks\.(\d+)\.", name) for name in names]
    if any(one is None for one in found):
        return 0
    return min((int(one[1]) for one in found if one), default=config.model.depth)
