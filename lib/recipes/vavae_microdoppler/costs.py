"""What a run costs, from closed forms over the sizes. Tests compare them with the networks on the meta device.

Functions named after a part of a network count its parameters.
"""

import itertools

from lib.core.records import Block, Footprint, Plan
from lib.recipes.vavae_microdoppler import strategy
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.size import AutoencoderSize, DiTSize, VisionSize

FLOAT = 4  # bytes
IMAGE_BYTES = 2_000_000_000  # activations of one 256 px image through the published autoencoder and LPIPS, measured


def convolution(before: int, after: int, side: int, bias: bool = True) -> int:
    return before * after * side * side + after * bias


def norm(channels: int) -> int:
    return 2 * channels


def residual(before: int, after: int) -> int:
    shortcut = convolution(before, after, 1) if before != after else 0
    return norm(before) + convolution(before, after, 3) + norm(after) + convolution(after, after, 3) + shortcut


def attention(channels: int) -> int:
    return norm(channels) + 4 * convolution(channels, channels, 1)


def middle(channels: int) -> int:
    return 2 * residual(channels, channels) + attention(channels)


def encoder_levels(size: AutoencoderSize) -> list[int]:
    """Parameters of the encoder's first convolution together with level 0, then of each further level."""
    widths, found = [size.channels * m for m in size.multipliers], []
    before = size.channels
    for level, width in enumerate(widths):
        count = convolution(3, size.channels, 3) if level == 0 else 0
        for _ in range(size.blocks):
            count += residual(before, width) + (attention(width) if level in size.attention else 0)
            before = width
        found.append(count + (convolution(width, width, 3) if level < size.levels - 1 else 0))
    return found


def encoder(size: AutoencoderSize) -> int:
    width = size.channels * size.multipliers[-1]
    return sum(encoder_levels(size)) + middle(width) + norm(width) + convolution(width, 2 * size.encoder_channels, 3)


def decoder(size: AutoencoderSize) -> int:
    inner, outer = size.channels * size.multipliers[-1], size.channels * size.multipliers[0]
    ends = convolution(size.encoder_channels, inner, 3) + norm(outer) + convolution(outer, 3, 3)
    return ends + middle(inner) + sum(decoder_levels(size))


def decoder_levels(size: AutoencoderSize) -> list[int]:
    """Parameters of the decoder's levels, the coarsest first."""
    widths, found = [size.channels * m for m in size.multipliers], []
    before = widths[-1]
    for level in reversed(range(size.levels)):
        count = 0
        for _ in range(size.blocks + 1):
            count += residual(before, widths[level]) + (attention(widths[level]) if level in size.attention else 0)
            before = widths[level]
        found.append(count + (convolution(before, before, 3) if level > 0 else 0))
    return found


def quantisers(size: AutoencoderSize) -> tuple[int, int]:
    """(quant_conv, post_quant_conv)"""
    z, e = size.encoder_channels, size.latent_channels
    return convolution(2 * z, 2 * e, 1), convolution(e, z, 1)


def critic(width: int, layers: int) -> int:
    widths = [width * min(2**level, 8) for level in range(layers + 1)]
    inner = sum(convolution(a, b, 4, bias=False) + norm(b) for a, b in itertools.pairwise(widths))
    return convolution(3, width, 4) + inner + convolution(widths[-1], 1, 4)


def vision(size: VisionSize) -> int:
    """DINOv2 of transformers: with the mask token, and the position table at the latent's grid."""
    w = size.width
    return size.depth * vision_block(w) + norm(w) + w + w + (1 + size.grid**2) * w + convolution(3, w, 14)


def vision_block(w: int) -> int:
    return 2 * norm(w) + 4 * (w * w + w) + (4 * w * w + 4 * w) + (4 * w * w + w) + 2 * w


