"""The space in which sets of pictures are compared, and how a row of scores carries a vector.

Features are the perceptual network's last VGG map, pooled. A set metric is computed again for every resample of the
interval, from rows; a row holds numbers by name, so a vector is taken apart into them.
"""

from operator import itemgetter

import numpy as np
import torch

from lib.core.records import Row
from lib.recipes.vavae_microdoppler.lpips import Perceptual

WIDTH = 32  # of a feature


def pooled(perceptual: Perceptual, image: torch.Tensor) -> torch.Tensor:
    """Images (n, 3, h, w) in [-1, 1] -> features (n, WIDTH), fp32; fewer where the last map has fewer channels.

    The map is averaged over positions; a fixed random projection keeps distances in fewer numbers.
    """
    with torch.autocast(image.device.type, enabled=False):
        feature = perceptual.net(perceptual.scaling_layer(image.float()))[-1].mean((2, 3))
    if feature.shape[1] <= WIDTH:
        return feature
    matrix = torch.randn(feature.shape[1], WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return feature @ torch.linalg.qr(matrix).Q.float().to(feature.device)


def spread(name: str, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Vectors (n, d) -> {name_00: (n,), name_01: (n,), …}."""
    return {f"{name}_{i:02}": vectors[:, i] for i in range(vectors.shape[1])}


def gathered(rows: list[Row], name: str) -> np.ndarray:
    """The vectors (rows, d) that `spread` took apart; (rows, 0) where the rows hold none of that name."""
    keys = sorted(key for key in rows[0].numbers if key.startswith(f"{name}_") and key[-2:].isdigit())
    return np.array([itemgetter(*keys)(row.numbers) for row in rows]) if keys else np.empty((len(rows), 0))
