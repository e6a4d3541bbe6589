"""What step 2's --import takes: `lora_weights_*.pth`, the adapters that the LoRA fork of HaMeR saves by themselves.

Its names are `<layer>.lora_A`, `lora_B` and, where the layer has a bias, `lora_bias`, which is added to that bias. PEFT
has no place for the third; it is kept where the run trains that bias (`lora.full`). Adapters of the critic are passed
over, because no prediction comes from it. Neither the base nor alpha is in the file.
"""

import re
from typing import Any

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.core.words import counted
from lib.recipes.hamer.config import SUFFIXES, Config

CRITIC = "discriminator."
HEAD = "mano_head."


def adopt(config: Config, given: Foreign) -> tuple[str, str]:
    """Stop: another kind of file, tensors that are no adapters, other layers, biases that the run does not train."""
    given.refuse_other_than(SUFFIXES, "lora_weights_*.pth, adapters of HaMeR")

    from lib.network import checkpoint, foreign

    file = given.file
    layers, others, _ = foreign.read(file)
    if others or not layers:
        held = f"{counted(len(layers), 'adapter')} and, beside them, {counted(len(others), 'tensor')} of other kinds"
        raise Stop(f"{file.name} holds {held}", "name the file with the adapters alone, lora_weights_*.pth")
    critic = [name for name in layers if name.startswith(CRITIC)]
    mine = {name: sides for name, sides in layers.items() if name not in critic}
    moved = {name: sides["bias"] for name, sides in mine.items() if "bias" in sides and sides["bias"].any()}
    parts = given.attached()
    full = checkpoint.full_tensors(parts)
    places = {name: full.get(f"hamer.{name}.bias") for name in moved}
    foreign.fill(parts.modules["hamer"], mine, file, f"python step1_setup.py {targets(mine)}")
    if untrained := [name for name, place in places.items() if place is None]:
        kinds = "|".join(sorted({name.rpartition(".")[2] for name in moved}))
        cause = (
            f"{file.name} also moves the bias of {counted(len(untrained), 'layer')} ({untrained[0]}, …), "
            "for which PEFT's LoRA has no place"
        )
        raise Stop(cause, f"python step1_setup.py 'lora.full=[hamer.+({kinds}).bias]'   (the run trains them then)")
    for name, place in places.items():
        assert place is not None
        place.data += moved[name]
    passed = f", {counted(len(critic), 'adapter')} of the critic passed over" if critic else ""
    biases = f" and the biases of {len(moved)}" if moved else ""
    unknown = (
        f"neither its base nor alpha is in the file: the run's base is taken, and lora.alpha={config.lora.alpha:g}"
    )
    return f"adapters of {counted(len(mine), 'layer')}{biases}{passed}; {unknown}", "train.accept_seen=true"


def targets(layers: dict[str, Any]) -> str:
    """The settings that adapt the kinds of layers that the file has: 'lora.targets.backbone=[fc1,…] …'."""
    kinds: dict[str, set[str]] = {"backbone": set(), "head": set()}
    for name in layers:
        kind = name.removesuffix(".0").rpartition(".")[2]
        kind = "patch" if "patch_embed" in name else "mlp" if re.search(r"\.net\.\d$", name) else kind
        kinds["head" if name.startswith(HEAD) else "backbone"].add(kind)
    return " ".join(f"'lora.targets.{part}=[{','.join(sorted(found))}]'" for part, found in kinds.items())
