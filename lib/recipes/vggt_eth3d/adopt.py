"""What step 2's --import takes: a state dict of VGGT with PEFT's adapters, whole or the adapters alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.records import Parts
from lib.core.words import counted
from lib.recipes.vggt_eth3d import costs
from lib.recipes.vggt_eth3d.config import Config
from lib.scenes.base import WEIGHT_SUFFIXES

STRATEGIES = ("a", "b", "c")  # those with adapters


def adopt(
    config: Config,
    file: Path,
    asset_dirs: Callable[[], dict[str, Path]],
    attached: Callable[[], tuple[Parts, dict[str, Any]]],
    out: Path,
) -> tuple[str, str]:
    """The adapters go into those of the run; the base that the file holds must be the published one.

    Heads that this run does not build are passed over. Stop: another kind of file, no adapters, other layers.
    """
    if file.suffix not in WEIGHT_SUFFIXES:
        cause = f"{file.name} is nothing that this recipe imports: that is a state dict of VGGT with PEFT's adapters"
        raise Stop(cause, f"name a file that ends in {', '.join(WEIGHT_SUFFIXES)}")

    from lib.network import foreign

    network = attached()[0].modules[costs.MODULE]
    layers, others, same = foreign.read(file, network)
    if not layers:
        cause = f"{file.name} holds no adapters ({counted(same + len(others), 'tensor')} of a network without them)"
        raise Stop(cause, f"python step1_setup.py model.weights={file}   (where they are to be the base)")
    rank = foreign.fill(network, layers, file, fitting(config, set(layers)))
    checked = f"{counted(same, 'tensor')} of its base are the published ones" if same else (
        "it holds no tensor of its base, so nothing shows which weights it was trained on"
    )  # fmt: skip
    alpha = f"rank {rank}; alpha is not in such a file, so it is the run's, {config.lora.alpha:g}"
    return f"adapters of {counted(len(layers), 'layer')}, {alpha}; {checked}", "train.accept_seen=true"


def fitting(config: Config, layers: set[str]) -> str:
    """The command with which the run adapts what the file adapts."""
    shapes = costs.tensors(config.model)
    for strategy in STRATEGIES:
        asked = replace(config, lora=replace(config.lora, strategy=strategy, targets=[]))
        if {name.removesuffix(".weight") for name in costs.adapted(shapes, costs.lora_targets(asked))} == layers:
            return f"python step1_setup.py lora.strategy={strategy}"
    return "python step1_setup.py 'lora.targets=[...]'   (regexes of the layers that the file has)"