def perceptual(widths: tuple[int, ...]) -> int:
    count, before = 0, 3
    for repeats, width in zip((2, 2, 3, 3, 3), widths, strict=True):
        count += convolution(before, width, 3) + (repeats - 1) * convolution(width, width, 3) + width
        before = width
    return count


def dit(size: DiTSize) -> int:
    """LightningDiT with the released options, the position table (a constant) included."""
    w = size.width
    ends = matrix(256, w) + matrix(w, w) + convolution(size.latent_channels, w, size.patch) + size.side**2 * w
    return size.depth * dit_block(size) + ends + dit_heads(size)


def dit_block(size: DiTSize) -> int:
    w, h = size.width, size.hidden
    return 2 * w + matrix(w, 3 * w) + matrix(w, w) + matrix(w, 2 * h) + matrix(h, w) + dit_modulation(size)


def dit_modulation(size: DiTSize) -> int:
    """Of a block: what time and user reach it through."""
    return matrix(size.width, 6 * size.width)


def dit_heads(size: DiTSize) -> int:
    """Class table and last layer: what is trained beside a frozen trunk."""
    w = size.width
    return (size.labels + 1) * w + w + matrix(w, size.patch**2 * size.latent_channels) + matrix(w, 2 * w)


def matrix(before: int, after: int) -> int:
    return before * after + after


def judge(labels: int) -> int:
    layers = sum(convolution(a, b, 3) + norm(b) for a, b in ((3, 24), (24, 48), (48, 64)))
    return layers + matrix(2 * 64 * 8, labels)


def labels(config: Config) -> int:
    """Users, as far as settings tell; the data decide (31 in the guide's)."""
    simulated = config.data.stand_in and not config.data.root
    return len(config.data.users) or (config.data.stand_in_users if simulated else 31)


def dit_parameters(config: Config) -> dict[str, int]:
    """Part -> parameters of the networks of the stage dit."""
    size = config.model.autoencoder
    return {
        "dit": dit(config.model.dit_size(labels(config))),
        "autoencoder": encoder(size) + decoder(size) + sum(quantisers(size)),
        "perceptual": perceptual(tuple(config.model.lpips_widths)),
        "judge": judge(labels(config)),
    }


def dit_trainable(config: Config) -> int:
    size = config.model.dit_size(labels(config))
    if config.model.dit_trains == "all":
        return dit(size) - size.side**2 * size.width
    if config.model.dit_trains == "lora":
        return dit_heads(size) + size.adapters(config.lora.rank)
    return dit_heads(size) + size.depth * dit_modulation(size)


def dit_footprint(config: Config) -> Footprint:
    """Activations by the inputs of a block's layers: 26 times its width and 4 times its MLP for every token."""
    size = config.model.dit_size(labels(config))
    block, tokens = dit_block(size), size.side**2 * config.train.micro_batch
    kept, recompute = FLOAT * tokens * (26 * size.width + 4 * size.hidden), config.train.gradient_checkpointing
    between = FLOAT * tokens * size.width * size.depth
    inside = {"all": block, "table": dit_modulation(size), "lora": 0}[config.model.dit_trains]  # opened in a block
    trained, whole = dit_trainable(config), config.model.dit_trains == "all"
    outside = sum(dit_parameters(config).values()) - size.depth * block
    own = trained - size.depth * inside if whole else dit_heads(size)  # trained weights of the network's own
    return Footprint(
        frozen_rest=FLOAT * (outside - own),
        trained=trained - size.depth * inside,
        activations={"activations": kept + between if recompute else size.depth * kept},
        blocks=size.depth * (Block(FLOAT * block, FLOAT * (block - inside), inside),),
        averaged=bool(config.train.ema),
    )


