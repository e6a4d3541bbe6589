"""Figures of the report: held-out hands before and after the adaptation, and the curves behind PCK and AUC."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.core.records import Metric, Row, Stage
from lib.recipes.hamer import overlay
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.evaluate import CURVE_BOX, CURVE_MM, measures
from lib.recipes.hamer.skeleton import skeleton

COLUMNS = ("crop", "overlay", "side view", "predicted skeleton", "labelled skeleton")


def figures(config: Config, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
    """hand-NN.png of every hand that has arrays, and keypoints.png."""
    main = next(iter(measures(config, stage).items()))
    for number, (one, other) in enumerate(zip(base, adapted, strict=True)):
        if "vertices" in one.arrays and "vertices" in other.arrays:
            hand(config, main, {"base": one, "adapted": other}, out / f"hand-{number:02d}.png")
    curves(config, base, adapted, out / "keypoints.png")


def hand(config: Config, main: tuple[str, Metric], rows: dict[str, Row], path: Path) -> None:
    """Two rows of five pictures: the untouched base above, the adapted model below."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 5, figsize=(12.5, 5.4), layout="constrained")
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, picture, column in zip(line, pictures(config, row), COLUMNS, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[], title=column if name == "base" else "")
        line[0].set_ylabel(f"{name}, {score(main, row)}")
    note = " (stand-in hand, not MANO)" if rows["base"].arrays["stand_in"] else ""
    figure.suptitle(rows["base"].sample_id + note, fontsize=10)
    who = rows["base"].group
    said = f"A held-out hand of {who}: above as the untouched base sees it, below as the adapted model does."
    figure.savefig(path, dpi=100, metadata={"Description": said})
    pyplot.close(figure)


def score(main: tuple[str, Metric], row: Row) -> str:
    name, measure = main
    return f"{name.removesuffix('_mm')} {row.numbers[name]:.{1 if measure.unit else 2}f} {measure.unit}"


def pictures(config: Config, row: Row) -> list[np.ndarray]:
    """One for each of COLUMNS, (h, w, 3) uint8."""
    arrays, size = row.arrays, config.model.crop_px
    image, vertices, translation, faces = (arrays[name] for name in ("image", "vertices", "translation", "faces"))
    crop, over, side = overlay.panel(image, vertices, translation, faces, config.model.focal_px)
    skeletons = []
    for name in ("predicted_2d", "true_2d"):
        points = arrays[name].copy()
        points[:, :2] = (points[:, :2] + 0.5) * size
        skeletons.append(skeleton(crop, points))
    return [crop, over, side, *skeletons]


def curves(config: Config, base: list[Row], adapted: list[Row], path: Path) -> None:
    """Share of right keypoints over the threshold: in 2D, and where there is 3D truth after alignment.

    The area under the latter is the AUC.
    """
    from matplotlib import pyplot

    shown: list[tuple[str, Sequence[float], list[str]]] = [
        ("2D error (share of the tight box)", CURVE_BOX, [f"pck_{100 * limit:02.0f}" for limit in CURVE_BOX])
    ]
    if config.scores_3d:
        shown.append(("PA joint error (mm)", CURVE_MM, [f"within_{limit:02d}_mm" for limit in CURVE_MM]))
    figure, axes = pyplot.subplots(1, len(shown), figsize=(5 * len(shown), 3.8), layout="constrained", squeeze=False)
    for axis, (label, limits, numbers) in zip(axes[0], shown, strict=True):
        for name, rows, style in (("base", base, "--"), ("adapted", adapted, "-")):
            axis.plot(limits, [share(rows, number) for number in numbers], style, label=name)
        axis.set(xlabel=label, ylabel="share of keypoints", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend()
    said = "All held-out hands: how many keypoints lie within an error; the higher the curve, the better."
    figure.savefig(path, dpi=100, metadata={"Description": said})
    pyplot.close(figure)


def share(rows: list[Row], name: str) -> float:
    return float(np.nanmean([row.numbers[name] for row in rows]))
