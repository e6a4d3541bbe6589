"""Pictures and tables of step 5: reconstructions, latents by user, statistics of the latents."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.records import Row, Stage
from lib.recipes.vavae_microdoppler import metrics, names, radar
from lib.recipes.vavae_microdoppler.autoencoder.evaluate import probe
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.features import gathered

FEWEST = 2  # points, which have two directions
MOST_NAMED = 16  # users in a legend


def figures(config: Config, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
    reconstructions(config, base, adapted, out / "reconstruction_results.png")
    latents(adapted, out / "users_in_the_latents.png")
    (out / "latent_statistics.json").write_text(json.dumps(statistics(config, adapted), indent=1), encoding="utf-8")


def reconstructions(config: Config, base: list[Row], adapted: list[Row], path: Path) -> None:
    """A row per user, with a held-out image: original, untouched base, adapted model, and where the latter is wrong."""
    from matplotlib.figure import Figure

    both = zip(base, adapted, strict=True)
    pairs = [(one, other) for one, other in both if "recon" in one.arrays and "recon" in other.arrays]
    if not pairs:
        return
    pairs.sort(key=lambda pair: pair[0].numbers["label"])
    extent = axes_of(config)
    figure = Figure(figsize=(10.4, 2.6 * len(pairs)), layout="constrained")
    for line, (one, other) in zip(figure.subplots(len(pairs), 4, squeeze=False), pairs, strict=True):
        error = np.abs(other.arrays["recon"] - other.arrays["image"]).mean(0) / 2
        pictures = [shown(one.arrays["image"]), shown(one.arrays["recon"]), shown(other.arrays["recon"]), error]
        of_base, of_adapted = (f"{row.numbers['psnr']:.1f} dB" for row in (one, other))
        titles = [one.sample_id, f"base {of_base}", f"adapted {of_adapted}", "error of the adapted"]
        for axes, picture, title in zip(line, pictures, titles, strict=True):
            # colours count for the error alone
            axes.imshow(picture, cmap="magma", vmin=0, vmax=0.3, extent=extent, aspect="auto")
            axes.set_title(names.drawable(title), fontsize=8, family=names.fonts())
            if extent is None:
                axes.axis("off")
            axes.tick_params(labelsize=6)
    if extent is not None:
        figure.supxlabel("time (s)", fontsize=8)
        figure.supylabel("velocity (m/s)", fontsize=8)
    said = "Held-out images, from above: the original, the untouched base's and the adapted model's, the error."
    figure.savefig(path, dpi=90, metadata={"Description": said})


def axes_of(config: Config) -> tuple[float, float, float, float] | None:
    """(first s, last s, lowest m/s, highest m/s) of an image that was made here, of echoes; None where nobody said."""
    if config.data.kind != "iq" and not (config.data.stand_in and not config.data.root):
        return None
    how = radar.of_settings(config.data, config.model.image_px)
    return 0.0, how.duration_s, how.low_m_s, how.high_m_s


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
    for label, user in names.users(rows).items():
        x, y = plane[labels == label].T
        axes.scatter(x, y, s=18, label=names.drawable(user))
    percent, silhouette = 100 * (values**2 / (values**2).sum())[:2].sum(), metrics.silhouette(vectors, labels)
    title = f"pooled latents of held-out images ({percent:.0f} % of the variance), silhouette {silhouette:.2f}"
    axes.set_title(title, fontsize=9)
    if len(np.unique(labels)) <= MOST_NAMED:
        axes.legend(prop={"family": names.fonts(), "size": 7})
    said = (
        "Latents of the held-out images by the adapted model, one colour per user: clusters are what tells users apart."
    )
    figure.savefig(path, dpi=90, metadata={"Description": said})


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
