"""Safe reading of checkpoints, strict loading, fingerprints.

One file format of our own (safetensors); foreign `.pt`, `.pth` and `.ckpt` files pass torch's weights-only loader and
nothing else. A load is strict: every tensor of the module is matched by name and shape, or the run stops. A base that is
only half loaded is what voided the guides' published results, and it looks like a working model.
"""
import hashlib
import json
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import Stop
from lib.run import atomic

# A mapped page counts as memory until its file is closed, so a reader opens its file anew after so many bytes.
REOPEN_BYTES = 512 << 20

# Classes in Lightning checkpoints (HaMeR, VA-VAE) that stand beside the weights: configuration objects, paths, counters.
# They are read as empty dictionaries; a checkpoint that names anything else outside torch's own list is refused.
INERT = re.compile(r"(omegaconf|yacs|pytorch_lightning|lightning|lightning_fabric|pathlib|typing|enum|numpy)\..+"
                   r"|argparse\.Namespace|collections\.defaultdict|(builtins|__builtin__)\.(dict|list|int|float|str|bool|tuple|object)"
                   r"|copy_reg\._reconstructor|copyreg\._reconstructor")  # fmt: skip

WRAPPERS = ("state_dict", "model")  # keys under which trainers store the weights
PREFIXES = ("module.", "model.")  # what DistributedDataParallel and Lightning put before every name


@dataclass(frozen=True)
class Loaded:
    """What `load_strict` did. `fingerprint` binds adapters to this base (lib.adapters)."""

    matched: int
    ignored: int
    fingerprint: str


class Empty(OrderedDict):
    """Stands for a class of INERT: building one gives an empty ordered dictionary, which torch's loader may fill."""

    def __new__(cls, *arguments, **named):
        return OrderedDict()


class Ignored:
    """Stands for numpy's classes, whose state is a tuple that no dictionary could take."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        pass


def tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """The (name, tensor) pairs of a checkpoint file, in the order of their names.

    Takes .safetensors, a sharded index (.safetensors.index.json), .pt, .pth and .ckpt. A tensor lies in a mapped file:
    use or copy it before asking for the next one and keep no reference, then the process never holds the whole file.
    A prefix that every name has ("module.", "model.") is taken off. Stop: a missing, truncated or unsafe file.
    """
    if not Path(path).is_file():
        raise Stop(f"the checkpoint {path} does not exist")
    files = shards(Path(path))
    common = prefix([name for names in files.values() for name in names])
    for file, names in files.items():
        for name, tensor in in_portions(file, names):
            yield name.removeprefix(common), tensor


def in_portions(file: Path, names: list[str]) -> Iterator[tuple[str, Any]]:
    """The named tensors of one file, which is opened anew after every REOPEN_BYTES."""
    waiting = sorted(names, reverse=True)
    while waiting:
        get, read_bytes = opened(file), 0
        while waiting and read_bytes < REOPEN_BYTES:
            name = waiting.pop()
            tensor = get(name)
            read_bytes += tensor.nbytes
            yield name, tensor
            del tensor
        del get


def shards(path: Path) -> dict[Path, list[str]]:
    """The files of a checkpoint and the tensor names in each of them."""
    if not path.name.endswith(".index.json"):
        return {path: names_in(path)}
    found: dict[Path, list[str]] = {}
    for name, file in json.loads(path.read_text(encoding="utf-8"))["weight_map"].items():
        found.setdefault(path.parent / file, []).append(name)
    absent = [file.name for file in found if not file.is_file()]
    if absent:
        raise Stop(f"{path} names {len(absent)} missing files: {', '.join(absent[:5])}", "python step2_download.py --force")
    return found


def names_in(file: Path) -> list[str]:
    if file.suffix == ".safetensors":
        with open_safetensors(file) as handle:
            return list(handle.keys())
    return list(read_pickled(file))


def opened(file: Path):
    """A function name -> tensor over a newly mapped file."""
    if file.suffix == ".safetensors":
        return open_safetensors(file).get_tensor
    return read_pickled(file).__getitem__


def open_safetensors(file: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise Stop(f"{file} is no complete safetensors file ({error})", "fetch it again: python step2_download.py --force") from error


def read_pickled(file: Path, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Any]:
    """The state dict of a pickled checkpoint, through torch's weights-only loader, which runs no code of the file."""
    import pickle

    import torch

    zipped = zipfile.is_zipfile(file)
    inert = inert_classes(file) if zipped else []
    try:
        with torch.serialization.safe_globals(inert):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:  # what a damaged or foreign pickle gives
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Stop(f"{file} cannot be read as weights: {reason}", "fetch it again: python step2_download.py --force") from error
    return state_dict_in(content, file, wrappers)


def inert_classes(file: Path) -> list[tuple[type, str]]:
    """The file's classes that are read as empty dictionaries; a class outside INERT ends the run."""
    import torch

    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (RuntimeError, ValueError) as error:
        raise Stop(f"{file} is no complete PyTorch checkpoint ({error})", "fetch it again: python step2_download.py --force") from error
    refused = sorted(name for name in foreign if not INERT.fullmatch(name))
    if refused:
        cause = f"{file} is refused: besides weights it names {', '.join(refused[:5])}, which could run code"
        raise Stop(cause, "get the weights as safetensors from their publisher")
    return [(Ignored if name.startswith("numpy.") else Empty, name) for name in foreign]


def state_dict_in(content: Any, file: Path, wrappers: tuple[str, ...]) -> dict[str, Any]:
    """The weights in what a trainer saved: the value itself, or under one of the wrappers; other entries are dropped."""
    import torch

    for wrapper in wrappers:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise Stop(f"{file} holds no state dict: neither names with tensors, nor such a table under {' or '.join(wrappers)}")
    return content


