"""Comparison of runs: comparison.csv, a table for the console, and a plot of the error against what it cost.

Only runs that were scored by the same metric on the same held-out files are ranked against each other; the others are
listed and named as not comparable. Two recipes have the same metric where one module scores both.
"""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from lib import recipes
from lib.commands import answer, cli
from lib.core.config import silent_everywhere
from lib.core.errors import DONE, Stop, nearest
from lib.core.run import SCRIPTS, Run, existing, read_log, read_record
from lib.core.tables import read_table, write_table
from lib.evaluation import plots
from lib.evaluation.report import duration, gigabytes, interval, number, signed, stage_folders

TABLE = ("rank", "run", "trainable", "metric", "base", "adapted", "difference", "interval", "verdict", "time", "memory")


def main(words: list[str]) -> int:
    """`step5_evaluate.py --compare RUN…`: reads finished runs and works on none of them. Returns the exit code."""
    parser = cli.Parser(prog=SCRIPTS[5])
    parser.add_argument("--compare", nargs="+", metavar="RUN", required=True, help="names of runs, or their folders")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="holds runs/ (default: the current folder)")
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout, everything else on stderr")
    with answer.given() as told:
        try:
            args = parser.parse_args(words)
            root, names = args.root.resolve(), dict.fromkeys(Path(word).name for word in args.compare)
            print(compare([existing_run(root, name) for name in names], root / "runs"))
            told |= {"runs": rows_of(root / "runs" / "comparison.csv"), "exit_code": DONE}
        except Stop as stop:
            told["exit_code"] = cli.say(stop, told)
    return int(told["exit_code"])


def rows_of(table: Path) -> list[dict[str, Any]]:
    """The rows of comparison.csv as JSON values."""
    import pandas as pd

    found: list[dict[str, Any]] = json.loads(pd.read_csv(table).to_json(orient="records"))
    return found


def existing_run(root: Path, name: str) -> Run:
    run = Run(root, name)
    if not run.record.exists():
        there = [record.parent.name for record in root.glob("runs/*/run.json")]
        raise Stop(f"there is no run {name!r}: {nearest(name, there)}")
    return run


def compare(runs: list[Run], out: Path) -> str:
    """Write comparison.csv and comparison.png into the folder `out`; returns the table for the console.

    The first runs of the table are the largest group that can be compared, best first. Stops where a run has no scores.
    """
    rows = [facts(run) for run in runs]
    settings = differing_settings([existing(run.record)["config"] for run in runs])
    for row, own in zip(rows, settings, strict=True):
        row |= own
    ranked, others = rank(rows)
    write_csv(ranked + others, out / "comparison.csv")
    plots.comparison(ranked, out / "comparison.png")
    lines = table(ranked)
    lines += [f"not comparable with these: {row['run']} ({difference(row, ranked[0])})" for row in others]
    return "\n".join([*lines, f"written: {out / 'comparison.csv'}, {out / 'comparison.png'}"])


def facts(run: Run) -> dict[str, Any]:
    """One row: what was trained, how well it did on the main metric, what it cost, and every other metric."""
    record, scores = existing(run.record), read_record(run.scores)
    if scores is None:
        raise Stop(f"the run {run.name} has no scores to compare", run.command(5))
    main = scores["main"]
    m = scores["metrics"][main["metric"]]
    times = [entry for stage in stage_folders(run) for entry in read_log(stage / "timing.jsonl")]
    others = {name: other["adapted"] for name, other in scores["metrics"].items() if name != main["metric"]}
    return {
        "rank": None,
        "run": run.name,
        **{key: record[key] for key in ("recipe", "preset", "demo")},
        "step": scores["step"],
        "trainable": trainable(run),
        **{key: main[key] for key in ("metric", "unit", "lower_is_better")},
        **{key: m[key] for key in ("base", "adapted", "trivial", "difference", "low", "high", "verdict")},
        "n_samples": scores["n_samples"],
        "held_out": held_out(run),
        "seconds": round(sum(entry["seconds"] for entry in times), 1),
        "memory_bytes": max((entry["memory_bytes"] for entry in times), default=None),
        "samples_per_second": middle([entry["samples_per_second"] for entry in times]),
        **{f"adapted_{name}": value for name, value in others.items()},
        **by_group(scores),
    }


