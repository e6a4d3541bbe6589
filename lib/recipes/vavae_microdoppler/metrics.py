"""Quality of reconstructions and generated sets. Plain definitions; the original's uint8 protocol is kept beside them.

Set metrics (Fréchet distance, kernel distance) are stated in the space of the features they are given: a small or
another network gives other numbers, which compare only with themselves.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def unit_range(image: Tensor) -> Tensor:
    """[-1, 1], possibly exceeded -> [0, 1]."""
    return ((image + 1) / 2).clamp(0, 1)


def mse(image: Tensor, recon: Tensor) -> Tensor:
    """Mean squared error of each image (n,), in the range of the images (n, c, h, w)."""
    return (image - recon).pow(2).flatten(1).mean(1)


def psnr(error: Tensor, peak: float) -> Tensor:
    """Mean squared errors (n,) -> dB (n,). Equal images would be infinite; 100 dB stands for them, so that means and
    intervals stay finite.
    """
    return 10 * torch.log10(peak**2 / error.clamp_min(peak**2 * 1e-10))


def to_uint8(image: Tensor) -> Tensor:
    """[-1, 1] (n, 3, h, w) -> uint8 (n, h, w, 3), truncated as LightningDiT's evaluation does."""
    return (127.5 * image + 128.0).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def ssim(image: Tensor, recon: Tensor, data_range: float) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each image (n,), as torchmetrics computes it.

    image, recon: (n, c, h, w), at least 6 pixels a side. 11x11 Gaussian of sigma 1.5, reflected borders.
    """
    x = torch.arange(-5, 6, dtype=image.dtype, device=image.device)
    line = torch.softmax(-(x**2) / (2 * 1.5**2), 0)
    channels = image.shape[1]
    window = (line[:, None] * line[None, :]).expand(channels, 1, 11, 11)
    image, recon = (F.pad(x, (5, 5, 5, 5), mode="reflect") for x in (image, recon))
    both = torch.cat([image, recon, image * image, recon * recon, image * recon])
    mean_a, mean_b, aa, bb, ab = F.conv2d(both, window, groups=channels).chunk(5)
    var_a, var_b, cov = (aa - mean_a**2).clamp_min(0), (bb - mean_b**2).clamp_min(0), ab - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    value = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.flatten(1).mean(1)


def foreground_psnr(image: Tensor, recon: Tensor, threshold: float = 0.1) -> Tensor:
    """PSNR in dB (n,) of images (n, 3, h, w) over pixels that differ from the background by more than `threshold`.

    The background is the image's most frequent colour: two thirds of a spectrogram are noise floor, which any network
    reproduces and which hides the error on the signal. An image that is all background counts as a whole. The images
    are in [-1, 1]; the threshold and the error are on [0, 1].
    """
    values = []
    for one, other in zip(unit_range(image), unit_range(recon), strict=True):
        bins = (one * 31).round().long().flatten(1)
        code = bins[0] * 1024 + bins[1] * 32 + bins[2]
        common = one.flatten(1)[:, code == code.mode().values].mean(1)
        mask = (one - common[:, None, None]).abs().amax(0) > threshold
        error = (one - other)[:, mask] if mask.any() else one - other
        values.append(psnr(error.pow(2).mean(), 1.0))
    return torch.stack(values)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to two sets of features (n, d) (Heusel et al. 2017).

    tr sqrt(AB) comes from the singular values of A^(1/2) B^(1/2), which needs no complex root.
    """
    gap = a.mean(0) - b.mean(0)
    root_a, root_b = centred_root(a), centred_root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return max(0.0, float(gap @ gap + (root_a**2).sum() + (root_b**2).sum() - 2 * cross))


def centred_root(features: np.ndarray) -> np.ndarray:
    """R (at most d, d) with R^T R = the unbiased covariance of features (n, d); small, because it is computed again in
    every one of a thousand resamples.
    """
    centred = (features - features.mean(0)).astype(np.float64)
    root: Any = np.linalg.qr(centred / np.sqrt(max(len(features) - 1, 1)), "r")  # numpy's types know only "reduced"
    return root


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID of features (n, d) and (m, d): unbiased squared MMD with the kernel (x·y/d + 1)^3 (Bińkowski et al. 2018).

    NaN for a set of one.
    """
    d = a.shape[1]
    aa, bb, ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    return float((aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1)) - 2 * ab.mean())


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances (n, m) of points (n, d) and (m, d); squared, they may come out a rounding error below 0."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0))


def silhouette(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987) over samples whose label occurs at least twice; NaN with fewer than two labels.

    features (n, d), labels (n,).
    """
    known, index = np.unique(labels, return_inverse=True)
    if len(known) < 2:
        return float("nan")
    member = np.eye(len(known))[index]  # (n, labels)
    counts = member.sum(0)
    total = distances(features, features) @ member
    rows = np.arange(len(features))
    own = total[rows, index] / np.maximum(counts[index] - 1, 1)
    total[rows, index] = np.inf
    other = (total / counts).min(1)
    usable = counts[index] > 1
    width = (other - own) / np.maximum(np.maximum(other, own), 1e-12)
    return float(width[usable].mean()) if usable.any() else float("nan")


def separation_ratio(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance between the users' centres over the mean distance of two samples of one user (the seed: > 1.5 good,
    > 2 excellent). features (n, d), labels (n,); NaN with fewer than two users, or where none has two samples.
    """
    known = np.unique(labels)
    centres = np.stack([features[labels == label].mean(0) for label in known])
    several = [x for x in (features[labels == label] for label in known) if len(x) > 1]
    within = [distances(x, x)[np.triu_indices(len(x), 1)].mean() for x in several]
    if len(known) < 2 or not within:
        return float("nan")
    return float(distances(centres, centres)[np.triu_indices(len(known), 1)].mean() / max(np.mean(within), 1e-12))


def linear_probe(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, ridge: float = 1e-2
) -> float:
    """Accuracy in [0, 1] of a ridge classifier on standardised features: how much of the user a linear probe finds.

    train, test: (n, d) and (m, d), their labels (n,) and (m,).
    """
    known = np.unique(train_labels)
    mean, scale = train.mean(0), train.std(0) + 1e-6
    x, y = ((f - mean) / scale for f in (train, test))
    x, y = (np.concatenate([f, np.ones((len(f), 1))], 1) for f in (x, y))
    targets = (train_labels[:, None] == known[None]).astype(np.float64)
    weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ targets)
    return float((known[(y @ weights).argmax(1)] == test_labels).mean())


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019): share of one set within the other's k-th neighbour
    balls. real (n, d), fake (m, d).
    """

    def covered(points: np.ndarray, balls: np.ndarray) -> float:
        radius = np.sort(distances(balls, balls), 1)[:, min(k, len(balls) - 1)]
        return float((distances(points, balls) <= radius[None]).any(1).mean())

    return covered(fake, real), covered(real, fake)


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the covariance's spectrum of features (n, d): how many directions they really use."""
    values = np.linalg.svd(centred_root(features), compute_uv=False) ** 2
    share = values / max(values.sum(), 1e-12)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
