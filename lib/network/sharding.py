"""A network over processes: each holds its rows of every tensor of a block, and a block is whole only while it runs.

torch's `fully_shard` does the work, on each block by itself: what lies outside of the blocks, and every adapter, is
whole in every process, so a recipe calls its network as before. A recipe names the blocks (`Parts.shard`) and knows
nothing else of it. All processes must then run the same forwards, since each forward gathers: `most` says how many.
"""

import contextlib
import ctypes
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, fully_shard, share_comm_ctx
from torch.distributed.tensor import DTensor

from lib.core.errors import FAILED, Stop, nearest
from lib.core.footprint import needs_shards
from lib.core.job import Job
from lib.core.processes import any_asks
from lib.core.records import Parts


@dataclass(frozen=True)
class Over:
    """The processes that a network is spread over, in a mesh of one dimension, and this process's device."""

    mesh: Any
    device: torch.device

    @property
    def rank(self) -> int:
        return int(self.mesh.get_local_rank())

    @property
    def count(self) -> int:
        return int(self.mesh.size())


CURRENT: ContextVar[Over | None] = ContextVar("over", default=None)


def wanted(job: Job, accelerator: Any) -> bool:
    """train.shard, with "auto" decided: several GPUs, one of which has less memory than the recipe's plan asks for."""
    chosen: str = job.config.train.shard
    if chosen != "auto":
        return chosen == "on"
    if accelerator.num_processes == 1 or accelerator.device.type != "cuda":
        return False
    with job.unwatched():
        needed = job.recipe.plan(job.config).footprint
    if needed is None:
        raise Stop("train.shard=auto cannot decide: the size of the network is not known", "say train.shard=on or off")
    held = torch.cuda.get_device_properties(accelerator.device).total_memory
    return any_asks(accelerator, needs_shards(needed, held, accelerator.num_processes))


@contextlib.contextmanager
def decided(job: Job, accelerator: Any) -> Iterator[None]:
    """Within the block job.shard says whether networks are spread, and if so there is a process group to do it."""
    from accelerate.utils import AutocastKwargs

    job.shard = wanted(job, accelerator)
    if not job.shard:
        yield
        return
    # autocast would keep a copy of every block in half precision until the forward pass ends
    accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)
    with group(accelerator):
        yield


@contextlib.contextmanager
def group(accelerator: Any) -> Iterator[None]:
    """Within the block there is a process group, also for a process that is alone; torch shards over nothing less."""
    if accelerator.device.type == "cpu":
        give_back_memory()
    alone = not dist.is_initialized()
    if alone:
        backend = "nccl" if accelerator.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        if alone:
            dist.destroy_process_group()


def give_back_memory() -> None:
    """What glibc frees goes back to the system from 1 MB on.

    By itself it raises that limit to 32 MB and keeps the rest in a heap that falls into pieces: 1 915 MB of weights
    over two processes then took 1 780 MB of each instead of 935, and 2 620 MB at most instead of 1 740.
    """
    threshold_parameter = -3  # M_MMAP_THRESHOLD of malloc.h
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(threshold_parameter, 1 << 20)


@contextlib.contextmanager
def over(accelerator: Any) -> Iterator[None]:
    """Within the block `weights.load_strict` spreads what it loads over the processes of the accelerator."""
    device = accelerator.device
    mesh = dist.device_mesh.init_device_mesh(device.type, (accelerator.num_processes,))
    token = CURRENT.set(Over(mesh, device))
    try:
        yield
    finally:
        CURRENT.reset(token)


# ---------------------------------------------------------------------------------------------- blocks


def blocks(module: Any, patterns: Iterable[str], name: str) -> list[str]:
    """The names of the submodules that the regexes match. Stop: one matches nothing, or a block lies in another."""
    names = [inner for inner, _ in module.named_modules() if inner]
    found = []
    for pattern in patterns:
        hits = [inner for inner in names if re.fullmatch(pattern, inner)]
        if not hits:
            close = nearest(pattern, names[:400])[:300]
            raise Stop(f"Parts.shard: {pattern!r} matches no part of {name}: {close}", "correct the recipe", FAILED)
        found += [hit for hit in hits if hit not in found]
    nested = [(one, other) for one in found for other in found if one.startswith(f"{other}.")]
    if nested:
        one, other = nested[0]
        raise Stop(f"Parts.shard: the block {one} of {name} lies in the block {other}", "correct the recipe", FAILED)
    return found


