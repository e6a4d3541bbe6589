"""Pictures and tables of step 5: reconstructions, latents by user, statistics of the latents."""

import json
from pathlib import Path

import numpy as np

from lib.recipes import Row
from lib.recipes.vavae_microdoppler import metrics
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.evaluate import gathered, probe


def draw(cfg: Config, base: list[Row], adapted: list[Row], out: Path) -> None:
    reconstructions(base, adapted, out / "reconstruction_results.png")
    latents(adapted, out / "latents_by_user.png")
    (out / "latent_statistics.json").write_text(json.dumps(statistics(cfg, adapted), indent=1), encoding="utf-8")


def reconstructions(base: list[Row], adapted: list[Row], path: Path) -> None:
    """A held-out image per column: the original, the untouched base, the adapted model, and where the latter is wrong."""
    from matplotlib.figure import Figure

    pairs = [(one, other) for one, other in zip(base, adapted, strict=True) if "recon" in one.arrays and "recon" in other.arrays]
    if not pairs:
        return
    figure = Figure(figsize=(2.6 * len(pairs), 10.4), layout="constrained")
    axes = figure.subplots(4, len(pairs), squeeze=False)
    for column, (one, other) in enumerate(pairs):
        error = np.abs(other.arrays["recon"] - other.arrays["image"]).mean(0) / 2
        pictures = [shown(one.arrays["image"]), shown(one.arrays["recon"]), shown(other.arrays["recon"]), error]
        titles = [one.sample_id, f"base {one.numbers['psnr']:.1f} dB", f"adapted {other.numbers['psnr']:.1f} dB", "error of the adapted"]
        for row, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            axes[row][column].imshow(picture, **({"cmap": "magma", "vmin": 0, "vmax": 0.3} if row == 3 else {}))
            axes[row][column].set_title(title, fontsize=8)
            axes[row][column].axis("off")
    figure.savefig(path, dpi=90)


def shown(image: np.ndarray) -> np.ndarray:
    """(3, h, w) in [-1, 1] -> (h, w, 3) in [0, 1]."""
    return np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1)


def latents(rows: list[Row], path: Path) -> None:
    """The two main directions of the pooled latents, one colour per user."""
    from matplotlib.figure import Figure

    vectors, labels = gathered(rows, "latent"), np.array([int(row.numbers["label"]) for row in rows])
    centred = vectors - vectors.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ directions[:2].T
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for label in np.unique(labels):
        axes.scatter(*plane[labels == label].T, s=18, label=f"user {label}")
    share = (values**2 / (values**2).sum())[:2].sum()
    axes.set_title(
        f"pooled latents of held-out images ({100 * share:.0f} % of the variance), silhouette {metrics.silhouette(vectors, labels):.2f}",
        fontsize=9,
    )
    if len(np.unique(labels)) <= 16:
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def statistics(cfg: Config, rows: list[Row]) -> dict:
    """The guide's fields, over the held-out images and all positions of their sampled latents, and two numbers on their health."""
    mean, square = gathered(rows, "latent").mean(0), gathered(rows, "square").mean(0)
    return {
        "global_mean": mean.tolist(), "global_std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(), "num_samples": len(rows),
        "latent_dim": cfg.model.latent_channels, "spatial_size": cfg.model.latent_side, "side": "val",
        "effective_rank_of_pooled": metrics.effective_rank(gathered(rows, "latent")), "user_probe": probe(rows),
    }  # fmt: skip
