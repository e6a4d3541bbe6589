"""Curves of a training: the main metric, losses, learning rates and gradient norms over the optimiser steps."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.run import read_log, read_record
from lib.evaluation.plots import BLUE, colours, set_scale, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRONG_POINTS = 25  # means that the strong line of a noisy curve goes through
NOT_DRAWN = ("step", "epoch", "eval", "main", "skipped")
# start of the log keys that share a panel -> its title
FAMILIES = {"lr_": "learning rate", "grad_norm_": "gradient norm (before clipping)"}

Curve = tuple[list[int], list[float]]  # optimiser steps, values


def curves(stage: Path) -> Path | None:
    """All panels of a stage's log.jsonl as curves.png beside it, for a wide screen.

    Returns None where the stage has not logged anything yet.
    """
    found = panels(read_log(stage / "log.jsonl"))
    if not found:
        return None
    best = read_record(stage / "best.json")
    with sheet(stage / "curves.png", len(found)) as axes:
        for axis, (title, lines) in zip(axes, found.items(), strict=True):
            draw_panel(axis, title, lines, best)
    return stage / "curves.png"


def each(stage: Path, out: Path, main: str, dark: bool) -> dict[str, Path]:
    """title -> picture of every panel, so that a narrow screen shows one below the other.

    main: what people call the metric that was evaluated.
    """
    found, best = panels(read_log(stage / "log.jsonl")), read_record(stage / "best.json")
    drawn = {}
    for number, (title, lines) in enumerate(found.items()):
        drawn[title] = out / f"curve-{number:02d}{'-dark' if dark else ''}.png"
        with sheet(drawn[title], 1, dark=dark) as (axis,):
            draw_panel(axis, title, lines, best)
            axis.set_title(main if title.startswith("evaluation") else title.replace("_", " "))
    return drawn


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


def mean(values: list[Any]) -> float:
    return sum(values) / len(values)
