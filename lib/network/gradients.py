"""Gradients of the trained tensors in one flat buffer: accumulation, sum over processes, clipping, finite check.

Trained tensors are few, so modules are not wrapped in DDP: after the last micro-batch one buffer is summed over the
processes. In float64 the sum is exact enough that 1, 2 and 4 processes agree; above 50 M parameters it stays float32.
Tensors that are spread over the processes (lib.network.sharding) are too many for that: their gradients are summed in
the backward pass, each process keeps its own rows, and what is asked of them all is asked of all processes.
"""

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lib.core.records import Group
from lib.network import sharding

FLOAT64_LIMIT = 50_000_000  # parameters; 8 bytes each
FUSED = ("cuda",)  # devices on which all whole tensors are stepped by one kernel


class GradientSum:
    """Collects the gradients of `tensors` over micro-batches, then over processes, then gives them back as `.grad`.

    `flat` is (parameters,), float64 up to FLOAT64_LIMIT and float32 above, on the device of the first tensor. Spread
    tensors are not in it: their sum is their `.grad`.
    """

    def __init__(self, tensors: dict[str, torch.nn.Parameter]):
        self.tensors = tensors
        self.spread = [p for p in tensors.values() if sharding.is_spread(p)]
        size = sum(p.numel() for p in tensors.values() if not sharding.is_spread(p))
        device = next(iter(tensors.values())).device
        self.flat = torch.zeros(size, dtype=torch.float64 if size <= FLOAT64_LIMIT else torch.float32, device=device)
        whole = [p for p in tensors.values() if not sharding.is_spread(p)]
        self.whole = list(zip(whole, views(self.flat, whole), strict=True))  # (tensor, its part of `flat` in its shape)

    def clear(self) -> None:
        self.flat.zero_()
        for tensor in self.spread:
            tensor.grad = None

    def slices(self) -> Iterator[tuple[str, torch.nn.Parameter, torch.Tensor]]:
        """(name, tensor, its gradient), the gradient flat: a view of `flat` that may be written to.

        Of a spread tensor it is that of this process's rows.
        """
        start = 0
        for name, tensor in self.tensors.items():
            if sharding.is_spread(tensor):
                yield name, tensor, sharding.local(gradient_of(tensor)).flatten()
            else:
                yield name, tensor, self.flat[start : start + tensor.numel()]
                start += tensor.numel()

    def collect(self) -> None:
        """Add the `.grad` of this micro-batch and drop it."""
        found = [(part, tensor.grad) for tensor, part in self.whole if tensor.grad is not None]
        if found:
            torch._foreach_add_([part for part, _ in found], [gradient for _, gradient in found])
        for tensor, _ in self.whole:
            tensor.grad = None

    def reduce(self, accelerator: Any) -> None:
        """Sum over the processes; afterwards all of them hold the same gradients."""
        if accelerator.num_processes > 1:
            self.flat.copy_(accelerator.reduce(self.flat, "sum"))

    def finite(self) -> bool:
        """Of the whole tensors the least and the largest number say it: both are NaN where one is."""
        if self.spread:
            return not self.not_finite()
        return bool(torch.stack(torch.aminmax(self.flat)).isfinite().all())

    def not_finite(self) -> list[str]:
        """The tensors whose gradient has a number that is not finite, on whichever process."""
        found = [name for name, _, gradient in self.slices() if not torch.isfinite(gradient).all()]
        return sharding.everywhere(found, self.spread)

    def any(self) -> bool:
        """Is any gradient other than zero?"""
        found = [name for name, _, gradient in self.slices() if gradient.any()]
        return bool(sharding.everywhere(found, self.spread))

    def give_back(self) -> None:
        """Every tensor's `.grad` becomes its part of the sum, in the tensor's own shape and dtype."""
        whole = [tensor for tensor, _ in self.whole]
        for precision in {tensor.dtype for tensor in whole}:
            for tensor, part in zip(whole, views(self.flat.to(precision), whole), strict=True):
                if tensor.dtype == precision:
                    tensor.grad = part
        for tensor in self.spread:
            tensor.grad = gradient_of(tensor)


