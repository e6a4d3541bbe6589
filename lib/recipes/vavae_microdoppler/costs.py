"""What a run costs, from closed forms over the sizes. Tests compare them with the networks on the meta device.

Functions named after a part of a network count its parameters.
"""

import itertools

from lib.core.records import Plan
from lib.recipes.vavae_microdoppler import strategy
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.networks_config import PUBLISHED
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
    widths = [size.channels * m for m in size.multipliers]
    before = widths[-1]
    count = (
        convolution(size.encoder_channels, before, 3) + middle(before) + norm(widths[0]) + convolution(widths[0], 3, 3)
    )
    for level in reversed(range(size.levels)):
        for _ in range(size.blocks + 1):
            count += residual(before, widths[level]) + (attention(widths[level]) if level in size.attention else 0)
            before = widths[level]
        count += convolution(before, before, 3) if level > 0 else 0
    return count


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
    block = 2 * norm(w) + 4 * (w * w + w) + (4 * w * w + 4 * w) + (4 * w * w + w) + 2 * w
    return size.depth * block + norm(w) + w + w + (1 + size.grid**2) * w + convolution(3, w, 14)


def perceptual(widths: tuple[int, ...]) -> int:
    count, before = 0, 3
    for repeats, width in zip((2, 2, 3, 3, 3), widths, strict=True):
        count += convolution(before, width, 3) + (repeats - 1) * convolution(width, width, 3) + width
        before = width
    return count


def dit(size: DiTSize) -> int:
    """LightningDiT with the released options, the position table (a constant) included."""
    w, h = size.width, size.hidden
    block = 2 * w + matrix(w, 3 * w) + matrix(w, w) + matrix(w, 2 * h) + matrix(h, w) + matrix(w, 6 * w)
    ends = matrix(256, w) + matrix(w, w) + convolution(size.latent_channels, w, size.patch) + size.side**2 * w
    return size.depth * block + ends + dit_heads(size)


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
    return dit_heads(size) + (size.adapters(config.lora.rank) if config.model.dit_trains == "lora" else 0)


def dit_memory(config: Config) -> dict[str, int]:
    """Bytes. Activations by the inputs of a block's layers: 26 times its width and 4 times its MLP for every token."""
    size = config.model.dit_size(labels(config))
    block = size.side**2 * (26 * size.width + 4 * size.hidden)
    trained = dit_trainable(config)
    return {
        "weights": FLOAT * sum(dit_parameters(config).values()),
        "gradients, Adam and average": 5 * FLOAT * trained,
        "activations": FLOAT * size.depth * block * config.train.micro_batch,
    }


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
    found, trained, memory, needs = parameters(config), trainable(config), autoencoder_memory(config), needs_of(config)
    if "dit" not in config.train.stages:
        return Plan(sum(found.values()), trained, memory, needs)
    of_dit, trained_dit, memory_dit = dit_parameters(config), dit_trainable(config), dit_memory(config)
    if config.train.stages == ["dit"]:
        return Plan(sum(of_dit.values()), trained_dit, memory_dit, needs)
    larger = max(memory_dit, memory, key=lambda parts: sum(parts.values()))
    return Plan(sum((of_dit | found).values()), trained + trained_dit, larger, needs)


def autoencoder_memory(config: Config) -> dict[str, int]:
    share = config.model.image_px**2 * config.model.channels * config.model.blocks / (256**2 * 128 * 2)
    return {
        "weights": FLOAT * sum(parameters(config).values()),
        "gradients and Adam": 4 * FLOAT * trainable(config),
        "activations": int(IMAGE_BYTES * share * config.train.micro_batch),
    }


def needs_of(config: Config) -> tuple[str, ...]:
    """What a person must have, and the guide's tables as far as the settings have to do with them."""
    simulated, only_dit = config.data.stand_in and not config.data.root, config.train.stages == ["dit"]
    needs = ["simulated walkers, no download" if simulated else "spectrograms in one folder per user"]
    if config.model.source == PUBLISHED:
        needs.append("the published VA-VAE, 2 GB")
    if not config.model.is_demo and not only_dit:
        needs.append("a card with 16 GB at micro-batch 4, 24 GB at 8")
    if "dit" in config.train.stages and config.model.dit_weights == "published" and not config.model.is_demo:
        needs += ["the published LightningDiT-XL, 10 GB to fetch", "a card with 16 GB at micro-batch 8"]
    needs.append(f"by amount of data (guide): {strategy.IN_ALL}, above that adapt everything")
    if config.model.weights == "scratch":
        run = f"{config.train.epochs} in the first of {', '.join(config.train.stages)} (train.epochs)"
        needs.append(
            f"from random weights (guide, plan B): {strategy.SCRATCH_EPOCHS} epochs or more; this run has {run}"
        )
    if config.lora.full:
        needs.append("lora.full opens more tensors of the DiT than are counted here")
    return tuple(needs)
