"""Safe reading of checkpoints, strict loading, fingerprints.

Our own files are safetensors; foreign `.pt`, `.pth` and `.ckpt` files are read by lib.network.pickled and by nothing
else. A load is strict: every tensor of the module is matched by name and shape, or the run stops. A base that is only
half loaded looks like a working model; it is what voided published results.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.core.run import atomic
from lib.core.words import counted
from lib.network import pickled

# A mapped page counts as memory until its file is closed, so a reader reopens its file after so many bytes.
REOPEN_BYTES = 512 << 20

MOST_NAME_BYTES = 255  # of a file, on every usual file system
WRAPPERS = ("state_dict", "model")  # keys under which trainers store the weights
PREFIXES = ("module.", "model.")  # what DistributedDataParallel and Lightning put before every name


@dataclass(frozen=True)
class Loaded:
    """What `load_strict` did: tensors matched and ignored. `fingerprint` binds adapters to this base."""

    matched: int
    ignored: int
    fingerprint: str


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
    """The named tensors of one file, which is reopened after every REOPEN_BYTES."""
    waiting = sorted(names, reverse=True)
    while waiting:
        get, read_bytes = opened(file, names), 0
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
    for name, beside in weight_map(path).items():
        found.setdefault(path.parent / beside, []).append(name)
    again = "python step2_download.py --force"
    if absent := [file.name for file in found if not file.is_file()]:
        cause = f"{path} names {counted(len(absent), 'file')} that are not beside it"
        raise Stop(f"{cause}: {', '.join(absent[:5])}", again)
    return found


def weight_map(path: Path) -> dict[str, str]:
    """Tensor name -> name of the file beside the index that holds it. Stop: the index is damaged."""
    again = "fetch it again: python step2_download.py --force"
    try:
        found = json.loads(checked(path).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise Stop(
            f"{path} is not the index of a sharded checkpoint ({type(error).__name__}: {error})", again
        ) from error
    if not isinstance(found, dict) or not found:
        raise Stop(f"{path}: its weight_map is not a table of tensor names and files", again)
    for name, file in found.items():
        named = isinstance(file, str) and file.isprintable() and Path(file).name == file
        if not named or len(file.encode()) > MOST_NAME_BYTES:
            raise Stop(f"{path}: {name!r} lies in {str(file)[:80]!r}, which is not a file's name", again)
    return found


def names_in(file: Path) -> list[str]:
    if file.suffix == ".safetensors":
        with open_safetensors(file) as handle:
            return list(handle.keys())
    return list(read_pickled(file))


def opened(file: Path, names: Iterable[str]) -> Callable[[str], Any]:
    """A function name -> tensor over a newly mapped file. Stop: it does not hold one of the names."""
    safe = file.suffix == ".safetensors"
    held: Any = open_safetensors(file) if safe else read_pickled(file)
    if lost := set(names) - set(held.keys()):
        cause = f"{file} does not hold {counted(len(lost), 'tensor')} ({some(list(lost))}) that its index names"
        raise Stop(cause, "python step2_download.py --force")
    get: Callable[[str], Any] = held.get_tensor if safe else held.__getitem__
    return get


def open_safetensors(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(checked(file), framework="pt")
    except SafetensorError as error:
        raise Stop(
            f"{file} is not a complete safetensors file ({error})", "fetch it again: python step2_download.py --force"
        ) from error


def read_pickled(file: Path, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Any]:
    """The state dict of a pickled checkpoint: name -> tensor.

    wrappers: keys under which the weights may be. Stop: the file is damaged or unsafe, or holds no state dict.
    """
    return state_dict_in(pickled.load(checked(file)), file, wrappers)


def state_dict_in(content: Any, file: Path, wrappers: tuple[str, ...]) -> dict[str, Any]:
    """The weights in what a trainer saved: the value itself, or what one of the wrappers holds; the rest is dropped."""
    import torch

    for wrapper in wrappers:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if isinstance(content, dict) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return content
    raise Stop(f"{file} holds no state dict: neither names with tensors, nor such a table in {' or '.join(wrappers)}")


def prefix(names: list[str]) -> str:
    """What stands before every name: "module.", "model.", both, or nothing."""
    common = ""
    for part in PREFIXES:
        if names and all(name.startswith(common + part) for name in names):
            common += part
    return common


def load_strict(
    module: Any,
    source: Path | Iterable[tuple[str, Any]],
    *,
    ignore: tuple[str, ...] = (),
    dtype: Any = None,
    shard: tuple[str, ...] = (),
) -> Loaded:
    """Fills every tensor of `module` from a file, or from (name, tensor) pairs that a recipe renamed.

    ignore: regexes over whole names of the source that have no place in the module (an optimiser, a head that is not
    built). dtype: what floating-point tensors are held in; None keeps the module's own. A module on the meta device
    gets its tensors one by one, so a load needs the module's size and no more. shard: the blocks of such a module, as
    in Parts.shard; where the run is spread over processes, each reads and keeps its own rows of them. Stop: any
    missing, unexpected or mis-shaped tensor, with the first five and the count; the module is then half filled and must
    not be used.
    """
    import torch

    from lib.network import sharding

    refuse_wrapped(module)
    over = sharding.spread_empty(module, shard, dtype)
    places = module.state_dict(keep_vars=True)
    label = str(source) if isinstance(source, (str, Path)) else type(module).__name__
    unexpected: list[str] = []
    misshaped: dict[str, str] = {}
    quantised: dict[str, str] = {}
    matched: list[str] = []
    digests: dict[str, str] = {}
    ignored = 0
    for name, tensor in tensors(Path(source)) if isinstance(source, (str, Path)) else source:
        if any(re.fullmatch(pattern, name) for pattern in ignore):
            ignored += 1
        elif name not in places:
            unexpected.append(name)
        elif tensor.shape != places[name].shape:
            misshaped[name] = f"{name} {tuple(tensor.shape)} instead of {tuple(places[name].shape)}"
        elif places[name].is_floating_point() and not is_plain(tensor):
            quantised[name] = f"{name} {tensor.dtype}"
        else:
            if over is None or len(matched) % over.count == over.rank:  # the processes hash in turns
                digests[name] = digest(name, tensor)
            matched.append(name)
            with torch.no_grad():
                place(module, name, places[name], tensor, dtype)
    known = set(matched)
    missing = [name for name in places if name not in known | misshaped.keys() | quantised.keys()]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": list(misshaped.values())}
    refuse_difference(label, faults | {"quantised or no floats": list(quantised.values())})
    refuse_meta(module, label)
    if over is not None:
        module.to(over.device)
        digests = {name: found for part in sharding.gathered(digests) for name, found in part.items()}
    return Loaded(len(matched), ignored, combine(digests))


def is_plain(tensor: Any) -> bool:
    """Is it of floats as networks are trained in? Of 8 bits and fewer, and of whole numbers, the scales are lost."""
    import torch

    return tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def place(module: Any, name: str, old: Any, tensor: Any, dtype: Any) -> None:
    """Puts a copy of `tensor` where `old` is in the module; a tensor on the meta device is replaced by a real one."""
    import torch

    from lib.network import sharding

    if sharding.is_spread(old):
        sharding.put(old, tensor)
        return
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
        there = f"the module already has adapters on {counted(len(layers), 'layer')} ({layers[0]}, …)"
        cause = f"{there}: {counted(len(lost), 'tensor')} of the base would be lost"
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
        buffers = counted(len(left), "buffer")
        raise Stop(f"loading {label} leaves {buffers} empty that no checkpoint holds: {', '.join(left[:5])}")


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
    """The fingerprint of (name, tensor) pairs, as `load_strict` reports it: 64 hexadecimal digits."""
    return combine({name: digest(name, tensor) for name, tensor in pairs})


def convert(source: Path, out: Path, *, without: tuple[str, ...] = (), wrappers: tuple[str, ...] = WRAPPERS) -> Path:
    """A pickled checkpoint as a safetensors file with the same names, written once; later calls find it and return.

    without: regexes over whole names that are left out (a licensed part). wrappers: keys under which the weights may
    be. All this and the source's size and time of change are kept in the file: where they differ, it is made again.
    """
    from safetensors.torch import save_file

    made_from = f"{source.name} {source.stat().st_size} {source.stat().st_mtime_ns} {without} {wrappers}"
    if is_made_from(out, made_from):
        return out
    kept = {
        name: tensor
        for name, tensor in read_pickled(source, wrappers).items()
        if not any(re.fullmatch(pattern, name) for pattern in without)
    }
    with atomic(out) as temporary:
        save_file(unshared(kept), temporary, metadata={"made_from": made_from})
    return out


def is_made_from(file: Path, made_from: str) -> bool:
    """A converted file that cannot be opened any more is made again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            return (handle.metadata() or {}).get("made_from") == made_from
    except (SafetensorError, FileNotFoundError):
        return False


def unshared(content: dict[str, Any]) -> dict[str, Any]:
    """safetensors takes no views: a slice of a larger storage, or a tensor under a second name, is copied."""
    seen: set[int] = set()
    out: dict[str, Any] = {}
    for name, tensor in content.items():
        storage = tensor.untyped_storage()
        own = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        out[name] = tensor if own else tensor.contiguous().clone()
    return out
