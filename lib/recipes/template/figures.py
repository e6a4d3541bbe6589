"""Pictures of the report: every .png that is written into `out` appears in it, with its text "Description" as caption.

CHANGE: draw what a reader must see to believe the number.
"""

from pathlib import Path

from lib.core.records import Row, Stage

from .config import Config


def figures(config: Config, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
    """held_out_pictures.png: a line for each of the first `eval.figures` pictures; only those rows have arrays."""
    from matplotlib.figure import Figure

    shown = [(one, other) for one, other in zip(base, adapted, strict=True) if one.arrays and other.arrays]
    if not shown:
        return
    figure = Figure(figsize=(7, 1.9 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 4, squeeze=False)
    for line, (one, other) in zip(axes, shown, strict=True):
        pictures = {
            one.sample_id: one.arrays["noisy"],
            f"base, mae {one.numbers['mae']:.1f}": one.arrays["predicted"],
            f"adapted, mae {other.numbers['mae']:.1f}": other.arrays["predicted"],
            "clean": one.arrays["clean"],
        }
        for axis, (title, picture) in zip(line, pictures.items(), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    said = "Held-out pictures: as they come, as the base and the adapted network clean them, and as they should be."
    figure.savefig(out / "held_out_pictures.png", dpi=110, metadata={"Description": said})
