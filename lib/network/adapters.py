"""LoRA: attach, audit, name, save, bind to a base, load, merge.

The order is the whole point: the base is loaded strictly first (lib.network.weights), adapters are attached after. The
other way round PEFT has renamed every adapted weight to `….base_layer.weight`, a non-strict load skips them, and the
adapted layers silently stay random; results of that have been published.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.core.errors import FAILED, Stop, nearest
from lib.core.records import LoraSpec, Parts
from lib.core.run import read_json, write_json
from lib.core.words import counted

ADAPTER = "default"
BINDING = "base.json"  # beside adapter_config.json: the fingerprint of the base


def attach(parts: Parts) -> dict[str, Any]:
    """Freeze everything, add the adapters, open the tensors that are trained fully. Returns PEFT's wrappers by module.

    The modules of `parts` are changed in place and keep their class, so a loss calls them as before. Stop: a target or
    a pattern that matches nothing, or another count of trainable parameters than the recipe's table has.
    """
    import peft

    for module in parts.modules.values():
        module.requires_grad_(False)
    wrapped = {}
    for name, spec in parts.lora.items():
        targets = matched(parts.modules[name], spec, name)
        settings: dict[str, Any] = {"r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout}
        settings |= {"target_modules": targets} | spec.peft
        torch.manual_seed(0)  # A is drawn here; the same for every process and every resume
        wrapped[name] = peft.get_peft_model(parts.modules[name], peft.LoraConfig(**settings))
        drop_less(parts.modules[name], spec.conv_dropout)
        count = sum(p.numel() for p in parts.modules[name].parameters() if p.requires_grad)
        if spec.expected is not None and count != spec.expected and not spec.peft:
            raise Stop(
                f"{name}: {count:,} trainable parameters after attaching, the recipe's table says {spec.expected:,}",
                code=FAILED,
            )
    open_fully(parts)
    return wrapped


def drop_less(module: nn.Module, kind: str) -> None:
    """Dropout before adapters of 2d convolutions: of whole channels, or none, instead of pixel by pixel.

    A number for each pixel of a map of full resolution takes as long as the convolution. In evaluation all are one.
    """
    if kind == "pixel":
        return
    for layer in module.modules():
        if type(layer).__module__.startswith("peft.") and isinstance(getattr(layer, "base_layer", None), nn.Conv2d):
            dropouts: Any = layer.lora_dropout
            dropout = dropouts[ADAPTER]
            if isinstance(dropout, nn.Dropout):
                dropouts[ADAPTER] = nn.Dropout2d(dropout.p) if kind == "channel" else nn.Identity()


def matched(module: nn.Module, spec: LoraSpec, name: str) -> list[str]:
    """The full names of the layers that the targets match. Stop: one that matches nothing, with the nearest names."""
    names = [n for n, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.Embedding))]
    found = []
    for pattern in spec.targets:
        hits = [n for n in names if re.fullmatch(pattern, n)]
        if not hits:
            raise Stop(
                f"the LoRA target {pattern!r} matches no layer of {name}: {nearest(pattern, names[:400])[:300]}",
                "correct lora.targets",
            )
        found += [hit for hit in hits if hit not in found]
    return found


def open_fully(parts: Parts) -> None:
    """Gradients for the tensors that `parts.full` names. Stop: a pattern that matches nothing."""
    tensors = {f"{name}.{key}": p for name, module in parts.modules.items() for key, p in module.named_parameters()}
    for pattern in parts.full:
        hits = [key for key in tensors if re.fullmatch(pattern, plain_name(key))]
        if not hits:
            raise Stop(f"the pattern {pattern!r} of fully trained tensors matches none", "correct lora.full")
        for key in hits:
            tensors[key].requires_grad_(True)


def plain_name(name: str) -> str:
    """'model.blocks.0.qkv.lora_A.default.weight' -> 'model.blocks.0.qkv.lora_A.weight', and without '.base_layer'."""
    return name.replace(f".{ADAPTER}", "").replace(".base_layer", "")


def trainable(parts: Parts) -> dict[str, nn.Parameter]:
    """Every tensor that is trained, by "<module>.<tensor>" (see `plain_name`), in a fixed order."""
    named = {
        f"{name}.{plain_name(key)}": p
        for name, module in parts.modules.items()
        for key, p in module.named_parameters()
        if p.requires_grad
    }
    return dict(sorted(named.items()))


def table(parts: Parts) -> list[tuple[str, int, float]]:
    """(layer, trainable parameters, their share of all parameters) for the printed audit."""
    total = sum(p.numel() for module in parts.modules.values() for p in module.parameters())
    counts: dict[str, int] = {}
    for name, tensor in trainable(parts).items():
        layer = re.sub(r"\.(lora_[A-Za-z_]+)?(\.?weight|\.?bias)?$", "", name)
        counts[layer] = counts.get(layer, 0) + tensor.numel()
    return [(layer, count, count / total) for layer, count in counts.items()]


def set_mode(parts: Parts, training: bool) -> None:
    """Train mode for what is trained and for the adapters' dropout, evaluation mode for everything frozen.

    A frozen BatchNorm in train mode would move its running statistics, which no adapter file contains.
    """
    for module in parts.modules.values():
        module.eval()
        for name, layer in module.named_modules() if training else ():
            tensors = list(layer.parameters())
            if tensors and all(tensor.requires_grad for tensor in tensors):
                layer.train()
            elif "lora_dropout" in name or type(layer).__module__.startswith("peft."):
                layer.training = True


class Modes:
    """`set_mode(parts, training=True)` again and again: which layer is in which mode is found once.

    Walking all modules and their tensors takes 35 to 100 ms at full size. What is trained must stay the same.
    """

    def __init__(self, parts: Parts):
        set_mode(parts, training=True)
        self.modes = [(layer, layer.training) for module in parts.modules.values() for layer in module.modules()]

    def set(self) -> None:
        for layer, training in self.modes:
            if layer.training is not training:
                layer.training = training


def copied(wrapped: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """The adapters' tensors as they are now, on the host, by module and by the names that `save` knows them by."""
    return {
        name: {key: p.detach().to("cpu", copy=True) for key, p in model.named_parameters() if p.requires_grad}
        for name, model in wrapped.items()
    }


