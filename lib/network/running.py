"""Running statistics that training moves: those of a BatchNorm, of latents.

They move once in an optimiser step, by the mean of what its micro-batches would move them from where they were. So
they belong to the whole batch: neither to the first process's part of it, nor to the order of its micro-batches.
"""

import re
from typing import Any

import torch

from lib.core.records import Parts
from lib.network.adapters import plain_name
from lib.network.gradients import views


def buffers(parts: Parts) -> dict[str, torch.Tensor]:
    """Those that Parts.buffers names, by name."""
    named = {
        f"{module}.{plain_name(name)}": buffer
        for module, network in parts.modules.items()
        for name, buffer in network.named_buffers()
    }
    return {name: one for name, one in named.items() if any(re.fullmatch(pattern, name) for pattern in parts.buffers)}


class RunningStatistics:
    """`begin`, then a forward and `collect` for each micro-batch of this process, then `finish`.

    Of a single micro-batch the statistics are those of its forward, bit for bit: their difference is exact in float64.
    """

    def __init__(self, parts: Parts):
        self.buffers = list(buffers(parts).values())
        self.before: list[torch.Tensor] = []
        self.moved = torch.zeros(0)

    def begin(self) -> None:
        self.before = [buffer.clone() for buffer in self.buffers]
        self.moved = torch.zeros_like(flat(self.before))

    def collect(self) -> None:
        self.moved += flat(self.buffers) - flat(self.before)
        self.undo()

    @torch.no_grad()
    def undo(self) -> None:
        """Back to where they were at `begin`."""
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before)

    @torch.no_grad()
    def finish(self, accelerator: Any, micro_batches: int) -> None:
        """micro_batches: of the step, on all processes. Counts stay whole numbers."""
        if self.buffers and accelerator.num_processes > 1:
            self.moved = accelerator.reduce(self.moved, "sum")
        for buffer, part in zip(self.buffers, views(self.moved, self.buffers), strict=True):
            value = buffer.double() + part / micro_batches
            buffer.copy_(value if buffer.is_floating_point() else value.round())


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    """One after another, in float64."""
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors]) if tensors else torch.zeros(0)
