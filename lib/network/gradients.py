"""Gradients of the trained tensors in one flat buffer: accumulation, sum over processes, clipping, finite check.

Trained tensors are few, so modules are not wrapped in DDP: after the last micro-batch one buffer is summed over the
processes. In float64 the sum is exact enough that 1, 2 and 4 processes agree; above 50 M parameters it stays float32.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

from lib.core.records import Group

FLOAT64_LIMIT = 50_000_000  # parameters; 8 bytes each


class GradientSum:
    """Collects the gradients of `tensors` over micro-batches, then over processes, then gives them back as `.grad`.

    `flat` is (parameters,), float64 up to FLOAT64_LIMIT and float32 above, on the device of the first tensor.
    """

    def __init__(self, tensors: dict[str, torch.nn.Parameter]):
        self.tensors = tensors
        size = sum(p.numel() for p in tensors.values())
        device = next(iter(tensors.values())).device
        self.flat = torch.zeros(size, dtype=torch.float64 if size <= FLOAT64_LIMIT else torch.float32, device=device)

    def clear(self) -> None:
        self.flat.zero_()

    def slices(self) -> Iterator[tuple[str, torch.nn.Parameter, torch.Tensor]]:
        """(name, tensor, its part of `flat`); a part is a flat view, which may be written to."""
        start = 0
        for name, tensor in self.tensors.items():
            yield name, tensor, self.flat[start : start + tensor.numel()]
            start += tensor.numel()

    def collect(self) -> None:
        """Add the `.grad` of this micro-batch and drop it."""
        for _, tensor, part in self.slices():
            if tensor.grad is not None:
                part += tensor.grad.flatten()
                tensor.grad = None

    def reduce(self, accelerator: Any) -> None:
        """Sum over the processes; afterwards all of them hold the same gradients."""
        if accelerator.num_processes > 1:
            self.flat.copy_(accelerator.reduce(self.flat, "sum"))

    def finite(self) -> bool:
        return bool(torch.isfinite(self.flat).all())

    def give_back(self) -> None:
        """Every tensor's `.grad` becomes its part of the sum, in the tensor's own shape and dtype."""
        for _, tensor, part in self.slices():
            tensor.grad = part.view_as(tensor).to(tensor.dtype)


def clip(tensors: list[torch.nn.Parameter], limit: float) -> float:
    """Scales the gradients to an L2 norm of at most `limit` over all tensors; returns the norm before.

    A limit of 0 only measures. At least one tensor, and each has a gradient (`GradientSum.give_back`).
    """
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    squares = [gradient.double().square().sum() for gradient in gradients]
    norm = float(torch.sqrt(sum(squares[1:], squares[0])))
    if limit and norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / (norm + 1e-6))
    return norm


def optimiser(group: Group, tensors: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW over the tensors of a group. KeyError: another word in `group.optimiser`."""
    kinds: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[group.optimiser](
        tensors, lr=group.lr, betas=group.betas, weight_decay=group.weight_decay, foreach=True
    )


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
