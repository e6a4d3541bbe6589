"""Latents on disk in the published layout, and their statistics by channel.

    latents_rank00_shard000.safetensors   latents (n, c, h, w) fp32, logvar (n, c, h, w), labels (n,) int64
    latents_stats.safetensors             mean, std (1, c, 1, 1) of the training side
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.errors import Stop


@dataclass(frozen=True)
class LatentStatistics:
    """Normalisation by channel: mean and unbiased std (1, c, 1, 1) over items and positions."""

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
        """Statistics of another autoencoder or a squeezed shape would broadcast silently; both end here."""
        for what, tensor in (("mean", self.mean), ("std", self.std)):
            if tuple(tensor.shape) != (1, channels, 1, 1):
                raise Stop(f"{name}: {what} has shape {tuple(tensor.shape)}, not (1, {channels}, 1, 1)")
        if not bool((self.std > 0).all() and self.std.isfinite().all() and self.mean.isfinite().all()):
            raise Stop(f"{name}: a standard deviation is 0 or a number is not finite")