def views(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Parts of a flat tensor, one after another, in the shapes of `tensors`."""
    parts = flat.split([tensor.numel() for tensor in tensors]) if tensors else ()
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gradient_of(tensor: torch.nn.Parameter) -> torch.Tensor:
    """Zero where nothing depended on the tensor."""
    return torch.zeros_like(tensor, requires_grad=False) if tensor.grad is None else tensor.grad


def clip(tensors: list[torch.nn.Parameter], limit: float) -> float:
    """Scales the gradients to an L2 norm of at most `limit` over all tensors; returns the norm before.

    A limit of 0 only measures. At least one tensor, and each has a gradient (`GradientSum.give_back`).
    """
    gradients = [sharding.local(tensor.grad) for tensor in tensors if tensor.grad is not None]
    norm = math.sqrt(square_sum(tensors))
    if limit and norm > limit:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return norm


def square_sum(tensors: list[torch.nn.Parameter]) -> float:
    """Of the gradients, in float64 and in the order of the tensors; those of spread tensors over all processes."""
    found = square_sums([gradient_of(tensor) for tensor in tensors if not sharding.is_spread(tensor)])
    rows = [sharding.local(gradient_of(tensor)) for tensor in tensors if sharding.is_spread(tensor)]
    if rows:
        found.append(sharding.summed(torch.stack(square_sums(rows)).sum(), tensors))
    return functools.reduce(operator.add, torch.stack(found).tolist())  # sum() rounds otherwise from Python 3.12 on


def square_sums(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of each gradient, in float64, without a copy of them in it (which took a quarter of a small network's step)."""
    return [norm.square() for norm in torch._foreach_norm(gradients, 2, torch.float64)] if gradients else []


def optimiser(group: Group, tensors: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW over the tensors of a group. KeyError: another word in `group.optimiser`.

    Whole and spread tensors lie in parameter groups of their own, since one operation cannot take both kinds. Spread
    ones are stepped one by one: all at once would need memory for another copy of them (950 MB of 0.48 G parameters
    over two processes). The fused step counts on the device, so `put_state` puts a stored count there.
    """
    kinds: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    whole = [tensor for tensor in tensors if not sharding.is_spread(tensor)]
    spread = [tensor for tensor in tensors if sharding.is_spread(tensor)]
    fused = all(tensor.device.type in FUSED for tensor in whole)
    ways = ((whole, {"fused": True} if fused else {"foreach": True}), (spread, {"foreach": False}))
    return kinds[group.optimiser](
        [{"params": chosen} | way for chosen, way in ways if chosen],
        lr=group.lr,
        betas=group.betas,
        weight_decay=group.weight_decay,
    )


def tensors_of(chosen: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """What an optimiser moves."""
    return [tensor for group in chosen.param_groups for tensor in group["params"]]


def put_state(chosen: torch.optim.Optimizer, tensor: torch.nn.Parameter, state: dict[str, torch.Tensor]) -> None:
    """Stored moments of one tensor, and its count of steps where the optimiser wants it."""
    fused = any(group.get("fused") and any(one is tensor for one in group["params"]) for group in chosen.param_groups)
    count = {"step": state["step"].to(tensor.device if fused else "cpu")}
    chosen.state[tensor] = state | count


def learning_rate(peak: float, min_ratio: float, step: int, steps: int, warmup_ratio: float) -> float:
    """Linear warm-up from a floor, then a cosine back to it: a function of the step, so nothing has to be saved.

    step: finished optimiser steps, 0 to `steps` - 1. warmup_ratio: the part of `steps` that the warm-up takes. The
    floor is a ratio of the peak (an absolute one made a rate of 1e-6 a constant); a ratio of 1 makes every rate
    constant.
    """
    warmup = int(warmup_ratio * steps)
    floor = min_ratio * peak
    if step < warmup:
        return floor + (peak - floor) * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


def average_decay(decay: float, step: int) -> float:
    """The decay of the averaged weights with warm-up: min(decay, (1 + step) / (10 + step)).

    Without the warm-up most of the first hours' average is the random start.
    """
    return min(decay, (1 + step) / (10 + step))