def spread_empty(module: Any, patterns: Iterable[str], dtype: Any) -> Over | None:
    """The blocks of a module on the meta device, as this process's rows without values; the rest stays as it is.

    dtype: what floating-point tensors are held in; None keeps them. None is returned, and nothing done, outside of
    `over` and where the module holds values already.
    """
    chosen = CURRENT.get()
    if chosen is None or not patterns or not any(p.is_meta for p in module.parameters()):
        return None
    for name in blocks(module, patterns, type(module).__name__):
        block = module.get_submodule(name)
        for parameter in block.parameters():
            if dtype is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        spread(block, chosen)
        allocate(block, chosen.device)
    return chosen


def spread(block: Any, chosen: Over) -> None:
    """Gradients are summed over the processes; torch's own choice is their mean.

    A backward pass gathers no block ahead of time but itself: torch would also gather the one before it in the order of
    all forwards, which may be a block without a gradient, and keep it until its next forward, past an update.
    """
    fully_shard(block, mesh=chosen.mesh, reshard_after_forward=True)  # in words: a block alone would stay gathered
    block.set_modules_to_backward_prefetch([block])
    block.set_gradient_divide_factor(1.0)
    block.set_force_sum_reduction_for_comms(True)


def allocate(block: Any, device: torch.device) -> None:
    """Memory for what has none yet. Buffers with values keep them: no file holds rotary frequencies."""
    kept = {name: buffer for name, buffer in block.named_buffers() if not buffer.is_meta}
    stored = block.state_dict()
    lost = [name for name, buffer in block.named_buffers() if name not in kept and name not in stored]
    if lost:
        raise Stop(
            f"{type(block).__name__} has buffers without values that no checkpoint holds: {lost[0]}", code=FAILED
        )
    block.to_empty(device=device)
    for name, buffer in kept.items():
        owner, _, leaf = name.rpartition(".")
        setattr(block.get_submodule(owner), leaf, buffer.to(device))


def complete(parts: Parts) -> None:
    """Within `over`: the blocks of `Parts.shard` that were not loaded in parts are cut now. Stop: there are none."""
    chosen, units = CURRENT.get(), []
    if chosen is not None and not parts.shard:
        raise Stop("the recipe names no blocks that could be spread over processes", "train.shard=off")
    for name, patterns in parts.shard.items():
        for inner in blocks(parts.modules[name], patterns, name):
            block = parts.modules[name].get_submodule(inner)
            if chosen is not None and not isinstance(block, FSDPModule):
                spread(block, chosen)
            units.append(block)
    if chosen is not None:
        share_comm_ctx(units)  # else every block keeps its last summed gradients, whole, until the backward pass ends


# ---------------------------------------------------------------------------------------------- tensors


def is_spread(tensor: Any) -> bool:
    return isinstance(tensor, DTensor)


def is_sharded(parts: Parts) -> bool:
    return any(is_spread(tensor) for module in parts.modules.values() for tensor in module.parameters())


@torch.no_grad()
def local(tensor: Any) -> torch.Tensor:
    """What this process holds of a tensor: its rows, as a view that may be written to; the tensor where it is whole.

    Sums over a spread tensor would be sums over these rows, without a word.
    """
    return tensor.to_local() if is_spread(tensor) else tensor


def own_rows(whole: Any, place: Any) -> Any:
    """The rows of a whole tensor that this process holds of `place`: ceil(rows / processes), the last ones fewer."""
    if not is_spread(place):
        return whole
    each = -(-len(whole) // place.device_mesh.size())
    first = each * place.device_mesh.get_local_rank()
    return whole[first : first + each]


@torch.no_grad()
def put(place: Any, whole: Any) -> None:
    """Copies a tensor, or this process's rows of it, to where it belongs; one that is spread goes to a spread one."""
    local(place).copy_(local(whole) if is_spread(whole) else own_rows(whole, place))


def summed(value: torch.Tensor, tensors: Iterable[Any]) -> torch.Tensor:
    """A sum over the rows of `tensors` (at least one is spread), over all processes."""
    mesh = next(tensor.device_mesh for tensor in tensors if is_spread(tensor))
    total = value.clone()
    dist.all_reduce(total, group=mesh.get_group())
    return total


def everywhere(names: list[str], tensors: Iterable[Any]) -> list[str]:
    """Names that any process found, in order; where nothing is spread all processes found the same."""
    if not any(map(is_spread, tensors)):
        return names
    return sorted({name for found in gathered(names) for name in found})


def gathered(mine: Any) -> list[Any]:
    """An object of each process, on all of them."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


def most(accelerator: Any, count: int) -> int:
    """The largest of the processes' counts."""
    if accelerator.num_processes == 1:
        return count
    largest = torch.tensor(count, device=accelerator.device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)
