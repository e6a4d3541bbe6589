"""Metrics against formulas that are written out here."""

import numpy as np
import pytest
import torch

from lib.core.records import Row, Stage
from lib.recipes.vavae_microdoppler import metrics
from lib.recipes.vavae_microdoppler.autoencoder import evaluate
from lib.recipes.vavae_microdoppler.config import Config


def features(seed: int, n: int = 40, d: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)) @ np.random.default_rng(7).standard_normal((d, d)) + seed


def test_frechet_distance_is_the_formula():
    from scipy.linalg import sqrtm

    a, b = features(1), features(2)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert metrics.frechet(a, b) == pytest.approx(wanted, rel=1e-6)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_fewer_samples_than_dimensions_is_finite():
    assert np.isfinite(metrics.frechet(features(1, n=3, d=5), features(2, n=4, d=5)))


def test_kernel_distance_is_the_unbiased_sum():
    def kernel(x, y):
        return (x @ y / 5 + 1) ** 3

    def within(s):
        return np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])

    a, b = features(1, 6), features(2, 5)
    wanted = within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert metrics.kernel_distance(a, b) == pytest.approx(wanted, rel=1e-9)


def test_silhouette_is_the_definition():
    x, labels = features(3, 12, 3), np.repeat([0, 1, 2], 4)
    values = []
    for i in range(12):
        distance = np.linalg.norm(x - x[i], axis=1)
        inside = distance[(labels == labels[i]) & (np.arange(12) != i)].mean()
        nearest = min(distance[labels == other].mean() for other in {0, 1, 2} - {labels[i]})
        values.append((nearest - inside) / max(inside, nearest))
    # a distance to itself is the root of a rounding error
    assert metrics.silhouette(x, labels) == pytest.approx(np.mean(values), abs=1e-6)
    assert np.isnan(metrics.silhouette(x, np.zeros(12)))


def test_separation_ratio_of_two_clear_users():
    x = np.array([[0.0, 0], [0, 2], [10, 0], [10, 2]])
    assert metrics.separation_ratio(x, np.array([0, 0, 1, 1])) == pytest.approx(10 / 2)


def test_linear_probe_reads_a_linear_label_and_not_a_random_one():
    x = np.random.default_rng(0).standard_normal((200, 4))
    seen, noise = (x[:, 0] > 0).astype(int), np.random.default_rng(1).integers(0, 2, 200)
    assert metrics.linear_probe(x[:100], seen[:100], x[100:], seen[100:]) > 0.9
    assert metrics.linear_probe(x[:100], noise[:100], x[100:], noise[100:]) < 0.7


def test_foreground_counts_the_signal_alone():
    image, recon = torch.full((1, 3, 10, 10), -1.0), torch.full((1, 3, 10, 10), -1.0)
    image[..., 4, 4] = 1.0
    recon[..., 4, 4] = 0.8  # an error of 0.1 on [0, 1], at the one pixel that is not background
    assert float(metrics.foreground_psnr(image, recon)) == pytest.approx(20.0, abs=1e-3)
    whole = metrics.mse(metrics.unit_range(image), metrics.unit_range(recon))
    assert float(metrics.psnr(whole, 1.0)) == pytest.approx(40.0, abs=1e-3)


def test_precision_and_recall_of_equal_and_of_distant_sets():
    a = features(1)
    assert metrics.precision_recall(a, a) == (1.0, 1.0)
    assert metrics.precision_recall(a, a + 1000) == (0.0, 0.0)


def test_effective_rank_counts_directions():
    x = np.zeros((8, 4))
    x[:, 0], x[:, 1] = [1, -1] * 4, [1, 1, -1, -1] * 2  # two directions of equal variance
    assert metrics.effective_rank(x) == pytest.approx(2.0)


def scored(psnr: float, label: int, vector: list[float]) -> Row:
    numbers = {"psnr": psnr, "mse": 10 ** (-psnr / 10), "label": label} | {
        f"{name}_{i:02}": v for name in ("real", "fake", "latent", "square") for i, v in enumerate(vector)
    }
    return Row(f"{label}/{psnr}", f"{label}", numbers)


def test_summary_means_and_whole_set_metrics():
    rows = [scored(20, 0, [0.0, 0]), scored(30, 0, [0, 2]), scored(22, 1, [10, 0]), scored(24, 1, [10, 2])]
    found = evaluate.summarise(Config(), Stage("align", 1), rows)
    assert found["psnr"] == pytest.approx(24) and found["user_ratio"] == pytest.approx(5)
    assert found["frechet_vgg32"] == pytest.approx(0, abs=1e-9) and "lpips" not in found


def test_a_linear_probe_is_trained_and_read_on_different_recordings():
    def row(user: int, recording: int, vector: list[float]) -> Row:
        numbers = {"label": user} | {f"latent_{i:02}": v for i, v in enumerate(vector)}
        return Row(f"{user}/{recording}", f"{user}/{recording}", numbers)

    apart = [row(user, recording, [10.0 * user, recording]) for user in (0, 1) for recording in range(4)]
    assert evaluate.probe(apart) == 1.0
    swapped = [row(user, recording, [10.0 * (user ^ recording % 2), 0.0]) for user in (0, 1) for recording in range(4)]
    assert evaluate.probe(swapped) == 0.0  # what it learns of the even recordings is wrong of the odd ones
    assert np.isnan(evaluate.probe(apart[:1]))
