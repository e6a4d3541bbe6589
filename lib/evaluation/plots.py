"""Drawings of the report: curves of a stage, base against adapted per sample, a comparison of runs.

One palette everywhere: the base is grey, the adapted model blue. Figures are made without pyplot, so there is no global
state and no display is needed. Type is 10 pt on panels of 3.2 inches: readable at half size.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.run import atomic, read_log, read_record
from lib.core.tables import read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY, BLUE = "#7a828c", "#0b5cad"
PALETTE = (BLUE, "#d1495b", "#2a9d5c", "#8f5fbf", "#e08e1b", "#3aa6b9")
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
}
PAIR = ("base", "adapted")  # columns of per_sample.csv
COLUMNS, PANEL_INCHES = 3, (3.2, 2.3)
STRONG_POINTS = 25  # means that the strong line of a noisy curve goes through
LOG_SCALE_FROM = 20  # ratio of the largest to the smallest value
NOT_DRAWN = ("step", "epoch", "eval", "main", "skipped")
# start of the log keys that share a panel -> its title
FAMILIES = {"lr_": "learning rate", "grad_norm_": "gradient norm (before clipping)"}

Curve = tuple[list[int], list[float]]  # optimiser steps, values


def curves(stage: Path) -> Path | None:
    """Draw a stage's log.jsonl into curves.png beside it: the main metric, losses, learning rates, gradient norms.

    Returns None where the stage has not logged anything yet.
    """
    log = read_log(stage / "log.jsonl")
    found = panels(log)
    if not found:
        return None
    with sheet(stage / "curves.png", len(found)) as axes:
        for axis, (title, lines) in zip(axes, found.items(), strict=True):
            draw_panel(axis, title, lines, read_record(stage / "best.json"))
    return stage / "curves.png"


def panels(log: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Which curves share a panel: learning rates and gradient norms do; losses differ too much in size."""
    keys = [key for key in dict.fromkeys(key for record in log for key in record) if key not in NOT_DRAWN]
    evaluations = [
        {"step": record["step"], record["main"]: record["eval"][record["main"]]} for record in log if "eval" in record
    ]
    main = evaluations[-1].keys() - {"step"} if evaluations else ()
    found = {f"evaluation: {metric}": {metric: curve(evaluations, metric)} for metric in main}
    found |= {key: {key: curve(log, key)} for key in keys if not key.startswith(tuple(FAMILIES))}
    for family, title in FAMILIES.items():
        members = {key.removeprefix(family): curve(log, key) for key in keys if key.startswith(family)}
        found |= {title: members} if members else {}
    return found


def curve(log: list[dict[str, Any]], key: str) -> Curve:
    points = [(record["step"], record[key]) for record in log if key in record]
    return [step for step, _ in points], [value for _, value in points]


def draw_panel(axis: "Axes", title: str, lines: dict[str, Curve], best: dict[str, Any] | None) -> None:
    axis.set(title=title, xlabel="optimiser step")
    for colour, (name, line) in zip(colours(len(lines)), lines.items(), strict=True):
        if title.startswith("evaluation"):
            draw_evaluations(axis, line, best)
        else:
            draw_noisy(axis, line, name, colour)
    if title != FAMILIES["lr_"]:
        set_scale(axis, [value for _, values in lines.values() for value in values])
    if len(lines) > 1:
        axis.legend()


def colours(count: int) -> list[str]:
    """One for each line; they repeat where there are more lines than colours."""
    return [PALETTE[place % len(PALETTE)] for place in range(count)]


