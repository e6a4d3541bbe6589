"""Figures of the report: held-out hands before and after the adaptation, and the curves behind PCK and AUC."""
from pathlib import Path

import numpy

from lib.recipes import Row
from lib.recipes.hamer import draw
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.evaluate import CURVE_BOX, CURVE_MM

COLUMNS = ("crop", "overlay", "side view", "predicted skeleton", "labelled skeleton")
SHOWN_PX = 224


def write(config: Config, base: list[Row], adapted: list[Row], out: Path) -> None:
    for number, (one, other) in enumerate(zip(base, adapted, strict=True)):
        if "vertices" in one.arrays and "vertices" in other.arrays:
            hand(config, {"base": one, "adapted": other}, out / f"hand-{number:02d}.png")
    curves(base, adapted, out / "curves.png")


def hand(config: Config, rows: dict[str, Row], path: Path) -> None:
    """Two rows of five pictures: the untouched base above, the adapted model below."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 5, figsize=(12.5, 5.4), layout="constrained")
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, picture, column in zip(line, pictures(config, row), COLUMNS, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[], title=column if name == "base" else "")
        line[0].set_ylabel(f"{name}, PA-MPJPE {row.numbers['pa_mpjpe_mm']:.1f} mm")
    note = " (stand-in hand, not MANO)" if rows["base"].arrays["stand_in"] else ""
    figure.suptitle(rows["base"].sample_id + note, fontsize=10)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def pictures(config: Config, row: Row) -> list[numpy.ndarray]:
    arrays, size = row.arrays, config.model.crop_px
    crop, overlay, side = draw.panel(arrays["image"], arrays["vertices"], arrays["translation"], arrays["faces"], config.model.focal_px)
    skeletons = []
    for name in ("predicted_2d", "true_2d"):
        points = arrays[name].copy()
        points[:, :2] = (points[:, :2] + 0.5) * size
        skeletons.append(draw.skeleton(crop, points))
    return [crop, overlay, side, *skeletons]


def curves(base: list[Row], adapted: list[Row], path: Path) -> None:
    """Share of right keypoints over the threshold: in 3D after alignment (its area is the AUC), and in 2D."""
    from matplotlib import pyplot

    figure, (solid, flat) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, rows, style in (("base", base, "--"), ("adapted", adapted, "-")):
        solid.plot(CURVE_MM, [share(rows, f"within_{limit:02d}_mm") for limit in CURVE_MM], style, label=name)
        flat.plot(CURVE_BOX, [share(rows, f"pck_{100 * limit:02.0f}") for limit in CURVE_BOX], style, label=name)
    solid.set(xlabel="PA joint error (mm)", ylabel="share of keypoints", ylim=(0, 1.02))
    flat.set(xlabel="2D error (share of the tight box)", ylabel="share of keypoints", ylim=(0, 1.02))
    for axis in (solid, flat):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def share(rows: list[Row], name: str) -> float:
    return float(numpy.nanmean([row.numbers[name] for row in rows]))