def parameters(config: Config) -> dict[str, int]:
    """Part -> parameters of every network that the stages of the autoencoder build."""
    size = config.model.autoencoder
    found = {
        "autoencoder": encoder(size) + decoder(size) + sum(quantisers(size)),
        "critic": critic(config.model.critic_width, config.model.critic_layers),
    }
    if config.loss.perceptual:
        found["perceptual"] = perceptual(tuple(config.model.lpips_widths))
    if config.model.vf != "none":
        found["vision"] = vision(config.model.vision_size)
        found["projection"] = config.model.latent_channels * config.model.vision_size.width
    return found


def trainable(config: Config) -> int:
    found, size = parameters(config), config.model.autoencoder
    if "decoder" in config.train.stages:
        return decoder(size) + quantisers(size)[1] + found["critic"]
    frozen = sum(encoder_levels(size)[: config.model.freeze_encoder_layers])
    return found["autoencoder"] - frozen + found["critic"] + found.get("projection", 0)


def plan(config: Config) -> Plan:
    """Of a chain that ends in dit: the sums, and the memory of the stage that needs more (bytes)."""
    found, trained, memory, needs = parameters(config), trainable(config), footprint(config), needs_of(config)
    if "dit" not in config.train.stages:
        return Plan(sum(found.values()), trained, memory, needs)
    of_dit, trained_dit, memory_dit = dit_parameters(config), dit_trainable(config), dit_footprint(config)
    if config.train.stages == ["dit"]:
        return Plan(sum(of_dit.values()), trained_dit, memory_dit, needs)
    larger = max(memory_dit, memory, key=rough_bytes)
    return Plan(sum((of_dit | found).values()), trained + trained_dit, larger, needs)


def rough_bytes(one: Footprint) -> int:
    """To compare two stages of one chain on one card."""
    numbers = one.trained + one.trained_in_blocks
    return one.frozen_blocks + one.frozen_rest + 20 * numbers + sum(one.activations.values())


def footprint(config: Config) -> Footprint:
    """Of the autoencoder's stages."""
    found, trained = parameters(config), trainable(config)
    share = config.model.image_px**2 * config.model.channels * config.model.blocks / (256**2 * 128 * 2)
    blocks = blocks_of(config)
    inside = sum(block.whole for block in blocks) // FLOAT
    opened = sum(block.trained for block in blocks)
    return Footprint(
        frozen_rest=FLOAT * (sum(found.values()) - trained - (inside - opened)),
        trained=trained - opened,
        activations={"activations": int(IMAGE_BYTES * share * config.train.micro_batch)},
        blocks=blocks,
        averaged=bool(config.train.ema),
    )


def blocks_of(config: Config) -> tuple[Block, ...]:
    """The frozen vision network's, then the levels of encoder and decoder with the middle of each between them."""
    size, vision_size = config.model.autoencoder, config.model.vision_size
    between, closed = middle(size.channels * size.multipliers[-1]), config.model.freeze_encoder_layers
    levels = [*encoder_levels(size), between, between, *decoder_levels(size)]
    levels[0] -= convolution(3, size.channels, 3)
    if "decoder" in config.train.stages:
        closed = size.levels + 1
    seen = vision_size.depth * (vision_block(vision_size.width),) if config.model.vf != "none" else ()
    frozen, opened = [*seen, *levels[:closed]], levels[closed:]
    return (*(Block(FLOAT * n, FLOAT * n) for n in frozen), *(Block(FLOAT * n, 0, n) for n in opened))


def needs_of(config: Config) -> tuple[str, ...]:
    """What a person must have, and the guide's tables as far as the settings have to do with them."""
    needs = []
    needs.append(f"by amount of data (guide): {strategy.IN_ALL}, above that adapt everything")
    if config.model.weights == "scratch":
        run = f"{config.train.epochs} in the first of {', '.join(config.train.stages)} (train.epochs)"
        needs.append(
            f"from random weights (guide, plan B): {strategy.SCRATCH_EPOCHS} epochs or more; this run has {run}"
        )
    if config.lora.full:
        needs.append("lora.full opens more tensors of the DiT than are counted here")
    return tuple(needs)