def save(
    wrapped: dict[str, Any], folder: Path, base: str, copies: dict[str, dict[str, torch.Tensor]] | None = None
) -> None:
    """PEFT's own layout, one folder per adapted module, bound to the fingerprint of the base.

    copies: what is written instead of what the adapters hold by now (`copied`); any thread may write it.
    """
    for name, model in wrapped.items():
        place = folder if len(wrapped) == 1 else folder / name
        model.save_pretrained(place, **({"state_dict": copies[name]} if copies else {}))
        (place / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        name_targets(place / "adapter_config.json", model.base_model.targeted_module_names)
        write_json(place / BINDING, {"base": base, "module": name})


def name_targets(path: Path, names: list[str]) -> None:
    """Full names of the adapted layers, sorted. PEFT shortens them to endings, which match other layers elsewhere too:
    a deeper network got 82 adapted layers instead of 45.
    """
    write_json(path, read_json(path) | {"target_modules": sorted(names)})


def load(wrapped: dict[str, Any], folder: Path, base: str) -> None:
    """The inverse of `save`. Stop: another base, another rank or alpha, a missing, unknown or mis-shaped tensor."""
    for name, model in wrapped.items():
        place = folder if len(wrapped) == 1 else folder / name
        refuse_other_base(place, base)
        refuse_other_shape(place, model.peft_config[ADAPTER])
        load_tensors(model, place)


def refuse_other_base(place: Path, base: str) -> None:
    bound = read_json(place / BINDING)
    if bound is None or bound["base"] != base:
        had = "no fingerprint" if bound is None else bound["base"][:12]
        raise Stop(
            f"the adapter in {place.name} was trained on another base ({had}, loaded is {base[:12]})",
            "bring the base that it was trained on (python step2_download.py)",
        )


def refuse_other_shape(place: Path, config: Any) -> None:
    stored = read_json(place / "adapter_config.json")
    for key in ("r", "lora_alpha", "use_rslora", "use_dora"):
        if stored[key] != getattr(config, key):
            raise Stop(
                f"the adapter was trained with {key}={stored[key]}, the run says {getattr(config, key)}",
                "use the settings that it was trained with",
            )


def load_tensors(model: Any, place: Path) -> None:
    import peft
    from safetensors.torch import load_file

    stored = load_file(place / "adapter_model.safetensors")
    wanted = peft.get_peft_model_state_dict(model)
    if stored.keys() != wanted.keys():
        missing, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
        wrong = f"{len(missing)} missing and {counted(len(extra), 'unknown tensor')}"
        raise Stop(f"the adapter has {wrong}, e.g. {(missing + extra)[0]}")
    other = [key for key, tensor in wanted.items() if stored[key].shape != tensor.shape]
    if other:
        shapes = f"{tuple(stored[other[0]].shape)} instead of {tuple(wanted[other[0]].shape)}"
        raise Stop(f"the adapter has {counted(len(other), 'tensor')} of another shape, e.g. {other[0]}: {shapes}")
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(stored[key])


def merge(wrapped: dict[str, Any]) -> dict[str, nn.Module]:
    """The modules with the adapters added into the base weights (in fp32: a bf16 sum would lose small deltas)."""
    return {name: model.float().merge_and_unload(safe_merge=True) for name, model in wrapped.items()}
