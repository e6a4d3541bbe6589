"""Drawings of the report: base against adapted per sample, a comparison of runs, and the sheet of the curves.

One palette everywhere: the base is grey, the adapted model blue. Figures are made without pyplot, so there is no global
state and no display is needed. Type is 10 pt on panels of 3.2 inches: readable at half size, and on a phone, where one
panel is as wide as the screen. The report has each of its drawings twice, for light and dark pages.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.run import atomic
from lib.core.tables import read_table
from lib.evaluation import fonts
from lib.evaluation.statistics import PER_SAMPLE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

GREY, BLUE = "#7a828c", "C0"  # the first colour of the palette, which is another one on dark pages
PALETTE = ("#0b5cad", "#d1495b", "#2a9d5c", "#8f5fbf", "#e08e1b", "#3aa6b9")
LIT = ("#6cb2f7", "#f0808d", "#63c98d", "#c09ae6", "#f0b45c", "#6fcbdb")
STYLE: Any = {  # Any: matplotlib's stubs want a dictionary whose keys are typed as the names of all its parameters
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e8ec",
    "axes.edgecolor": "#5c6570",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.axisbelow": True,
    "savefig.dpi": 150,
    "axes.formatter.limits": (-3, 4),
    "axes.prop_cycle": f"cycler('color', {list(PALETTE)})",
}
NIGHT, MOON = "#16191d", "#c3cad2"  # as the page in report.html
DARK: Any = {"figure.facecolor": NIGHT, "axes.facecolor": NIGHT, "savefig.facecolor": NIGHT, "grid.color": "#2c323a"}
DARK |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), MOON)
DARK |= {"axes.prop_cycle": f"cycler('color', {list(LIT)})"}
PAIR = ("base", "adapted")  # columns of per_sample.csv
COLUMNS, PANEL_INCHES = 3, (3.2, 2.3)
LOG_SCALE_FROM = 20  # ratio of the largest to the smallest value


def paired(per_sample: Path, metric: str, label: str, dark: bool = False) -> Path | None:
    """Every held-out sample as a point: its score with the base and with the adapted model. label: of both axes.

    Returns None where the metric is one of the whole set and has no value for a sample.
    """
    table = read_table(per_sample, PER_SAMPLE)
    points = table[table["number"] == metric]
    if points.empty:
        return None
    groups = points["group"].unique()
    path = per_sample.with_name("paired-dark.png" if dark else "paired.png")
    with sheet(path, 1, (4.6, 4.2), dark, groups) as (axis,):
        for colour, group in zip(colours(len(groups)), groups, strict=True):
            mine = points[points["group"] == group]
            axis.scatter(mine["base"], mine["adapted"], s=22, color=colour, alpha=0.75, linewidths=0, label=group)
        ends = min(*axis.get_xlim(), *axis.get_ylim()), max(*axis.get_xlim(), *axis.get_ylim())
        axis.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
        axis.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"base: {label}", ylabel=f"adapted: {label}")
        if 1 < len(groups) <= len(PALETTE):
            axis.legend()
    return path


def comparison(runs: "pd.DataFrame", path: Path) -> Path:
    """Score against what it cost: trained parameters, training time and memory (columns of comparison.csv).

    One point per run, marked with its rank, with the interval of its difference to the base; the base is a dashed line.
    """
    time_unit, unit_seconds = ("hours", 3600) if runs["seconds"].max() >= 7200 else ("minutes", 60)
    costs = {"trained parameters": runs["trainable"], f"training time ({time_unit})": runs["seconds"] / unit_seconds}
    costs |= {"peak memory (GB)": runs["memory_bytes"].astype("float64") / 1e9}
    with sheet(path, len(costs), (4.4, 4.0), texts=runs["run"]) as axes:
        for axis, (label, cost) in zip(axes, costs.items(), strict=True):
            draw_costs(axis, runs, cost.astype("float64").tolist(), label)
        axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return path


def draw_costs(axis: "Axes", runs: "pd.DataFrame", costs: list[float], label: str) -> None:
    for base in runs["base"].unique():
        axis.axhline(base, color=GREY, linestyle="--", linewidth=1)
    known = runs.fillna({"low": runs["difference"], "high": runs["difference"]})
    for colour, row, cost in zip(colours(len(runs)), known.itertuples(), costs, strict=True):
        spread = [[max(0, row.difference - row.low)], [max(0, row.high - row.difference)]]
        axis.errorbar(cost, row.adapted, spread, fmt="o", color=colour, capsize=3, label=f"{row.rank}  {row.run}")
        place: Any = {"xytext": (6, 5), "textcoords": "offset points"}
        axis.annotate(str(row.rank), (cost, row.adapted), **place, color=colour, fontweight="bold")
    first = runs.iloc[0]
    axis.set(xlabel=label, ylabel=with_unit(first["metric"], first["unit"]))
    axis.margins(x=0.15)
    set_scale(axis, costs, "x")


def colours(count: int) -> list[str]:
    """One for each line; they repeat where there are more lines than colours."""
    return [f"C{place % len(PALETTE)}" for place in range(count)]


def set_scale(axis: "Axes", values: list[float], along: str = "y") -> None:
    """Logarithmic where the values are positive and span more than LOG_SCALE_FROM."""
    values = [value for value in values if math.isfinite(value)]
    if values and 0 < min(values) * LOG_SCALE_FROM < max(values):
        axis.set(**{f"{along}scale": "log"})


@contextlib.contextmanager
def sheet(
    path: Path,
    count: int,
    panel_inches: tuple[float, float] = PANEL_INCHES,
    dark: bool = False,
    texts: Iterable[str] = (),
) -> "Iterator[list[Axes]]":
    """Yields `count` axes in rows of three; the figure is written when the block ends well.

    texts: names that will stand in the figure, so that it gets a font that has their characters.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    style = STYLE | DARK if dark else STYLE
    with matplotlib.rc_context(style), fonts.for_texts(texts), atomic(path) as temporary:
        figure = Figure(figsize=(panel_inches[0] * columns, panel_inches[1] * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for unused in axes[count:]:
            unused.remove()
        yield axes[:count]
        figure.savefig(temporary, format="png")


def with_unit(metric: str, unit: str) -> str:
    return f"{metric} ({unit})" if unit else metric
