"""What the recipe costs, from its sizes alone. No torch, so that `--plan` answers at once; a test compares with the networks."""

import json
from pathlib import Path

from lib.errors import Stop
from lib.recipes import Plan
from lib.recipes.llava_map.config import ENCODERS, LLMS, QFORMERS, Config, EncoderSize, LlamaSize, QFormerSize

VIEWS, CLASSES, EMBEDDING, COORDINATE_OCTAVES = 6, 3, 64, 10
PROMPT_TOKENS = 32  # about


def llama_size(cfg: Config, folder: Path | None = None) -> LlamaSize | None:
    """The language model's sizes: of a known id from the table, of any other from its config.json. None without one."""
    if cfg.model.llm == "none":
        return None
    if cfg.model.llm in LLMS:
        return LLMS[cfg.model.llm]
    folder = folder or Path(cfg.model.llm)
    path = folder / "config.json"
    if not path.is_file():
        raise Stop(f"the sizes of {cfg.model.llm} are not known before its config.json is there", "python step2_download.py")
    told = json.loads(path.read_text())
    if told.get("model_type") != "llama":
        raise Stop(
            f"{path} describes a {told.get('model_type')!r} model, and model.llm must be of the Llama family", "choose another model.llm"
        )
    heads = told["num_attention_heads"]
    return LlamaSize(
        told["hidden_size"],
        told["num_hidden_layers"],
        heads,
        told.get("num_key_value_heads") or heads,
        told["intermediate_size"],
        told["vocab_size"],
    )


def hidden_width(cfg: Config, size: LlamaSize | None) -> int:
    """Width of map and scene tokens: the language model's, or the decoder's where there is none."""
    return size.hidden if size else cfg.model.decoder_width


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
    """Convolutions without bias, each with its norm's two numbers a channel."""
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


def bridge(cfg: Config, hidden: int) -> int:
    former = QFORMERS[cfg.model.qformer]
    rays, image = former.rays, ENCODERS[cfg.model.encoder].width
    total, width = linear(6 * rays.octaves, rays.per_depth) + norm(rays.per_depth), rays.per_depth * rays.depths
    for wanted in rays.widths:
        total, width = total + linear(width, wanted) + norm(wanted), wanted
    total += norm(image) + linear(image, former.encoder_width) + linear(width, former.encoder_width)
    return total + (VIEWS + cfg.model.tokens_per_view) * former.width + linear(former.width, hidden) + linear(hidden, hidden)


def queries(cfg: Config, hidden: int) -> int:
    instances, points = cfg.model.instances, cfg.model.points
    return (2 * instances + instances * points + points) * hidden


def reducer(width: int, widths: list[int]) -> int:
    total = 0
    for wanted in widths:
        total, width = total + norm(width) + linear(width, wanted), wanted
    return total


def decoder(cfg: Config, hidden: int) -> int:
    dim, points = cfg.model.decoder_width, cfg.model.points
    reducers = reducer(hidden, [max(hidden // part, dim) for part in (2, 4, 8)] + [dim]) + reducer(hidden, [max(hidden // 4, dim), dim])
    attention = 4 * linear(dim, dim) + linear(dim, 2 * dim) + linear(2 * dim, dim) + 2 * norm(dim)
    offset = linear(2 * dim + 2 * EMBEDDING, dim) + linear(dim, dim // 2) + linear(dim // 2, 2)
    layer = attention + offset + norm(dim) + linear(dim, CLASSES)
    return (
        reducers
        + cfg.model.instances * points * 2
        + linear(4 * COORDINATE_OCTAVES, EMBEDDING)
        + points * EMBEDDING
        + cfg.model.decoder_layers * layer
    )


def interaction(cfg: Config, hidden: int) -> int:
    dim, layers = cfg.model.decoder_width, cfg.model.decoder_layers
    layer = 8 * linear(dim, dim) + linear(dim, 4 * dim) + linear(4 * dim, dim) + 3 * norm(dim)
    return 2 * (norm(hidden) + linear(hidden, dim)) + layers * layer + norm(dim) + linear(dim, hidden) + 1


def adapter_numbers(cfg: Config) -> int | None:
    """LoRA on attention projections; None where the targets are not in this table."""
    size = llama_size(cfg)
    key_value = size.hidden // size.heads * size.key_value_heads
    outputs = {"q_proj": size.hidden, "k_proj": key_value, "v_proj": key_value, "o_proj": size.hidden}
    if not set(cfg.lora.targets) <= set(outputs):
        return None
    return size.layers * cfg.lora.rank * sum(size.hidden + outputs[name] for name in cfg.lora.targets)


def parts(cfg: Config) -> dict[str, int]:
    """Parameters by module."""
    size = llama_size(cfg)
    hidden = hidden_width(cfg, size)
    found = {"image": encoder(ENCODERS[cfg.model.encoder]), "qformer": qformer(QFORMERS[cfg.model.qformer])}
    found |= {"llm": llama(size)} if size else {}
    found |= {"bridge": bridge(cfg, hidden), "queries": queries(cfg, hidden), "decoder": decoder(cfg, hidden)}
    return found | ({"interaction": interaction(cfg, hidden)} if cfg.model.scene_interaction else {})


def trainable(cfg: Config) -> int:
    """In the last stage."""
    counts = parts(cfg)
    count = sum(counts[name] for name in counts if name not in ("image", "llm"))
    if "stage3" in cfg.train.stages:
        count += counts["llm"] if cfg.train.stage3 == "full" else adapter_numbers(cfg) or 0
    return count


def plan(cfg: Config) -> Plan:
    if cfg.model.llm not in (*LLMS, "none") and not (Path(cfg.model.llm) / "config.json").is_file():
        return Plan(1, 0, {}, (f"the sizes of {cfg.model.llm} are known after step 2",))
    needs = () if cfg.data.stand_in and not cfg.data.root else ("nuScenes key frames and map expansion 1.3, by registration",)
    if cfg.train.stage3 == "full" and "stage3" in cfg.train.stages:
        needs += ("stage 3 in full: several 80 GB cards, FSDP or DeepSpeed through `accelerate launch --config_file …`",)
    return Plan(sum(parts(cfg).values()), trainable(cfg), memory_bytes(cfg), needs)


def memory_bytes(cfg: Config) -> dict[str, int]:
    """The parts of the peak on the device. Activations of the language model: 9.5 GB for 2 030 tokens of Vicuna-7B (facts, measured
    without checkpointing: 0.31 GB a layer), of which checkpointing keeps one layer and each layer's input."""
    counts, size = parts(cfg), llama_size(cfg)
    micro = cfg.train.micro_batch
    tokens = VIEWS * cfg.model.tokens_per_view + PROMPT_TOKENS + cfg.model.instances * (1 + cfg.model.points)
    llm_bytes = 4 if cfg.model.llm == "demo" else cfg.model.llm_bits / 8
    found = {
        "language model": int(counts.get("llm", 0) * llm_bytes),
        "other weights": 4 * sum(count for name, count in counts.items() if name != "llm"),
        "trained": trainable(cfg) * (4 + 8 + 8),  # gradient, Adam, flat sum
        "map head": micro * cfg.model.instances * cfg.model.points * cfg.model.decoder_width * 4 * 24 * cfg.model.decoder_layers,
    }
    if size:
        layer = micro * tokens * (12 * size.hidden + 4 * size.mlp) * 2
        found["activations"] = layer + size.layers * micro * tokens * size.hidden * 2
    return found
