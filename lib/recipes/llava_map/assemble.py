"""The networks of a stage: published parts strictly loaded, new parts drawn from the run's seed, and what of them is trained."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import weights
from lib.errors import Stop
from lib.recipes import Group, LoraSpec, Objective, Parts, Prefix, Stage
from lib.recipes.llava_map import losses, model
from lib.recipes.llava_map.config import Config, LlamaSize
from lib.recipes.llava_map.costs import adapter_numbers, hidden_width, llama_size
from lib.recipes.llava_map.qformer import BLIP2_PREFIXES

QFORMER_TENSORS = 255  # of the published file
NEW_PARTS = ("bridge", "queries", "decoder", "interaction")
COMMAND = "python step2_download.py --recipe llava_map --force"


def build(cfg: Config, stage: Stage, places: dict[str, Path]) -> Parts:
    """Everything on the CPU. What is new is drawn from train.seed, so that base and adapted start from the same numbers."""
    size = llama_size(cfg, places.get("llm"))
    modules = load_published(cfg, size, places)
    prints = [modules.pop("fingerprint")]
    torch.manual_seed(cfg.train.seed)
    modules |= model.new_parts(cfg, hidden_width(cfg, size))
    if cfg.model.qformer == "scratch":
        print("the Q-Former starts from random weights (model.qformer=scratch)")
        modules["qformer"] = model.new_qformer(cfg)
    if size:
        modules["prompt"] = Prompt(prompt_ids(cfg, size, places))
    spec, full = {}, [rf"{name}\..*" for name in (*NEW_PARTS, "qformer") if name in modules] + list(cfg.lora.full)
    if stage.name == "stage3" and cfg.train.stage3 == "full":
        full.append(r"llm\..*")
    elif stage.name == "stage3":
        spec = {"llm": lora(cfg)}
    for module in modules.values():
        module.eval()
    if "llm" in modules:
        modules["llm"].checkpointing = cfg.train.checkpointing or cfg.model.llm != "demo"  # 0.5 GB a sample instead of 9 for Vicuna-7B
    base = hashlib.sha256("".join(prints).encode()).hexdigest()
    return Parts(modules, spec, tuple(full), prefix(cfg, modules), base)


class Prompt(nn.Module):
    """The instruction's token ids, the same for every sample."""

    def __init__(self, ids: list[int]):
        super().__init__()
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.long), persistent=False)


def prompt_ids(cfg: Config, size: LlamaSize, places: dict[str, Path]) -> list[int]:
    """Beginning of sequence, then the instruction. Ids that the embedding table does not have mean another vocabulary."""
    from tokenizers import Tokenizer

    folder = places["base" if cfg.model.llm == "demo" else "llm"]
    if not (folder / "tokenizer.json").exists():
        from transformers import AutoTokenizer

        ids = AutoTokenizer.from_pretrained(folder)(cfg.model.prompt)["input_ids"]
    else:
        ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(cfg.model.prompt).ids
    if max(ids) >= size.vocabulary:
        raise Stop(
            f"the tokenizer in {folder} gives id {max(ids)}, but the language model has {size.vocabulary} words",
            "use the tokenizer of the same model",
        )
    return ids


# ---------------------------------------------------------------------------------------------- loading


def load_published(cfg: Config, size: LlamaSize | None, places: dict[str, Path]) -> dict[str, Any]:
    """Image encoder, Q-Former and language model, every tensor matched; and one fingerprint of all."""
    with torch.device("meta"):
        modules: dict[str, Any] = model.published_parts(cfg, size)
    prints = []
    for name, module in modules.items():
        if name == "qformer" and cfg.model.qformer == "scratch":
            continue
        rebuild_buffers(module)
        dtype = torch.float32 if name != "llm" or cfg.model.llm == "demo" else torch.bfloat16
        prints.append(weights.load_strict(module, PAIRS[name](cfg, places), dtype=dtype).fingerprint)
    if size is not None:
        model.refuse_leaking_mask(modules["llm"], size.hidden)
        if cfg.model.llm_bits == 4:
            modules["llm"] = four_bit(modules["llm"])
    return modules | {"fingerprint": "".join(prints)}


def rebuild_buffers(module: nn.Module) -> None:
    """Buffers that no checkpoint holds are computed for real: rotary frequencies and position numbers."""
    for owner in module.modules():
        if type(owner).__name__ == "LlamaRotaryEmbedding":
            owner.__init__(owner.config)
        if isinstance(getattr(owner, "position_ids", None), torch.Tensor) and owner.position_ids.is_meta:
            owner.register_buffer("position_ids", torch.arange(owner.position_ids.shape[-1])[None], persistent=False)


