"""The merged network as one file in the format of its base."""

from pathlib import Path

from lib.core.records import Parts, Stage
from lib.core.run import atomic
from lib.network import weights
from lib.scenes.sections import Settings


def export(config: Settings, stage: Stage, parts: Parts, out: Path) -> None:
    """One safetensors file with exactly the keys that the base file has; what was not built is carried through."""
    from safetensors.torch import save_file

    assert parts.source is not None, "build sets the file of the base"
    [network] = parts.modules.values()
    merged, tensors = network.state_dict(), {}
    prefix = weights.prefix([name for names in weights.shards(parts.source).values() for name in names])
    for name, tensor in weights.tensors(parts.source):
        tensors[prefix + name] = merged[name].contiguous() if name in merged else tensor.clone()
    with atomic(out / "model.safetensors") as temporary:
        save_file(tensors, temporary)
