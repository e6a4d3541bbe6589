"""Base against adapted on the same held-out samples with the same code, and whether the difference is shown.

The interval is a paired bootstrap over groups (Efron & Tibshirani 1993, ch. 13); the whole-set metrics are computed
again for every draw. Samples of one group (views of a scene, windows of a recording) are not independent, so with fewer
than MIN_GROUPS test groups there is no interval and no verdict.
"""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.core.contract import Recipe
from lib.core.order import Key
from lib.core.records import Metric, Row, Stage
from lib.core.tables import NUMBER, TEXT, write_table
from lib.core.words import counted

MIN_GROUPS = 5
INTERVAL = (2.5, 97.5)  # percent
# Columns of eval/per_sample.csv; `number` names what was measured of the sample, NaN: it means nothing for it.
PER_SAMPLE = dict.fromkeys(("sample_id", "group", "number"), TEXT)
PER_SAMPLE |= dict.fromkeys(("base", "adapted", "trivial"), NUMBER)


def compare(
    recipe: Recipe,
    config: Any,
    stage: Stage,
    base: list[Row],
    adapted: list[Row],
    trivial: list[Row] | None,
    comparison: str,
) -> dict[str, Any]:
    """{"metrics": {name: {base, adapted, trivial, difference, low, high, verdict}}, "resampled": "groups" or ""}.

    `comparison` names what stands in the column "base": "base", or "random_init" and the like, which get no verdict.
    Only the main metric has one: of fifty verdicts at 95 % two would be found by chance.
    """
    import numpy as np

    scores = {"base": recipe.summarise(config, stage, base), "adapted": recipe.summarise(config, stage, adapted)}
    scores["trivial"] = recipe.summarise(config, stage, trivial) if trivial else {}
    measures = recipe.measures(config, stage)
    main = next(iter(measures))
    by, draws = resamples(base, config.eval.resamples, config.train.seed)
    differences: dict[str, list[float]] = {name: [] for name in scores["adapted"]}
    for draw in draws:
        one, other = (recipe.summarise(config, stage, [rows[i] for i in draw]) for rows in (base, adapted))
        for name in differences:
            differences[name].append(other[name] - one[name])
    metrics = {}
    for name, value in scores["adapted"].items():
        known = [drawn for drawn in differences[name] if drawn == drawn]  # NaN: it means nothing for this draw
        low, high = map(float, np.percentile(known, INTERVAL)) if known else (None, None)
        metrics[name] = {
            "base": scores["base"][name], "adapted": value, "trivial": scores["trivial"].get(name),
            "difference": value - scores["base"][name], "low": low, "high": high,
            "verdict": verdict(low, high, measures[name], bool(draws)) if name == main and comparison == "base" else "",
        }  # fmt: skip
    return {"resampled": by, "metrics": metrics}


def without_number(main: str, base: list[Row], adapted: list[Row]) -> str:
    """Why base and adapted cannot be compared by the metric `main`, in words; "" where they can.

    A mean leaves out what has no number. Where a network's answer has none on a hard sample, and the other's has one,
    the means would be over different samples, and who fails would look better.
    """
    columns = {"adapted model": adapted, "base": base}
    for one, other in (("adapted model", "base"), ("base", "adapted model")):
        pairs = zip(columns[one], columns[other], strict=True)
        lost = [row.sample_id for row, beside in pairs if is_lost(row, main) and not is_lost(beside, main)]
        if lost:
            samples = counted(len(lost), "held-out sample")
            return f"{main} of the {one} is not finite for {samples}, first {lost[0]}, where the {other} has a value"
    return ""


def paired(columns: dict[str, list[Row]], alone: list[set[str]]) -> dict[str, list[Row]]:
    """The rows without each number that a sample has under one of the two networks alone (`of_one_alone`), so that
    every mean of it is over the same samples.
    """
    return {
        column: [without(row, gone) if gone else row for row, gone in zip(rows, alone, strict=True)]
        for column, rows in columns.items()
    }


def without(row: Row, names: set[str]) -> Row:
    return replace(row, numbers={name: math.nan if name in names else value for name, value in row.numbers.items()})


def left_out(alone: list[set[str]]) -> list[str]:
    """A sentence for each number that `paired` takes from some samples."""
    counts = Counter(name for gone in alone for name in sorted(gone))
    return [
        f"{name} has a value for {counted(count, 'sample')} under one network alone: left out of every mean of it"
        for name, count in counts.items()
    ]


def of_one_alone(columns: dict[str, list[Row]]) -> list[set[str]]:
    """Of each sample the numbers that are NaN under one of the two networks and not under the other."""
    base, adapted = ([row.numbers for row in columns[column]] for column in ("base", "adapted"))
    return [
        {name for name in one.keys() & other.keys() if math.isnan(one[name]) != math.isnan(other[name])}
        for one, other in zip(base, adapted, strict=True)
    ]


def is_lost(row: Row, name: str) -> bool:
    """Has the sample such a number, and is it none? One of a whole set stands in no row."""
    return not math.isfinite(row.numbers.get(name, 0.0))


def resamples(scored: list[Row], count: int, seed: int) -> tuple[str, list[list[int]]]:
    """("groups", index lists of the bootstrap over whole groups), or ("", []) where there are too few of them."""
    generator = Key(seed, -1, 0).generator()
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(scored):
        groups.setdefault(row.group, []).append(index)
    if len(groups) < MIN_GROUPS:
        return "", []
    members = list(groups.values())
    picks = generator.integers(0, len(members), (count, len(members)))
    return "groups", [[i for pick in draw for i in members[pick]] for draw in picks]


def verdict(low: float | None, high: float | None, metric: Metric, resampled: bool) -> str:
    """better or worse; not shown where the interval holds zero; no verdict where there is none."""
    if not resampled:
        return "no verdict"
    if low is None or high is None or low <= 0 <= high:
        return "not shown"
    return "better" if (high < 0) == metric.lower_is_better else "worse"


def by_group(
    recipe: Recipe, config: Any, stage: Stage, main: str, base: list[Row], adapted: list[Row]
) -> dict[str, dict[str, Any]]:
    """The metric `main` of every held-out group."""
    table = {}
    others = grouped(adapted)
    for group, rows in grouped(base).items():
        one = recipe.summarise(config, stage, rows)[main]
        other = recipe.summarise(config, stage, others[group])[main]
        table[group] = {"n": len(rows), "base": one, "adapted": other}
    return table


def grouped(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def write_scores(path: Path, columns: dict[str, list[Row]]) -> None:
    """eval/per_sample.csv: one row per sample and number, base, adapted and trivial side by side (PER_SAMPLE)."""
    import pandas as pd

    rows = [
        (parallel[0].sample_id, parallel[0].group, number, *(row.numbers.get(number) for row in parallel))
        for parallel in zip(*columns.values(), strict=True)
        for number in parallel[0].numbers
    ]
    frame = pd.DataFrame(rows, columns=["sample_id", "group", "number", *columns])
    write_table(path, frame.astype({name: PER_SAMPLE[name] for name in frame}))
