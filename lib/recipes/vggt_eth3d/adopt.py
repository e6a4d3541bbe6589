"""What step 2's --import takes: a state dict of VGGT with PEFT's adapters, whole or the adapters alone."""

from dataclasses import replace

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.core.words import counted
from lib.recipes.vggt_eth3d import costs
from lib.recipes.vggt_eth3d.config import Config
from lib.scenes.base import WEIGHT_SUFFIXES
from lib.scenes.sections import STRATEGIES


def adopt(config: Config, given: Foreign) -> tuple[str, str]:
    """The adapters go into those of the run; the base that the file holds must be the published one.

    Heads that this run does not build are passed over. Stop: another kind of file, no adapters, other layers.
    """
    given.refuse_other_than(WEIGHT_SUFFIXES, "a state dict of VGGT with PEFT's adapters")

    from lib.network import foreign

    file, network = given.file, given.attached().modules[costs.MODULE]
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
