"""Gradients of the trained tensors in one flat buffer: accumulation, sum over processes, clipping, finite check.

Trained tensors are few, so modules are not wrapped in DDP: after the last micro-batch one buffer is summed over the
processes. In float64 the sum is exact enough that 1, 2 and 4 processes agree; above 50 M numbers it stays float32.
"""
import torch

from lib.recipes import Group

FLOAT64_LIMIT = 50_000_000  # numbers; 8 bytes each


class GradientSum:
    """Collects the gradients of `tensors` over micro-batches, then over processes, then gives them back as `.grad`."""

    def __init__(self, tensors: dict[str, torch.nn.Parameter]):
        self.tensors = tensors
        size = sum(p.numel() for p in tensors.values())
        device = next(iter(tensors.values())).device
        self.flat = torch.zeros(size, dtype=torch.float64 if size <= FLOAT64_LIMIT else torch.float32, device=device)

    def clear(self) -> None:
        self.flat.zero_()

    def slices(self):
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

    def reduce(self, accelerator) -> None:
        if accelerator.num_processes > 1:
            self.flat.copy_(accelerator.reduce(self.flat, "sum"))

    def finite(self) -> bool:
        return bool(torch.isfinite(self.flat).all())

    def give_back(self) -> None:
        for _, tensor, part in self.slices():
            tensor.grad = part.view_as(tensor).to(tensor.dtype)


def clip(tensors: list[torch.nn.Parameter], limit: float) -> float:
    """Scales the gradients to an L2 norm of at most `limit` over all tensors; returns the norm before. 0 = only measure."""
    norm = float(torch.sqrt(sum(tensor.grad.double().square().sum() for tensor in tensors)))
    if limit and norm > limit:
        for tensor in tensors:
            tensor.grad.mul_(limit / (norm + 1e-6))
    return norm


def optimiser(group: Group, tensors: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[group.optimiser](tensors, lr=group.lr, betas=group.betas, weight_decay=group.weight_decay, foreach=True)


def learning_rate(peak: float, floor: float, step: int, steps: int, warmup_share: float) -> float:
    """Linear warm-up from the floor, then a cosine back to it: a function of the step, so nothing has to be saved."""
    import math

    warmup = int(warmup_share * steps)
    floor = min(floor, peak)
    if step < warmup:
        return floor + (peak - floor) * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


def average_decay(decay: float, step: int) -> float:
    """The decay of the averaged weights with warm-up: min(d, (1+n)/(10+n)). Without it most of the first hours' average
    is the random start (facts: llava_map §4.4)."""
    return min(decay, (1 + step) / (10 + step))
