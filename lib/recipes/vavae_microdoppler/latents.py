"""Statistics of latents by channel: what a diffusion model on them is normalised with."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.core.errors import Stop


@dataclass(frozen=True)
class LatentStatistics:
    """Normalisation by channel of latents (n, c, h, w): mean and unbiased std (1, c, 1, 1) over items and positions."""

    mean: Tensor
    std: Tensor
    multiplier: float = 1.0

    @classmethod
    def of(cls, latents: Tensor) -> "LatentStatistics":
        latents = latents.double()
        return cls(latents.mean((0, 2, 3), keepdim=True).float(), latents.std((0, 2, 3), keepdim=True).float())

    def normalise(self, latents: Tensor) -> Tensor:
        return (latents - self.mean.to(latents)) / self.std.to(latents) * self.multiplier

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents * self.std.to(latents) / self.multiplier + self.mean.to(latents)

    def check(self, channels: int, name: str) -> None:
        """Stop: statistics of another autoencoder or of a squeezed shape, which would broadcast silently; no spread."""
        for what, tensor in (("mean", self.mean), ("std", self.std)):
            if tuple(tensor.shape) != (1, channels, 1, 1):
                raise Stop(f"{name}: {what} has shape {tuple(tensor.shape)}, not (1, {channels}, 1, 1)")
        if not bool((self.std > 0).all() and self.std.isfinite().all() and self.mean.isfinite().all()):
            raise Stop(f"{name}: a standard deviation is 0 or a number is not finite")


class RunningMoments(nn.Module):
    """Mean and square of the sampled latents while the autoencoder trains: the export's statistics.

    A plain average over the first `HORIZON` micro-batches, then one that forgets: the network moves.
    """

    HORIZON = 200
    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("square", torch.ones(1, channels, 1, 1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, latents: Tensor) -> None:
        """Takes one micro-batch (n, c, h, w) in."""
        self.count += 1
        weight = 1.0 / min(int(self.count), self.HORIZON)
        latents = latents.detach().float()
        self.mean.lerp_(latents.mean((0, 2, 3), keepdim=True), weight)
        self.square.lerp_(latents.square().mean((0, 2, 3), keepdim=True), weight)

    def statistics(self) -> LatentStatistics:
        """Stop: nothing was taken in yet."""
        if not int(self.count):
            raise Stop("the latents have no statistics yet: no stage of this run was trained")
        return LatentStatistics(self.mean.clone(), (self.square - self.mean**2).clamp_min(1e-12).sqrt())