def by_group(scores: dict[str, Any]) -> dict[str, float]:
    """The main metric of every held-out group, so that one of another kind (an indoor scene) can be read by itself."""
    metric = scores["main"]["metric"]
    return {
        f"{column}_{metric}_in_{group}": row[column]
        for group, row in scores["by_group"].items()
        for column in ("base", "adapted")
    }


def trainable(run: Run) -> int:
    """Parameters in the trained tensors of the last checkpoint of each stage, read from the files' headers."""
    from safetensors import safe_open

    count = 0
    for stage in stage_folders(run):
        newest = max(stage.glob("step-*"), default=None)
        files = [*newest.glob("adapter/**/*.safetensors"), *newest.glob("weights.safetensors")] if newest else []
        for file in files:
            with safe_open(file, "np") as tensors:
                names = tensors.keys()
                count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return count


def held_out(run: Run) -> str:
    """The fingerprint of what was scored: the contents of the held-out files and the samples that were made of them."""
    held = [row for row in read_table(run.manifest) if row["split"] == "test" and row["status"] == "ok"]
    files = sorted(row["sha256"] for row in held)
    samples = sorted({row["sample_id"] for row in read_table(run.scores.with_name("per_sample.csv"))})
    return hashlib.sha256("\n".join([*files, "", *samples]).encode()).hexdigest()[:12]


def differing_settings(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each run's settings those in which the runs differ: the axes of a sweep become columns."""
    unshown = silent_everywhere()
    keys = [key for key in dict.fromkeys(key for config in configs for key in config) if key not in unshown]
    differing = [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]
    return [{key: config.get(key) for key in differing} for config in configs]


def rank(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The largest group of comparable runs, best first, with its ranks; and the rest as it came."""
    largest, _ = Counter(comparable(row) for row in rows).most_common(1)[0]
    direction = 1 if largest[3] else -1
    ranked = sorted((row for row in rows if comparable(row) == largest), key=lambda row: direction * row["adapted"])
    for place, row in enumerate(ranked, 1):
        row["rank"] = place
    return ranked, [row for row in rows if comparable(row) != largest]


def comparable(row: dict[str, Any]) -> tuple[Any, ...]:
    """What two runs must share to be ranked against each other."""
    return scored_by(row["recipe"]), row["demo"], row["metric"], row["lower_is_better"], row["held_out"]


def scored_by(recipe: str) -> str:
    """What computes the scores of a recipe: itself, or a module that it has in common with others."""
    if recipe not in recipes.RECIPES:
        return recipe
    loaded = recipes.load(recipe)
    common = [file for file in loaded.modules("summarise") if not file.is_relative_to(loaded.folder)]
    return str(common[0]) if common else recipe


def difference(row: dict[str, Any], other: dict[str, Any]) -> str:
    """Why two runs cannot be ranked, in words."""
    if scored_by(row["recipe"]) != scored_by(other["recipe"]):
        return f"recipe {row['recipe']}, not {other['recipe']}"
    if row["demo"] != other["demo"]:
        return "a demo run" if row["demo"] else "not a demo run"
    if row["metric"] != other["metric"]:
        return f"metric {row['metric']}, not {other['metric']}"
    return "other held-out samples"


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    columns = dict.fromkeys(key for row in rows for key in row)
    write_table(path, columns, ([row.get(name, "") for name in columns] for row in rows))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Aligned text, one line per run."""
    cells = [list(TABLE)] + [cells_of(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def cells_of(row: dict[str, Any]) -> list[str]:
    memory = gigabytes(row["memory_bytes"]) if row["memory_bytes"] else "–"
    return [
        str(row["rank"]),
        row["run"],
        f"{row['trainable']:,}",
        plots.with_unit(row["metric"], row["unit"]),
        number(row["base"]),
        number(row["adapted"]),
        signed(row["difference"]),
        interval(row),
        row["verdict"] or "–",
        duration(row["seconds"]),
        memory,
    ]


def middle(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