def image_pairs(cfg: Config, places: dict[str, Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the image encoder, under ImageEncoder's names; the classifier of ResNet-50 and the text half of CLIP are left out."""
    if cfg.model.encoder == "demo":
        yield from below(places["base"] / "base.safetensors", "image.")
    elif cfg.model.encoder == "resnet50":
        yield from below(places["encoder"] / "model.safetensors", "resnet.", "body.")
    elif cfg.model.encoder == "clip_l14_336":
        for name, tensor in below(places["encoder"] / "pytorch_model.bin", "vision_model.", "body."):
            if not name.endswith("position_ids"):
                yield name, tensor
    else:
        yield from below(places["blip2"] / "model.safetensors.index.json", "vision_model.", "body.")


def qformer_pairs(cfg: Config, places: dict[str, Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """BLIP-2's Q-Former; the count is checked first, because other names would otherwise look like an empty file."""
    if cfg.model.qformer == "demo":
        yield from below(places["base"] / "base.safetensors", "qformer.")
        return
    index = places["blip2"] / "model.safetensors.index.json"
    names = [name for group in weights.shards(index).values() for name in group if name.startswith(BLIP2_PREFIXES)]
    if len(names) != QFORMER_TENSORS:
        raise Stop(
            f"{index} has {len(names)} of the {QFORMER_TENSORS} Q-Former tensors",
            "bring Salesforce/blip2-opt-2.7b, or set model.qformer=scratch",
        )
    yield from below(index, BLIP2_PREFIXES[0], BLIP2_PREFIXES[0])
    yield from below(index, BLIP2_PREFIXES[1], BLIP2_PREFIXES[1])


def llm_pairs(cfg: Config, places: dict[str, Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """The body of a Llama-family checkpoint; its head and stored rotary frequencies have no place here."""
    if cfg.model.llm == "demo":
        yield from below(places["base"] / "base.safetensors", "llm.")
        return
    folder = places["llm"]
    known = ("model.safetensors.index.json", "pytorch_model.bin.index.json", "model.safetensors", "pytorch_model.bin")
    file = next((folder / name for name in known if (folder / name).exists()), None)
    if file is None:
        raise Stop(f"{folder} has none of {', '.join(known)}", COMMAND)
    for name, tensor in below(file, "model."):
        if not name.endswith("rotary_emb.inv_freq"):
            yield name, tensor


PAIRS: dict[str, Callable[[Config, dict[str, Path]], Iterator[tuple[str, torch.Tensor]]]] = {
    "image": image_pairs,
    "qformer": qformer_pairs,
    "llm": llm_pairs,
}


def below(file: Path, before: str, now: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors whose names begin with `before`, which becomes `now`. Only files that hold such tensors are opened."""
    for part, names in weights.shards(file).items():
        wanted = [name for name in names if name.startswith(before)]
        for name, tensor in weights.in_portions(part, wanted) if wanted else ():
            yield now + name.removeprefix(before), tensor


def four_bit(llm: nn.Module) -> nn.Module:
    """The frozen language model in bitsandbytes' NF4 (Dettmers et al. 2023): 4 GB instead of 13.5."""
    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError as error:
        raise Stop(
            "model.llm_bits=4 needs bitsandbytes, which is not installed", "pip install bitsandbytes, or set model.llm_bits=16"
        ) from error
    for name, layer in [(name, layer) for name, layer in llm.named_modules() if isinstance(layer, nn.Linear)]:
        small = Linear4bit(
            layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
        small.load_state_dict(layer.state_dict())
        llm.set_submodule(name, small)
    return llm


# ---------------------------------------------------------------------------------------------- what is trained


def lora(cfg: Config) -> LoraSpec:
    targets = tuple(rf"layers\.\d+\.self_attn\.{name}" if name.isidentifier() else name for name in cfg.lora.targets)
    return LoraSpec(targets, cfg.lora.rank, cfg.lora.alpha, cfg.lora.dropout, cfg.lora.peft, adapter_numbers(cfg))


def prefix(cfg: Config, modules: dict[str, Any]) -> Prefix | None:
    """Image tokens of the frozen encoder, kept for each frame and its mirror image."""
    if any(pattern.startswith("image") for pattern in cfg.lora.full):
        return None
    refused = "data.colour_jitter changes the pictures" if cfg.data.colour_jitter else ""

    def units(sample: dict) -> list[str]:
        return [sample["sample_id"] + ("/mirrored" if sample["flip"] else "")]

    def compute(sample: dict, unit: int) -> torch.Tensor:
        from lib.recipes.llava_map.data import pictures_of

        device = next(modules["image"].parameters()).device
        pictures = torch.from_numpy(pictures_of(sample)).to(device)[None]
        return model.image_tokens(modules["image"], pictures)[0].half()  # (6, tokens, width)

    return Prefix("image tokens", units, compute, r"image\..*", refused)


def objectives(cfg: Config, stage: Stage) -> list[Objective]:
    """One loss; the guide's three learning rates by module (q, m, d), and one each for what it does not name."""
    rates = {
        "q": ("qformer", cfg.train.lr * cfg.train.lr_share_qformer),
        "m": ("queries", cfg.train.lr),
        "d": ("decoder", cfg.train.lr),
        "b": ("bridge", cfg.train.lr),
    }
    if cfg.model.scene_interaction:
        rates["i"] = ("interaction", cfg.train.lr)
    if stage.name == "stage3":
        rates["l"] = ("llm", cfg.train.lr_llm)
    clip = cfg.train.clip or None
    groups = [Group(name, rf"{module}\..*", rate, cfg.train.weight_decay, clip=clip) for name, (module, rate) in rates.items()]
    groups += [Group(f"full_{i}", pattern, cfg.train.lr, cfg.train.weight_decay, clip=clip) for i, pattern in enumerate(cfg.lora.full)]
    return [Objective("map", loss(cfg), tuple(groups))]


def loss(cfg: Config) -> Callable[[Parts, dict[str, Any], int], tuple[torch.Tensor, dict[str, Any]]]:
    weights_of_terms = losses.Weights(cfg.loss.cls, cfg.loss.pts, cfg.loss.dir)

    def objective(parts: Parts, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        logits, points = model.detect(parts.modules, cfg, batch)
        half = torch.tensor(cfg.data.half_extent_m, device=points.device)
        truths = [losses.Truth(labels, (orders / half + 1) / 2) for labels, orders in zip(batch["labels"], batch["orders"], strict=True)]
        return losses.map_loss(logits, points, truths, weights_of_terms, 2 * half)

    return objective
