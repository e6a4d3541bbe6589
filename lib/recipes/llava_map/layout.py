"""Where prefix, instance and point tokens are in the sequence, and which of them may see which.

Sequence: prefix (scene tokens and prompt), then for each instance its own token and those of its points:
inst0, p0_0, p0_1, …, inst1, p1_0, …
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    prefix: int
    instances: int
    points: int

    @property
    def length(self) -> int:
        return self.prefix + self.instances * (1 + self.points)

    def allowed(self) -> Tensor:
        """Row may attend to column: bool (length, length).

        The prefix is causal and never sees a query. Every query sees the whole prefix, its own block (an instance and
        its points); an instance sees all instances too. True means "attend": scaled-dot-product attention takes it as
        it is, while a 0/1 float mask, or a bool mask with eager attention, would be added to the scores and mask
        nothing.
        """
        block, is_instance = self.blocks()
        query = block >= 0
        causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        same_block = query[:, None] & (block[:, None] == block[None])
        both_instances = is_instance[:, None] & is_instance[None]
        return torch.where(query[:, None], ~query[None] | same_block | both_instances, causal & ~query[None])

    def position_ids(self) -> Tensor:
        """(length,) int64. Every instance has the same, or instance 49 would be 1 000 positions behind instance 0."""
        inside = torch.arange(1 + self.points).repeat(self.instances)
        return torch.cat([torch.arange(self.prefix), self.prefix + inside])

    def blocks(self) -> tuple[Tensor, Tensor]:
        """Block number of each token (-1 in the prefix), and whether it is an instance token: two (length,)."""
        block = torch.arange(self.instances).repeat_interleave(1 + self.points)
        start = torch.zeros(1 + self.points, dtype=torch.bool)
        start[0] = True
        prefix = torch.full((self.prefix,), -1)
        return torch.cat([prefix, block]), torch.cat([prefix > 0, start.repeat(self.instances)])
