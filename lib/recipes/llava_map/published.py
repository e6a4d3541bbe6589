"""Published weights, strictly loaded: image encoder, Q-Former and language model, every tensor matched."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.core.errors import Stop
from lib.network import weights
from lib.recipes.llava_map import model
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.qformer import BLIP2_PREFIXES
from lib.recipes.llava_map.sizes import LlamaSize

QFORMER_TENSORS = 255  # of the published file
COMMAND = "python step2_download.py --recipe llava_map --force"
Pairs = Iterator[tuple[str, torch.Tensor]]


def load(config: Config, size: LlamaSize | None, asset_dirs: dict[str, Path]) -> tuple[dict[str, Any], list[str]]:
    """The networks by name, and the fingerprints of the weights that were loaded.

    Stop where a file, a tensor or bitsandbytes is missing, or where attention does not obey its mask.
    """
    with torch.device("meta"):
        modules: dict[str, Any] = model.published_parts(config, size)
    fingerprints = []
    for name, module in modules.items():
        if name == "qformer" and config.model.qformer == "scratch":
            continue
        rebuild_buffers(module)
        dtype = torch.float32 if name != "llm" or config.model.llm == "demo" else torch.bfloat16
        fingerprints.append(weights.load_strict(module, PAIRS[name](config, asset_dirs), dtype=dtype).fingerprint)
    if size is not None:
        model.refuse_leaking_mask(modules["llm"], size.hidden)
        if config.model.llm_bits == 4:
            modules["llm"] = four_bit(modules["llm"])
    return modules, fingerprints


def rebuild_buffers(module: nn.Module) -> None:
    """Buffers that no checkpoint holds are computed for real: rotary frequencies and position ids."""
    owners: list[Any] = list(module.modules())
    for owner in owners:
        if type(owner).__name__ == "LlamaRotaryEmbedding":
            owner.__init__(owner.config)
        if isinstance(getattr(owner, "position_ids", None), torch.Tensor) and owner.position_ids.is_meta:
            owner.register_buffer("position_ids", torch.arange(owner.position_ids.shape[-1])[None], persistent=False)


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
    """The body of a Llama-family checkpoint; its head and stored rotary frequencies have no place here."""
    if config.model.llm == "demo":
        yield from below(asset_dirs["base"] / "base.safetensors", "llm.")
        return
    folder = asset_dirs["llm"]
    known = ("model.safetensors.index.json", "pytorch_model.bin.index.json", "model.safetensors", "pytorch_model.bin")
    file = next((folder / name for name in known if (folder / name).exists()), None)
    if file is None:
        raise Stop(f"{folder} has none of {', '.join(known)}", COMMAND)
    for name, tensor in below(file, "model."):
        if not name.endswith("rotary_emb.inv_freq"):
            yield name, tensor


PAIRS: dict[str, Callable[[Config, dict[str, Path]], Pairs]] = {
    "image": image_pairs,
    "qformer": qformer_pairs,
    "llm": llm_pairs,
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
        small.load_state_dict(layer.state_dict())
        llm.set_submodule(name, small)
    return llm
