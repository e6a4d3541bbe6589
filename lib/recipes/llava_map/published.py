"""Published weights, strictly loaded: image encoder, Q-Former and language model, every tensor matched."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from lib.core.errors import Stop
from lib.network import weights
from lib.recipes.llava_map import causal, model
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.language_model import asset_name, body_names, held_in_fp32, weight_files
from lib.recipes.llava_map.qformer import BLIP2_PREFIXES

QFORMER_TENSORS = 255  # of the published file
Pairs = Iterator[tuple[str, torch.Tensor]]


def load(config: Config, stage: str, asset_dirs: dict[str, Path]) -> tuple[dict[str, Any], list[str]]:
    """The networks by name, and the fingerprints of the weights that were loaded.

    Stop where a file, a tensor or bitsandbytes is missing, or where the language model does not fit.
    """
    fingerprints = []
    with init_empty_weights(include_buffers=False):  # buffers that no file holds are computed: rotary frequencies
        modules: dict[str, Any] = model.published_parts(config)
    for name, module in modules.items():
        if name != "qformer" or config.model.qformer != "scratch":
            pairs = PAIRS[name](config, asset_dirs)
            fingerprints.append(weights.load_strict(module, pairs, dtype=torch.float32).fingerprint)
    if config.model.llm != "none":
        modules["llm"], fingerprint = language_model_of(config, stage, asset_dirs)
        fingerprints.append(fingerprint)
    return modules, fingerprints


def language_model_of(config: Config, stage: str, asset_dirs: dict[str, Path]) -> tuple[nn.Module, str]:
    """The language model and its fingerprint. In fp32 where it is trained, else a published one in bf16 or 4 bits.

    Stop: it is trained and was to be kept in 4 bits.
    """
    with init_empty_weights(include_buffers=False):
        llm = causal.demo() if config.model.llm == "demo" else causal.from_folder(asset_dirs[asset_name(config)])
    trained = held_in_fp32(config, stage, llm.state_dict())
    if trained and config.model.llm_bits == 4:
        raise Stop(
            "lora.full trains tensors of the language model, which model.llm_bits=4 forbids", "model.llm_bits=16"
        )
    dtype = torch.float32 if trained or config.model.llm == "demo" else torch.bfloat16
    shard = causal.parts_to_shard(llm)
    loaded = weights.load_strict(llm, llm_pairs(config, asset_dirs), dtype=dtype, shard=shard)
    causal.refuse_unfit(llm)
    return four_bit(llm) if config.model.llm_bits == 4 else llm, loaded.fingerprint


def image_pairs(config: Config, asset_dirs: dict[str, Path]) -> Pairs:
    """The image encoder's tensors, under ImageEncoder's names, without ResNet-50's classifier and CLIP's text half."""
    if config.model.encoder == "demo":
        yield from below(asset_dirs["base"] / "base.safetensors", "image.")
    elif config.model.encoder == "resnet50":
        yield from below(asset_dirs["encoder"] / "model.safetensors", "resnet.", "body.")
    elif config.model.encoder == "clip_l14_336":
        for name, tensor in below(asset_dirs["encoder"] / "pytorch_model.bin", "vision_model.", "body."):
            if not name.endswith("position_ids"):
                yield name, tensor
    else:
        yield from below(asset_dirs["blip2"] / "model.safetensors.index.json", "vision_model.", "body.")


def qformer_pairs(config: Config, asset_dirs: dict[str, Path]) -> Pairs:
    """BLIP-2's Q-Former; the count is checked first, because other names would otherwise look like an empty file."""
    if config.model.qformer == "demo":
        yield from below(asset_dirs["base"] / "base.safetensors", "qformer.")
        return
    index = asset_dirs["blip2"] / "model.safetensors.index.json"
    names = [name for group in weights.shards(index).values() for name in group if name.startswith(BLIP2_PREFIXES)]
    if len(names) != QFORMER_TENSORS:
        raise Stop(
            f"{index} has {len(names)} of the {QFORMER_TENSORS} Q-Former tensors",
            "bring Salesforce/blip2-opt-2.7b, or set model.qformer=scratch",
        )
    yield from below(index, BLIP2_PREFIXES[0], BLIP2_PREFIXES[0])
    yield from below(index, BLIP2_PREFIXES[1], BLIP2_PREFIXES[1])


def llm_pairs(config: Config, asset_dirs: dict[str, Path]) -> Pairs:
    """The body of a language model's file; its head and stored rotary frequencies have no place here."""
    if config.model.llm == "demo":
        yield from below(asset_dirs["base"] / "base.safetensors", "llm.")
        return
    folder = asset_dirs[asset_name(config)]
    files = weights.shards(folder / weight_files(folder)[0])
    inside = body_names(name for names in files.values() for name in names)
    for file, names in files.items():
        if wanted := [name for name in names if name in inside]:
            for name, tensor in weights.in_portions(file, wanted):
                yield inside[name], tensor


PAIRS: dict[str, Callable[[Config, dict[str, Path]], Pairs]] = {
    "image": image_pairs,
    "qformer": qformer_pairs,
}


def below(file: Path, before: str, now: str = "") -> Pairs:
    """The tensors whose names begin with `before`, which becomes `now`. Only files with such tensors are opened."""
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
            "model.llm_bits=4 needs bitsandbytes, which is not installed",
            "pip install bitsandbytes, or set model.llm_bits=16",
        ) from error
    for name, layer in [(name, layer) for name, layer in llm.named_modules() if isinstance(layer, nn.Linear)]:
        small = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
        )
        small.support_avx512bf16_for_cpu = False  # what it packs for a processor has no derivative
        small.load_state_dict(layer.state_dict())
        llm.set_submodule(name, small)
    return llm
