"""Pictures of step 5 for the stage dit: generated spectrograms of each user beside real ones, and where they lie."""

from pathlib import Path

import numpy as np

from lib.core.records import Row, Stage
from lib.recipes.vavae_microdoppler import names
from lib.recipes.vavae_microdoppler.autoencoder.figures import FEWEST, MOST_NAMED, shown
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.features import gathered

SHOWN = ("image", "reconstructed", "generated")  # arrays of a row, from left to right


def figures(config: Config, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
    by_user(adapted, out / "generated_by_user.png")
    plane(adapted, out / "samples_among_real.png")


def by_user(rows: list[Row], path: Path) -> None:
    """One line per user: held-out images, what the decoder makes of them, and generated ones."""
    from matplotlib.figure import Figure

    pictured: dict[int, list[Row]] = {}
    called = names.users(rows)
    for row in rows:
        if "generated" in row.arrays:
            pictured.setdefault(int(row.numbers["label"]), []).append(row)
    if not pictured:
        return
    each = max(map(len, pictured.values()))
    widths = [*[1] * each, 0.15] * len(SHOWN)
    figure = Figure(figsize=(1.1 * sum(widths), 1.1 * len(pictured) + 0.4), layout="constrained")
    axes = figure.subplots(len(pictured), len(widths), squeeze=False, width_ratios=widths)
    for place in axes.flat:
        place.axis("off")
    for line, (label, mine) in zip(axes, sorted(pictured.items()), strict=True):
        for block, name in enumerate(SHOWN):
            for number, row in enumerate(mine):
                place = line[block * (each + 1) + number]
                place.imshow(shown(row.arrays[name]))
                if name == "generated" and not row.numbers["hit"]:
                    place.set_title("taken for another", fontsize=6)
        line[0].set_title(names.drawable(called[label]), fontsize=7, loc="left", family=names.fonts())
    for block, name in enumerate(SHOWN):
        axes[-1][block * (each + 1)].text(0, -0.12, name, transform=axes[-1][block * (each + 1)].transAxes, fontsize=8)
    said = "One line per user: held-out images, the same as the decoder rebuilds them, and generated ones."
    figure.savefig(path, dpi=100, metadata={"Description": said})


def plane(rows: list[Row], path: Path) -> None:
    """The two main directions of the reconstructions' features, with the generated ones in the same plane."""
    from matplotlib.figure import Figure

    if len(rows) < FEWEST:
        return
    real, fake = gathered(rows, "decoded"), gathered(rows, "fake")
    labels = np.array([int(row.numbers["label"]) for row in rows])
    centre = real.mean(0)
    directions = np.linalg.svd(real - centre, full_matrices=False)[2][:2].T
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for number, (label, user) in enumerate(names.users(rows).items()):
        for features, marker in ((real, "o"), (fake, "x")):
            x, y = ((features - centre) @ directions)[labels == label].T
            called = names.drawable(user) if marker == "o" else None
            axes.scatter(x, y, s=16, marker=marker, color=f"C{number % 10}", label=called)
    if len(np.unique(labels)) <= MOST_NAMED:
        axes.legend(prop={"family": names.fonts(), "size": 7})
    axes.set_title("reconstructed held-out images (o) and generated ones (x), one colour per user", fontsize=9)
    said = "Do generated images lie where real ones do? Features of both, in the plane where the real ones differ most."
    figure.savefig(path, dpi=90, metadata={"Description": said})