def draw_noisy(axis: "Axes", line: Curve, name: str, colour: str) -> None:
    """Every step faintly, and strongly the mean of neighbouring steps."""
    steps, values = line
    size = max(1, len(steps) // STRONG_POINTS)
    groups = [slice(start, start + size) for start in range(0, len(steps), size)]
    axis.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    middles, means = [mean(steps[group]) for group in groups], [mean(values[group]) for group in groups]
    axis.plot(middles, means, color=colour, linewidth=1.8, label=name)


def draw_evaluations(axis: "Axes", line: Curve, best: dict[str, Any] | None) -> None:
    steps, values = line
    axis.plot(steps, values, color=BLUE, linewidth=1.8, marker="o", markersize=4)
    if best and best["step"] in steps:
        value = values[steps.index(best["step"])]
        axis.plot(best["step"], value, marker="o", markersize=11, fillstyle="none", color=BLUE)


def set_scale(axis: "Axes", values: list[float], along: str = "y") -> None:
    """Logarithmic where the values are positive and span more than LOG_SCALE_FROM."""
    values = [value for value in values if math.isfinite(value)]
    if values and 0 < min(values) * LOG_SCALE_FROM < max(values):
        axis.set(**{f"{along}scale": "log"})


def paired(per_sample: Path, metric: str, unit: str) -> Path | None:
    """Every held-out sample as a point: its score with the base and with the adapted model.

    Returns None where the metric is one of the whole set and has no value for a sample.
    """
    rows = [row for row in read_table(per_sample) if row["number"] == metric]
    if not rows:
        return None
    groups = dict.fromkeys(row["group"] for row in rows)
    with sheet(per_sample.with_name("paired.png"), 1, (4.6, 4.2)) as (axis,):
        for colour, group in zip(colours(len(groups)), groups, strict=True):
            base, adapted = ([float(row[column]) for row in rows if row["group"] == group] for column in PAIR)
            axis.scatter(base, adapted, s=22, color=colour, alpha=0.75, linewidths=0, label=group)
        ends = min(*axis.get_xlim(), *axis.get_ylim()), max(*axis.get_xlim(), *axis.get_ylim())
        axis.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
        axis.set(xlim=ends, ylim=ends, aspect="equal")
        axis.set(xlabel=f"base: {with_unit(metric, unit)}", ylabel=f"adapted: {with_unit(metric, unit)}")
        if 1 < len(groups) <= len(PALETTE):
            axis.legend()
    return per_sample.with_name("paired.png")


def comparison(rows: list[dict[str, Any]], path: Path) -> Path:
    """Error against what it cost: trained parameters and training time.

    One point per run, marked with its rank, with the interval of its difference to the base; the base is a dashed line.
    """
    time_unit, unit_seconds = ("hours", 3600) if max(row["seconds"] for row in rows) >= 7200 else ("minutes", 60)
    with sheet(path, 2, (4.8, 4.0)) as axes:
        draw_costs(axes[0], rows, [row["trainable"] for row in rows], "trained parameters")
        draw_costs(axes[1], rows, [row["seconds"] / unit_seconds for row in rows], f"training time ({time_unit})")
        axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return path


def draw_costs(axis: "Axes", rows: list[dict[str, Any]], costs: list[float], label: str) -> None:
    for base in {row["base"] for row in rows}:
        axis.axhline(base, color=GREY, linestyle="--", linewidth=1)
    for colour, row, cost in zip(colours(len(rows)), rows, costs, strict=True):
        low, high = (row["difference"] if row[end] is None else row[end] for end in ("low", "high"))
        spread = [[max(0, row["difference"] - low)], [max(0, high - row["difference"])]]
        point, label = (cost, row["adapted"]), f"{row['rank']}  {row['run']}"
        axis.errorbar(*point, yerr=spread, fmt="o", color=colour, capsize=3, label=label)
        axis.annotate(row["rank"], point, (6, 5), textcoords="offset points", color=colour, fontweight="bold")
    axis.set(xlabel=label, ylabel=with_unit(rows[0]["metric"], rows[0]["unit"]))
    axis.margins(x=0.15)
    set_scale(axis, costs, "x")


@contextlib.contextmanager
def sheet(path: Path, count: int, panel_inches: tuple[float, float] = PANEL_INCHES) -> "Iterator[list[Axes]]":
    """Yields `count` axes in rows of three; the figure is written when the block ends well."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    with matplotlib.rc_context(STYLE), atomic(path) as temporary:
        figure = Figure(figsize=(panel_inches[0] * columns, panel_inches[1] * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for unused in axes[count:]:
            unused.remove()
        yield axes[:count]
        figure.savefig(temporary, format="png")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def with_unit(metric: str, unit: str) -> str:
    return f"{metric} ({unit})" if unit else metric
