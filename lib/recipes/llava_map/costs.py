"""What the recipe costs, from its sizes alone; a test compares with the networks.

No torch, so that `--plan` answers at once.
"""

from collections.abc import Iterator
from pathlib import Path

from lib.core.records import Plan
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.language_model import adapter_parameters, hidden_width, llama_size
from lib.recipes.llava_map.sizes import ENCODERS, LLMS, QFORMERS, EncoderSize, LlamaSize, QFormerSize

VIEWS, CLASSES, EMBEDDING, COORDINATE_OCTAVES = 6, 3, 64, 10
PROMPT_TOKENS = 32  # about


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def norm(width: int) -> int:
    return 2 * width


def llama(size: LlamaSize) -> int:
    """The body without its head."""
    key_value = size.hidden // size.heads * size.key_value_heads
    layer = 2 * size.hidden**2 + 2 * size.hidden * key_value + 3 * size.hidden * size.mlp + 2 * size.hidden
    return size.vocabulary * size.hidden + size.layers * layer + size.hidden


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
    layer = attention + offset + norm(dim) + linear(dim, CLASSES)
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


def parts(config: Config) -> dict[str, int]:
    """Parameters by module."""
    size = llama_size(config)
    hidden = hidden_width(config, size)
    found = {"image": encoder(ENCODERS[config.model.encoder]), "qformer": qformer(QFORMERS[config.model.qformer])}
    found |= {"llm": llama(size)} if size else {}
    found |= {"bridge": bridge(config, hidden), "queries": queries(config, hidden), "decoder": decoder(config, hidden)}
    return found | ({"interaction": interaction(config, hidden)} if config.model.scene_interaction else {})


def trainable(config: Config) -> int:
    """Trained parameters of the last stage."""
    counts, size = parts(config), llama_size(config)
    count = sum(counts[name] for name in counts if name not in ("image", "llm"))
    if size and "stage3" in config.train.stages:
        count += counts["llm"] if config.train.stage3 == "full" else adapter_parameters(config, size) or 0
    return count


def plan(config: Config) -> Plan:
    if config.model.llm not in (*LLMS, "none") and not (Path(config.model.llm) / "config.json").is_file():
        return Plan(1, 0, {}, (f"the sizes of {config.model.llm} are known after step 2",))
    return Plan(sum(parts(config).values()), trainable(config), memory_bytes(config), tuple(needs(config)))


def needs(config: Config) -> Iterator[str]:
    if not config.data.stand_in or config.data.root:
        yield "nuScenes key frames and map expansion 1.3, by registration"
    if config.train.stage3 == "full" and "stage3" in config.train.stages:
        yield "stage 3 in full: several 80 GB cards, FSDP or DeepSpeed through `accelerate launch --config_file …`"


def memory_bytes(config: Config) -> dict[str, int]:
    """The parts of the peak on the device.

    Activations of the language model: 9.5 GB for 2 030 tokens of Vicuna-7B (measured without gradient checkpointing:
    0.31 GB a layer), of which checkpointing keeps one layer and each layer's input.
    """
    counts, size = parts(config), llama_size(config)
    micro = config.train.micro_batch
    map_points = config.model.instances * config.model.points
    tokens = VIEWS * config.model.tokens_per_view + PROMPT_TOKENS + config.model.instances + map_points
    llm_bytes: float = 4 if config.model.llm == "demo" else config.model.llm_bits / 8
    found = {
        "language model": int(counts.get("llm", 0) * llm_bytes),
        "other weights": 4 * sum(count for name, count in counts.items() if name != "llm"),
        "trained": trainable(config) * (4 + 8 + 8),  # gradient, Adam, flat sum
        "map head": micro * map_points * config.model.decoder_width * 4 * 24 * config.model.decoder_layers,
    }
    if size:
        layer = micro * tokens * (12 * size.hidden + 4 * size.mlp) * 2
        found["activations"] = layer + size.layers * micro * tokens * size.hidden * 2
    return found
