"""Base against adapted on the same held-out samples with the same code, and whether the difference is shown.

The base is the untouched one: built and loaded strictly, no adapter ever attached. The trivial predictor is scored by
the same function (`score_batch` with parts None). The interval is a paired bootstrap (Efron & Tibshirani 1993, ch. 13):
groups are drawn where at least five are held out, else samples, and the whole-set metrics are computed anew each time.
"""
import csv
from pathlib import Path
from typing import Any

from lib.errors import FAILED, Stop
from lib.order import Key
from lib.recipes import Parts, Row
from lib.run import atomic

MIN_GROUPS = 5
INTERVAL = (2.5, 97.5)  # percent


def rows(recipe, config, parts: Parts | None, sampler, indices: list[int], accelerator, prefix=None, pause=lambda: None) -> list[Row]:
    """Scores of the samples `indices`, each exactly once, in evaluation mode without gradients. `pause` may raise Paused."""
    import torch

    from lib import adapters

    if parts is not None:
        adapters.set_mode(parts, training=False)
    found = []
    for start in range(0, len(indices), config.eval.batch):
        pause()
        samples = [sampler.draw(index, Key(config.train.seed, 0, index)) for index in indices[start : start + config.eval.batch]]
        if prefix is not None:
            with torch.no_grad(), accelerator.autocast():
                samples = [prefix.fill(sample) for sample in samples]
        batch = to_device(recipe.collate(samples), accelerator.device)
        torch.manual_seed(indices[start])  # a recipe that samples (a posterior, a diffusion) draws the same noise for base and adapted
        with torch.no_grad(), accelerator.autocast():
            found += recipe.score_batch(config, parts, batch)
    return found


def sharded_rows(recipe, config, parts, sampler, accelerator, prefix=None) -> list[Row]:
    """All samples of `sampler`, split over the processes; every process gets all rows, in the order of the samples."""
    from accelerate.utils import gather_object

    mine = list(range(accelerator.process_index, sampler.length, accelerator.num_processes))
    scored = rows(recipe, config, parts, sampler, mine, accelerator, prefix)
    if accelerator.num_processes > 1:
        for row in scored:
            row.arrays.clear()
        scored = [row for _, row in sorted(gather_object(list(zip(mine, scored, strict=True))), key=lambda pair: pair[0])]
    refuse_double(scored, sampler.length)
    return scored


def refuse_double(scored: list[Row], length: int) -> None:
    names = {row.sample_id for row in scored}
    if len(scored) != length or len(names) != length:
        raise Stop(f"{length} held-out samples were to be scored once each; {len(scored)} rows of {len(names)} samples came back", code=FAILED)


def to_device(value: Any, device) -> Any:
    """Moves the tensors of a batch (dicts and lists are followed)."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(inner, device) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(inner, device) for inner in value)
    return value


def compare(recipe, config, stage, base: list[Row], adapted: list[Row], trivial: list[Row] | None, comparison: str) -> dict[str, Any]:
    """The metrics of scores.json: {name: {base, adapted, trivial, difference, low, high, verdict}}, and how it was resampled.

    `comparison` names what stands in the column "base": "base", or "random_init" and the like, which get no verdict.
    """
    import numpy

    scores = {"base": recipe.summarise(config, base), "adapted": recipe.summarise(config, adapted)}
    scores["trivial"] = recipe.summarise(config, trivial) if trivial else {}
    measures = recipe.measures(config, stage)
    by, draws = resamples(base, config.eval.resamples, config.train.seed)
    differences: dict[str, list[float]] = {name: [] for name in scores["adapted"]}
    for draw in draws:
        one, other = recipe.summarise(config, [base[i] for i in draw]), recipe.summarise(config, [adapted[i] for i in draw])
        for name in differences:
            differences[name].append(other[name] - one[name])
    metrics = {}
    for name, value in scores["adapted"].items():
        known = [number for number in differences[name] if number == number]  # NaN: the metric means nothing for this draw
        low, high = numpy.percentile(known, INTERVAL) if known else (float("nan"), float("nan"))
        metrics[name] = {
            "base": scores["base"][name], "adapted": value, "trivial": scores["trivial"].get(name),
            "difference": value - scores["base"][name], "low": float(low), "high": float(high),
            "verdict": verdict(low, high, measures.get(name)) if comparison == "base" else "",
        }  # fmt: skip
    return {"resampled": by, "metrics": metrics}


def resamples(scored: list[Row], count: int, seed: int) -> tuple[str, list[list[int]]]:
    """Index lists of the bootstrap: whole groups where there are enough of them."""
    generator = Key(seed, -1, 0).generator()
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(scored):
        groups.setdefault(row.group, []).append(index)
    if len(groups) >= MIN_GROUPS:
        members = list(groups.values())
        picks = generator.integers(0, len(members), (count, len(members)))
        return "groups", [[i for pick in draw for i in members[pick]] for draw in picks]
    picks = generator.integers(0, len(scored), (count, len(scored)))
    return "samples", [list(map(int, draw)) for draw in picks]


def verdict(low: float, high: float, metric) -> str:
    """better, worse, or not shown when the interval holds zero or the metric has no direction."""
    if metric is None or low <= 0 <= high or low != low:
        return "not shown"
    return "better" if (high < 0) == metric.lower_is_better else "worse"


def by_group(recipe, config, main: str, base: list[Row], adapted: list[Row]) -> dict[str, dict[str, Any]]:
    """The metric `main` of every held-out group."""
    table = {}
    for group in dict.fromkeys(row.group for row in base):
        one = recipe.summarise(config, [row for row in base if row.group == group])[main]
        other = recipe.summarise(config, [row for row in adapted if row.group == group])[main]
        table[group] = {"n": sum(row.group == group for row in base), "base": one, "adapted": other}
    return table


def write_table(path: Path, columns: dict[str, list[Row]]) -> None:
    """eval/per_sample.csv: one row per sample and number, base and adapted side by side."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sample_id", "group", "number", *columns])
        for parallel in zip(*columns.values(), strict=True):
            for number in parallel[0].numbers:
                writer.writerow([parallel[0].sample_id, parallel[0].group, number, *(repr(row.numbers.get(number)) for row in parallel)])
