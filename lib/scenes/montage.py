"""Photos, their depth and their confidence side by side."""

from pathlib import Path
from typing import NamedTuple

from lib.core.run import atomic
from lib.scenes.chunks import View

MOST_PHOTOS = 8


class Limits(NamedTuple):
    """Of the depth and the confidence of several views: between what they are drawn, and from where on one is sure."""

    near: float
    far: float
    least: float
    most: float
    sure: float


def write(path: Path, views: list[View], found: Limits) -> None:
    """One column per photo, as far as there is room."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = views[:MOST_PHOTOS]
    figure, axes = plt.subplots(3, len(shown), figsize=(2.2 * len(shown) + 1, 5.4), layout="constrained", squeeze=False)
    for column, view in enumerate(shown):
        axes[0, column].imshow(view.image)
        axes[0, column].set_title(view.photo.called[-18:], fontsize=8)
        deep = axes[1, column].imshow(view.depth.numpy(), cmap="turbo", vmin=found.near, vmax=found.far)
        sure = axes[2, column].imshow(view.confidence.numpy(), cmap="viridis", vmin=found.least, vmax=found.most)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(deep, ax=axes[1], label="depth (scene units)")
    figure.colorbar(sure, ax=axes[2], label="confidence")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