def prefix(names: list[str]) -> str:
    """What stands before every name: "module.", "model.", both, or nothing."""
    common = ""
    for part in PREFIXES:
        if names and all(name.startswith(common + part) for name in names):
            common += part
    return common


def load_strict(module: Any, source: Path | Iterable[tuple[str, Any]], *, ignore: tuple[str, ...] = (), dtype: Any = None) -> Loaded:
    """Fills every tensor of `module` from a file, or from (name, tensor) pairs that a recipe renamed.

    ignore: regexes over whole names of the source that have no place in the module (an optimiser, a head that is not
    built). dtype: what floating-point tensors are held in; None keeps the module's own. A module on the meta device gets
    its tensors one by one, so a load needs the module's size and no more. Stop: any missing, unexpected or mis-shaped
    tensor, with the first five and the count. The module is then half filled and must not be used.
    """
    import torch

    refuse_wrapped(module)
    places = module.state_dict(keep_vars=True)
    label = str(source) if isinstance(source, (str, Path)) else type(module).__name__
    unexpected, misshaped, digests, ignored = [], {}, {}, 0
    for name, tensor in tensors(Path(source)) if isinstance(source, (str, Path)) else source:
        if any(re.fullmatch(pattern, name) for pattern in ignore):
            ignored += 1
        elif name not in places:
            unexpected.append(name)
        elif tensor.shape != places[name].shape:
            misshaped[name] = f"{name} {tuple(tensor.shape)} instead of {tuple(places[name].shape)}"
        else:
            digests[name] = digest(name, tensor)
            with torch.no_grad():
                place(module, name, places[name], tensor, dtype)
    missing = [name for name in places if name not in digests and name not in misshaped]
    refuse_difference(label, {"missing": missing, "unexpected": unexpected, "of another shape": list(misshaped.values())})
    refuse_meta(module, label)
    return Loaded(len(digests), ignored, combine(digests))


def place(module: Any, name: str, old: Any, tensor: Any, dtype: Any) -> None:
    """Puts a copy of `tensor` where `old` is in the module; a tensor on the meta device is replaced by a real one."""
    import torch

    wanted = dtype if dtype is not None and old.is_floating_point() else old.dtype
    if not old.is_meta and old.dtype == wanted:
        old.copy_(tensor)
        return
    new = tensor.to(wanted, copy=True, memory_format=torch.contiguous_format)
    owner, _, leaf = name.rpartition(".")
    if isinstance(old, torch.nn.Parameter):
        new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module.get_submodule(owner), leaf, new)


def refuse_wrapped(module: Any) -> None:
    """Adapters rename what they wrap, so a base loaded afterwards would miss every adapted layer."""
    lost = [name for name in module.state_dict() if ".base_layer." in name]
    layers = sorted({name.split(".base_layer.")[0] for name in lost})
    if lost:
        cause = f"the module already has adapters on {len(layers)} layers ({layers[0]}, …): {len(lost)} tensors of the base would be lost"
        raise Stop(cause, "load the base first, then attach the adapters")


def refuse_difference(label: str, faults: dict[str, list[str]]) -> None:
    said = [f"{len(names)} {word} ({some(names)})" for word, names in faults.items() if names]
    if said:
        cause = f"{label} does not fit the model: {'; '.join(said)}"
        raise Stop(cause, "check that the file and the model settings (model.*) belong together")


def some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")


def refuse_meta(module: Any, label: str) -> None:
    """Buffers that no checkpoint holds stay on the meta device, where every number is undefined."""
    left = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if left:
        raise Stop(f"after loading {label}, {len(left)} buffers that no checkpoint holds are still empty: {', '.join(left[:5])}")


def digest(name: str, tensor: Any) -> str:
    """The sha256 of one tensor: name, shape, dtype and bytes as they are in the file."""
    import torch

    summed = hashlib.sha256(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    summed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return summed.hexdigest()


def combine(digests: dict[str, str]) -> str:
    """One fingerprint of many tensors, the same in whatever order and in however many files they came."""
    return hashlib.sha256("\n".join(f"{name} {digests[name]}" for name in sorted(digests)).encode()).hexdigest()


def fingerprint(pairs: Iterable[tuple[str, Any]]) -> str:
    """The fingerprint of (name, tensor) pairs, as `load_strict` reports it."""
    return combine({name: digest(name, tensor) for name, tensor in pairs})


def convert(source: Path, out: Path, *, without: tuple[str, ...] = (), wrappers: tuple[str, ...] = WRAPPERS) -> Path:
    """A pickled checkpoint as a safetensors file with the same names, written once; later calls find it and return.

    without: regexes over whole names that are left out (a licensed part). wrappers: keys under which the
    weights are. The source's size and time are kept in the file, so another source is converted anew.
    """
    from safetensors.torch import save_file

    made_from = f"{source.name} {source.stat().st_size} {source.stat().st_mtime_ns}"
    if out.is_file():
        with open_safetensors(out) as handle:
            if (handle.metadata() or {}).get("made_from") == made_from:
                return out
    kept = {name: tensor for name, tensor in read_pickled(source, wrappers).items() if not any(re.fullmatch(pattern, name) for pattern in without)}
    with atomic(out) as temporary:
        save_file(unshared(kept), temporary, metadata={"made_from": made_from})
    return out


def unshared(content: dict[str, Any]) -> dict[str, Any]:
    """safetensors takes no views: a slice of a larger storage, or a tensor under a second name, is copied."""
    seen, out = set(), {}
    for name, tensor in content.items():
        storage = tensor.untyped_storage()
        own = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        out[name] = tensor if own else tensor.contiguous().clone()
    return out
