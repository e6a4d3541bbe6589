"""The report's pictures: photo, base, adapted, ground truth, and both errors under one shared colour bar."""

from pathlib import Path
from typing import Any

import numpy as np

from lib.core.records import Row, Stage
from lib.scenes import units
from lib.scenes.sections import Settings


def figures(config: Settings, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
    """One figure per held-out sequence whose pictures were kept (eval.figures of them)."""
    for number, (one, other) in enumerate(zip(base, adapted, strict=True)):
        if one.arrays and other.arrays:
            draw_sequence(one, other, units.of_lengths(stage), out / f"depth_{number + 1}.png")


def draw_sequence(base: Row, adapted: Row, unit: str, path: Path) -> None:
    """The first frame of a sequence; depths share one colour scale, errors another."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    truth, valid = base.arrays["truth"], base.arrays["valid"]
    known = np.where(valid, truth, np.nan)
    near, far = np.nanpercentile(known, (2, 98))
    errors = [np.where(valid, abs(row.arrays["predicted"] - truth), np.nan) for row in (base, adapted)]
    worst = max(np.nanpercentile(errors[0], 95), 1e-6)
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 5.6), layout="constrained")
    show(axes[0, 0], base.arrays["image"].transpose(1, 2, 0), "photo", interpolation="bilinear")
    show(axes[0, 1], base.arrays["predicted"], "depth, untouched base", cmap="turbo", vmin=near, vmax=far)
    depth = show(axes[0, 2], adapted.arrays["predicted"], "depth, adapted", cmap="turbo", vmin=near, vmax=far)
    show(axes[1, 0], known, "ground truth", cmap="turbo", vmin=near, vmax=far)
    for axis, row, error, name in zip(axes[1, 1:], (base, adapted), errors, ("base", "adapted"), strict=True):
        title = f"|error|, {name} (MAE {row.numbers['mae']:.3f} {unit})"
        heat = show(axis, error, title, cmap="magma", vmin=0, vmax=worst)
    figure.colorbar(depth, ax=axes[0], label=f"depth ({unit})", shrink=0.9)
    figure.colorbar(heat, ax=axes[1], label=f"|error| ({unit})", shrink=0.9)
    figure.suptitle(f"{base.sample_id.replace('+', ' + ')[:90]}  (held out)", fontsize=10)
    said = (
        f"A held-out sequence of {base.group}, its first photo: the depths on one colour scale, and below them where "
        "the untouched base and the adapted model are wrong (brighter is worse; no colour: the depth is not known)."
    )
    figure.savefig(path, dpi=110, metadata={"Description": said})
    plt.close(figure)


def show(axis: Any, picture: np.ndarray, title: str, **colours: Any) -> Any:
    """A picture (h, w) or (h, w, 3) under its title, without ticks; what matplotlib needs for a colour bar."""
    drawn = axis.imshow(picture, **{"interpolation": "nearest"} | colours)
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()
    return drawn
