"""Adapters that another program saved, put into the run's own: the same layers, rank and shapes, or they are refused.

A state dict of a network that PEFT wrapped also holds the weights under its adapters. Where these are not the published
ones, the base was lost when it was loaded after the wrapping (lib.network.adapters says how), and no base that anybody
can fetch goes with the adapters.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.core.errors import Stop
from lib.core.words import counted
from lib.network import weights
from lib.network.adapters import ADAPTER, plain_name

WRAPPED = "base_model.model."  # what PEFT puts before every name
# "<layer>.lora_A.weight", and what programs without PEFT write: "<layer>.lora.lora_A", "<layer>.lora_bias".
ADAPTERS = re.compile(r"(.+?)(?:\.lora)?\.lora_(A|B|bias)(?:\.weight)?")
# What of other adapters has no place here, and moves what they predict: DoRA's lengths, biases of B, a second adapter.
BEYOND = re.compile(r".+\.(lora_\w+|modules_to_save)(\..+)?")
MERGE = "merge them into their base where they were made, and set model.weights to that file"
SAVE_AGAIN = "name another file with --import, or save it again where it was made"
SHOWN = 3

Layers = dict[str, dict[str, Tensor]]  # layer -> "A" (rank, …) and "B" (…, rank), perhaps "bias"


def tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a weight file, without what wrappers put before names. Stop: no file of weights, or unsafe."""
    try:
        for name, tensor in weights.tensors(file):
            yield plain_name(name.removeprefix(WRAPPED)), tensor
    except Stop as stop:
        raise Stop(stop.cause, SAVE_AGAIN) from stop


def read(file: Path, network: nn.Module | None = None) -> tuple[Layers, list[str], int]:
    """(the adapters, names that are neither adapters nor tensors of `network`, tensors that are the base's own).

    network: adapters attached, base as published; what the file holds of it is compared with it. Stop: it differs.
    """
    base = {} if network is None else {plain_name(k): t for k, t in network.state_dict().items() if ".lora_" not in k}
    layers: Layers = {}
    others: list[str] = []
    same: list[str] = []
    lost: list[str] = []
    quantised: list[str] = []
    for name, tensor in tensors(file):
        if match := ADAPTERS.fullmatch(name):
            quantised += [] if weights.is_plain(tensor) else [name]
            layers.setdefault(match[1], {})[match[2]] = tensor.detach().to(torch.float32, copy=True)
        elif name not in base:
            others.append(name)
        else:
            (same if equal(tensor, base[name]) else lost).append(name)
    refuse(file, "quantised or no floats", quantised, MERGE, "tensor")
    beyond = [name for name in others if BEYOND.fullmatch(name)]
    refuse(file, "what A and B of one plain LoRA cannot hold, in", beyond, MERGE, "tensor")
    if lost:
        raise Stop(*lost_base(file, lost, len(base), {name: base[name].numel() for name in lost}, layers))
    under = {name for name in base if name.rpartition(".")[0] in layers}
    absent = sorted(under - {*same}) if same else []
    refuse(file, "only a part of its base: missing under adapters", absent, SAVE_AGAIN, "tensor")
    return layers, others, len(same)


def equal(one: Tensor, other: Tensor) -> bool:
    """In the coarser of the two precisions, bit for bit: nothing has trained them."""
    coarse = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return one.shape == other.shape and torch.equal(one.to(coarse), other.to(coarse))


def lost_base(file: Path, lost: list[str], of: int, numbers: dict[str, int], layers: Layers) -> tuple[str, str]:
    """Cause and command where the base in the file is not the published one."""
    under = sum(name.rpartition(".")[0] in layers for name in lost)
    share = (
        f"{counted(len(lost), 'tensor')} of {of} ({sum(numbers.values()):,} numbers), {under} of them under adapters"
    )
    cause = (
        f"{file.name} was trained on another base: {share}, are not the published ones, e.g. {lost[0]}. Weights that "
        "are loaded after the wrapping miss every adapted layer, which then stays random; the adapters fit only that"
    )
    return cause, "python step4_train.py   (trains them on the published base)"


def fill(network: nn.Module, layers: Layers, file: Path, settings: str) -> int:
    """Copies A and B of every layer into the network's adapters; returns the rank. settings: what to say instead of
    those of the run where layers differ.

    Stop: half an adapter, a number that is not finite, other layers, another rank or shape; nothing is copied then.
    """
    mine: dict[str, Any] = {plain_name(n): layer for n, layer in network.named_modules() if hasattr(layer, "lora_A")}
    halves = [name for name, sides in layers.items() if not {"A", "B"} <= sides.keys()]
    broken = [name for name, sides in layers.items() if not all(t.isfinite().all() for t in sides.values())]
    refuse(file, "half of an adapter, A or B alone, in", halves, SAVE_AGAIN)
    refuse(file, "a number that is not finite in", broken, SAVE_AGAIN)
    refuse(file, "no adapter for", sorted(mine.keys() - layers.keys()), settings)
    refuse(file, "adapters that this run has not, of", sorted(layers.keys() - mine.keys()), settings)
    places = {name: [getattr(mine[name], f"lora_{side}")[ADAPTER].weight for side in "AB"] for name in layers}
    [*ranks] = {sides["A"].shape[0] for sides in layers.values()}
    here = next(iter(places.values()))[0].shape[0]
    if ranks != [here]:
        cause = f"the adapters in {file.name} have rank {', '.join(map(str, sorted(ranks)))}, and lora.rank={here}"
        raise Stop(cause, f"python step1_setup.py lora.rank={ranks[0]}   (and lora.alpha as it was there)")
    shapes = {name: [layers[name][side].shape for side in "AB"] for name in layers}
    misfit = [name for name, pair in places.items() if shapes[name] != [place.shape for place in pair]]
    refuse(file, "adapters of another shape for", misfit, "set model.* to the sizes of the network that was adapted")
    refuse_other_scale(file, {layer.scaling[ADAPTER] for layer in mine.values()})
    with torch.no_grad():
        for name, pair in places.items():
            for place, side in zip(pair, "AB", strict=True):
                place.copy_(layers[name][side])
    return here


def refuse_other_scale(file: Path, here: set[float]) -> None:
    """Stop: adapter_config.json, which PEFT writes beside adapter_model.*, multiplies adapters by another number."""
    beside = file.with_name("adapter_config.json")
    if not file.name.startswith("adapter_model.") or not beside.is_file():
        return
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
        rank, alpha, by_root = float(said["r"]), float(said["lora_alpha"]), bool(said.get("use_rslora"))
        there, patterns = alpha / (math.sqrt(rank) if by_root else rank), said.get("alpha_pattern")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise Stop(f"{beside} cannot be read ({type(error).__name__}: {error})", SAVE_AGAIN) from error
    if patterns or any(not math.isclose(there, one) for one in here):
        each = "each layer by its own number" if patterns else f"adapters by {there:g}"
        cause = f"{beside} multiplies {each}, and the run by {', '.join(f'{one:g}' for one in sorted(here))}"
        root = f" lora.peft.use_rslora={str(by_root).lower()}"
        raise Stop(cause, MERGE if patterns else f"python step1_setup.py lora.alpha={alpha:g}{root}")


def refuse(file: Path, what: str, names: list[str], command: str, kind: str = "layer") -> None:
    if names:
        shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
        raise Stop(f"{file.name} has {what} {counted(len(names), kind)} ({shown})", command)
