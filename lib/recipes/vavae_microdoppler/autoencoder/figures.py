"""Pictures and tables of step 5: reconstructions, latents by user, statistics of the latents."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.records import Row, Stage
from lib.recipes.vavae_microdoppler import metrics
from lib.recipes.vavae_microdoppler.autoencoder.evaluate import probe
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.features import gathered

FEWEST = 2  # points, which have two directions


def figures(config: Config, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
    reconstructions(base, adapted, out / "reconstruction_results.png")
    latents(adapted, out / "users_in_the_latents.png")
    (out / "latent_statistics.json").write_text(json.dumps(statistics(config, adapted), indent=1), encoding="utf-8")


def reconstructions(base: list[Row], adapted: list[Row], path: Path) -> None:
    """A held-out image per column: original, untouched base, adapted model, and where the latter is wrong."""
    from matplotlib.figure import Figure

    both = zip(base, adapted, strict=True)
    pairs = [(one, other) for one, other in both if "recon" in one.arrays and "recon" in other.arrays]
    if not pairs:
        return
    figure = Figure(figsize=(2.6 * len(pairs), 10.4), layout="constrained")
    axes = figure.subplots(4, len(pairs), squeeze=False)
    for column, (one, other) in enumerate(pairs):
        error = np.abs(other.arrays["recon"] - other.arrays["image"]).mean(0) / 2
        pictures = [shown(one.arrays["image"]), shown(one.arrays["recon"]), shown(other.arrays["recon"]), error]
        of_base, of_adapted = (f"{row.numbers['psnr']:.1f} dB" for row in (one, other))
        titles = [one.sample_id, f"base {of_base}", f"adapted {of_adapted}", "error of the adapted"]
        for row, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            axes[row][column].imshow(picture, cmap="magma", vmin=0, vmax=0.3)  # colours count for the error alone
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
    if len(rows) < FEWEST:
        return
    centred = vectors - vectors.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ directions[:2].T
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for label in np.unique(labels):
        x, y = plane[labels == label].T
        axes.scatter(x, y, s=18, label=f"user {label}")
    percent, silhouette = 100 * (values**2 / (values**2).sum())[:2].sum(), metrics.silhouette(vectors, labels)
    title = f"pooled latents of held-out images ({percent:.0f} % of the variance), silhouette {silhouette:.2f}"
    axes.set_title(title, fontsize=9)
    if len(np.unique(labels)) <= 16:
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def statistics(config: Config, rows: list[Row]) -> dict[str, Any]:
    """The guide's fields, over the held-out images and all positions of their sampled latents, and two numbers on how
    healthy they are.
    """
    mean, square = gathered(rows, "latent").mean(0), gathered(rows, "square").mean(0)
    return {
        "global_mean": mean.tolist(),
        "global_std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
        "num_samples": len(rows),
        "latent_dim": config.model.latent_channels,
        "spatial_size": config.model.latent_side,
        "side": "test",
        "effective_rank_of_pooled": metrics.effective_rank(gathered(rows, "latent")),
        "user_probe": probe(rows),
    }
