"""What the recipe costs, from its sizes alone; a test compares with the networks.

No torch, so that `--plan` answers at once.
"""

from collections.abc import Iterator
from dataclasses import replace

from lib.core.records import Block, Footprint, Pace, Plan
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.language_model import (
    Body,
    adapter_parameters,
    block_parameters,
    body,
    held_in_fp32,
    hidden_width,
    linear_layers,
)
from lib.recipes.llava_map.sizes import ENCODERS, QFORMERS, EncoderSize, QFormerSize

VIEWS, EMBEDDING, COORDINATE_OCTAVES = 6, 64, 10
PROMPT_TOKENS = 32  # about
KEY_FRAMES = {"v1.0-trainval": 28_130, "v1.0-mini": 323}  # of the official training scenes


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def norm(width: int) -> int:
    return 2 * width


def encoder(size: EncoderSize) -> int:
    return resnet(size) if size.kind == "resnet" else transformer(size)


def resnet(size: EncoderSize) -> int:
    """Convolutions without bias, each with its norm's two parameters a channel."""
    total, width = size.stem * (3 * 49 + 2), size.stem
    for stage, (wanted, depth) in enumerate(zip(size.widths, size.depths, strict=True)):
        for block in range(depth):
            total += shortcut(width, wanted, first=block == 0, strided=stage > 0)
            inner = wanted // 4 if size.block == "bottleneck" else wanted
            if size.block == "bottleneck":
                total += inner * (width + 2) + inner * (9 * inner + 2) + wanted * (inner + 2)
            else:
                total += wanted * (9 * width + 2) + wanted * (9 * wanted + 2)
            width = wanted
    return total


def shortcut(width: int, wanted: int, first: bool, strided: bool) -> int:
    return wanted * (width + 2) if first and (width != wanted or strided) else 0


