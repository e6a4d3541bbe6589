"""The merged network as one file in the format of its base."""

from pathlib import Path

from lib.core.records import Parts, Stage
from lib.core.run import atomic
from lib.network import weights
from lib.scenes.sections import Settings


def export(config: Settings, stage: Stage, parts: Parts, out: Path) -> None:
    """One safetensors file with exactly the keys and the notes of the base file.

    What was not built is carried through. The notes name tensors that stand under several names and are stored once.
    """
    from safetensors.torch import save_file

    assert parts.source is not None, "build sets the file of the base"
    [network] = parts.modules.values()
    merged, tensors = network.state_dict(), {}
    prefix = weights.prefix([name for names in weights.shards(parts.source).values() for name in names])
    for name, tensor in weights.tensors(parts.source):
        tensors[prefix + name] = merged[name].contiguous() if name in merged else tensor.clone()
    with atomic(out / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata=notes(parts.source))


def notes(file: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file, None of any other."""
    if file.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(file, "np") as opened:
        return opened.metadata()
