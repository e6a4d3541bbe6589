"""Pictures of step 5 for the stage dit: generated spectrograms of each user beside real ones, and where they lie."""

from pathlib import Path

import numpy as np

from lib.recipes import Row
from lib.recipes.vavae_microdoppler.drawing import shown
from lib.recipes.vavae_microdoppler.evaluate import gathered


def draw(rows: list[Row], out: Path) -> None:
    by_user(rows, out / "generated_by_user.png")
    plane(rows, out / "generated_among_real.png")


def by_user(rows: list[Row], path: Path) -> None:
    """One row per user: real held-out images on the left, generated ones on the right."""
    from matplotlib.figure import Figure

    pictured: dict[int, list[Row]] = {}
    for row in rows:
        if "generated" in row.arrays:
            pictured.setdefault(int(row.numbers["label"]), []).append(row)
    if not pictured:
        return
    each = max(map(len, pictured.values()))
    figure = Figure(figsize=(1.5 * (2 * each + 0.6), 1.5 * len(pictured) + 0.4), layout="constrained")
    axes = figure.subplots(len(pictured), 2 * each + 1, squeeze=False, width_ratios=[1] * each + [0.15] + [1] * each)
    for line, (label, mine) in zip(axes, sorted(pictured.items()), strict=True):
        for place in line:
            place.axis("off")
        for number, row in enumerate(mine):
            line[number].imshow(shown(row.arrays["image"]))
            line[each + 1 + number].imshow(shown(row.arrays["generated"]))
            line[each + 1 + number].set_title("" if row.numbers["hit"] else "taken for another", fontsize=6)
        line[0].set_title(f"user {label}: real", fontsize=7, loc="left")
    axes[0][each + 1].set_title("generated", fontsize=7, loc="left")
    figure.savefig(path, dpi=100)


def plane(rows: list[Row], path: Path) -> None:
    """The two main directions of the reconstructions' features, with the generated ones in the same plane."""
    from matplotlib.figure import Figure

    real, fake = gathered(rows, "decoded"), gathered(rows, "fake")
    labels = np.array([int(row.numbers["label"]) for row in rows])
    centre = real.mean(0)
    directions = np.linalg.svd(real - centre, full_matrices=False)[2][:2].T
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for number, label in enumerate(np.unique(labels)):
        for features, marker in ((real, "o"), (fake, "x")):
            axes.scatter(*((features - centre) @ directions)[labels == label].T, s=16, marker=marker, color=f"C{number % 10}")
    axes.set_title("reconstructed held-out images (o) and generated ones (x), one colour per user", fontsize=9)
    figure.savefig(path, dpi=90)