def transformer(size: EncoderSize) -> int:
    """CLIP's and BLIP-2's image encoders differ in biases and outer norms."""
    width, places = size.width, (size.image_px // size.stride_px) ** 2 + 1
    blip2 = size.kind == "blip2"
    patch = 3 * size.stride_px**2 * width + (width if blip2 else 0)
    layer = 4 * linear(width, width) + linear(width, size.mlp) + linear(size.mlp, width) + 2 * norm(width)
    outer = norm(width) * (1 if blip2 else 2)
    return patch + width + places * width + size.layers * layer + outer


def qformer(size: QFormerSize) -> int:
    """BLIP-2's: every second layer also looks at the image; with the query tokens."""
    width = size.width
    attention = 4 * linear(width, width) + norm(width)
    cross = 2 * linear(width, width) + 2 * linear(size.encoder_width, width) + norm(width)
    feed = linear(width, 4 * width) + linear(4 * width, width) + norm(width)
    return size.queries * width + norm(width) + size.layers * (attention + feed) + -(-size.layers // 2) * cross


def bridge(config: Config, hidden: int) -> int:
    former = QFORMERS[config.model.qformer]
    rays, image = former.rays, ENCODERS[config.model.encoder].width
    total, width = linear(6 * rays.octaves, rays.per_depth) + norm(rays.per_depth), rays.per_depth * rays.depths
    for wanted in rays.widths:
        total, width = total + linear(width, wanted) + norm(wanted), wanted
    total += norm(image) + linear(image, former.encoder_width) + linear(width, former.encoder_width)
    return (
        total
        + (VIEWS + config.model.tokens_per_view) * former.width
        + linear(former.width, hidden)
        + linear(hidden, hidden)
    )


def queries(config: Config, hidden: int) -> int:
    instances, points = config.model.instances, config.model.points
    return (2 * instances + instances * points + points) * hidden


def reducer(width: int, widths: list[int]) -> int:
    total = 0
    for wanted in widths:
        total, width = total + norm(width) + linear(width, wanted), wanted
    return total


def decoder(config: Config, hidden: int) -> int:
    dim, points = config.model.decoder_width, config.model.points
    reducers = reducer(hidden, [max(hidden // part, dim) for part in (2, 4, 8)] + [dim]) + reducer(
        hidden, [max(hidden // 4, dim), dim]
    )
    attention = 4 * linear(dim, dim) + linear(dim, 2 * dim) + linear(2 * dim, dim) + 2 * norm(dim)
    offset = linear(2 * dim + 2 * EMBEDDING, dim) + linear(dim, dim // 2) + linear(dim // 2, 2)
    layer = attention + offset + norm(dim) + linear(dim, len(config.data.classes))
    return (
        reducers
        + config.model.instances * points * 2
        + linear(4 * COORDINATE_OCTAVES, EMBEDDING)
        + points * EMBEDDING
        + config.model.decoder_layers * layer
    )


def interaction(config: Config, hidden: int) -> int:
    dim, layers = config.model.decoder_width, config.model.decoder_layers
    layer = 8 * linear(dim, dim) + linear(dim, 4 * dim) + linear(4 * dim, dim) + 3 * norm(dim)
    return 2 * (norm(hidden) + linear(hidden, dim)) + layers * layer + norm(dim) + linear(dim, hidden) + 1


def parts(config: Config, llm: Body | None) -> dict[str, int]:
    """Parameters by module; without those whose width is the language model's where nothing is known of it."""
    found = {"image": encoder(ENCODERS[config.model.encoder]), "qformer": qformer(QFORMERS[config.model.qformer])}
    if not llm and config.model.llm != "none":
        return found
    hidden = hidden_width(config, llm.hidden if llm else None)
    found |= {"llm": llm.parameters} if llm else {}
    found |= {"bridge": bridge(config, hidden), "queries": queries(config, hidden), "decoder": decoder(config, hidden)}
    return found | ({"interaction": interaction(config, hidden)} if config.model.scene_interaction else {})


def trained_of_llm(config: Config, llm: Body | None) -> int:
    """Trained parameters of the language model, adapters or its own, in the last stage."""
    if not llm or config.train.stages[-1] != "stage3":
        return 0
    return llm.parameters if config.train.stage3 == "full" else adapter_parameters(config, linear_layers(llm.shapes))


def trainable(config: Config, llm: Body | None) -> int:
    """Trained parameters of the last stage. What lora.full opens beside is not counted."""
    new = sum(count for name, count in parts(config, llm).items() if name not in ("image", "llm"))
    return new + trained_of_llm(config, llm)


def plan(config: Config) -> Plan:
    llm = body(config)
    counted, known = sum(parts(config, llm).values()), llm or config.model.llm == "none"
    fewer_bits = {"model.llm_bits": 4} if llm and not config.trains_llm() and config.model.llm != "demo" else {}
    one = replace(footprint(config, llm), averaged=bool(config.train.ema)) if known else None
    return Plan(counted, trainable(config, llm), one, tuple(needs(config, llm)), fewer_bits, pace(config))


def pace(config: Config) -> Pace | None:
    """Of Vicuna-7B, not trained itself, on nuScenes. None for anything else: nobody measured it."""
    if config.model.llm != "lmsys/vicuna-7b-v1.5" or config.trains_llm():
        return None
    epochs = {"stage2": config.train.epochs, "stage3": config.train.stage3_epochs}
    source = "logs of the guide's author: six cards, an epoch in 85 minutes"
    samples = KEY_FRAMES[config.data.version] if config.data.split == "official" else 0
    return Pace(0.9, "RTX 4090", source, sum(epochs[name] for name in config.train.stages), samples)


def needs(config: Config, llm: Body | None) -> Iterator[str]:
    if not llm and config.model.llm != "none":
        yield (
            f"what the language model {config.model.llm} takes is not known yet: its sizes are in its config.json, "
            "which step 2 brings; a plan knows those of a folder (model.llm=FOLDER)"
        )


def footprint(config: Config, llm: Body | None) -> Footprint:
    """Of the last stage. The blocks are the language model's and its table of words; where it is trained it is held in
    fp32, and autocast keeps a copy of it in half precision.

    Activations of the language model: 9.5 GB for 2 030 tokens of Vicuna-7B (measured without gradient checkpointing:
    0.31 GB a layer), of which checkpointing keeps one layer and each layer's input.
    """
    map_points = config.model.instances * config.model.points
    head = config.train.micro_batch * map_points * config.model.decoder_width * 4 * 24 * config.model.decoder_layers
    image, count = 4 * parts(config, llm)["image"], trainable(config, llm)
    if not llm:
        return Footprint(image, count, {"map head": head})
    kept = {"activations": activation_bytes(config, llm), "map head": head}
    numbers = block_parameters(llm.shapes)
    inside = sum(numbers)
    if held_in_fp32(config, config.train.stages[-1], llm.shapes):
        copies = 2 * llm.parameters
        if trained_of_llm(config, llm) == llm.parameters:
            return Footprint(image, count - inside, kept, tuple(Block(2 * n, 0, n) for n in numbers), copies)
        # some of its tensors are trained (lora.full): the network itself says which
        blocks = tuple(Block(4 * n, 4 * n) for n in numbers)
        return Footprint(image + 4 * (llm.parameters - inside), count, kept, blocks, copies)
    held = 4 if config.model.llm == "demo" else 2
    rest = image + held * (llm.parameters - inside)
    if config.model.llm_bits == 4 and config.model.llm != "demo":  # only its linear layers, and these are not divided
        linear = sum(numbers[1:])
        return Footprint(rest + held * numbers[0] + linear // 2, count, kept)
    return Footprint(rest, count, kept, tuple(Block(held * n, held * n) for n in numbers))


def activation_bytes(config: Config, llm: Body) -> int:
    micro, map_points = config.train.micro_batch, config.model.instances * config.model.points
    tokens = VIEWS * config.model.tokens_per_view + PROMPT_TOKENS + config.model.instances + map_points
    return 2 * micro * tokens * (12 * llm.hidden + 4 * llm.mlp + llm.layers * llm.hidden)
