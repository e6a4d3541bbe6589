"""Comparison of runs: comparison.csv, a table for the console, and a plot of the score against what it cost.

Only runs that were scored by the same metric on the same held-out files are ranked against each other; the others are
listed and named as not comparable. Two recipes have the same metric where one module scores both, and runs of one have
it where no setting differs that says what is measured (lib.core.config.measured).
"""

import argparse
import contextlib
import hashlib
import json
import shlex
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib import recipes
from lib.commands import answer, cli
from lib.core import steps
from lib.core.config import marked, silent_everywhere
from lib.core.errors import DONE, Stop, nearest
from lib.core.run import SCRIPTS, STEPS, Run, existing, read_log, read_record
from lib.core.tables import COUNT, NUMBER, TEXT, YES_NO, read_table, write_table
from lib.data.split import MANIFEST
from lib.evaluation import experiment, plots
from lib.evaluation.report import duration, gigabytes, interval, number, signed, stage_folders
from lib.evaluation.statistics import PER_SAMPLE
from lib.network import layers

if TYPE_CHECKING:
    import pandas as pd

# Dtypes of the columns of comparison.csv. Behind them: adapted_<metric> of every other metric,
# <base|adapted>_<metric>_in_<group>, and the settings in which the runs differ. Times in seconds; rank is missing where
# a run was not scored on the same data.
COMPARISON = {
    "rank": COUNT, "run": TEXT, "date": TEXT, "recipe": TEXT, "preset": TEXT, "demo": YES_NO, "step": COUNT,
    "trainable": COUNT, "metric": TEXT, "unit": TEXT, "lower_is_better": YES_NO, "base": NUMBER, "adapted": NUMBER,
    "trivial": NUMBER, "difference": NUMBER, "low": NUMBER, "high": NUMBER, "verdict": TEXT, "n_samples": COUNT,
    "held_out": TEXT, "seconds": NUMBER, "memory_bytes": COUNT, "samples_per_second": NUMBER, "observations": TEXT,
}  # fmt: skip
# Shared by runs that are ranked; and their scorer. MEASURED, as JSON, is no column of the table.
MEASURED = "measured"
COMPARABLE = ["demo", "metric", "unit", "lower_is_better", "held_out", MEASURED]
SHOWN = ("rank", "run", "trainable", "metric", "base", "adapted", "difference", "interval", "verdict", "time", "memory")


def main(words: list[str]) -> int:
    """`step5_evaluate.py --compare RUN…`: reads finished runs and works on none of them. Returns the exit code."""

    def work() -> int:
        args = parse(words)
        root = args.root.resolve()
        runs = dict.fromkeys(existing_run(root, word) for word in args.compare)
        print(compare(list(runs), root / "runs"))
        told["runs"] = rows_of(root / "runs" / "comparison.csv")
        return DONE

    with answer.given() as told:
        told["exit_code"] = code = cli.ended(work, told)
    return code


def parse(words: list[str]) -> argparse.Namespace:
    parser = cli.Parser(prog=SCRIPTS[5])
    parser.add_argument("--compare", nargs="+", metavar="RUN", required=True, help="names of runs, or their folders")
    parser.add_argument("--root", type=cli.folder, default=cli.here(), help="holds runs/ (default: the current folder)")
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout, everything else on stderr")
    return parser.parse_args(words)


def rows_of(table: Path) -> list[dict[str, Any]]:
    """The rows of comparison.csv as JSON values: a run that is called 007 is no number."""
    found = read_table(table, COMPARISON)
    further = {name: found[name].map(value_of).astype(object) for name in found if name not in COMPARISON}
    rows: list[dict[str, Any]] = json.loads(found.assign(**further).to_json(orient="records"))
    return [{key: None if value == "" else value for key, value in row.items()} for row in rows]


def value_of(cell: str) -> Any:
    """A cell of a column whose dtype is not stated: a number, a truth value, or text."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(cell)
    return {"True": True, "False": False}.get(cell, cell)


def existing_run(root: Path, word: str) -> Run:
    """The run of that name, or in that folder, below the root. Stop: there is none, or the folder is elsewhere."""
    folder = Path(word).resolve()
    run = Run(root, folder.name)
    named = word == run.name or run.folder.resolve() in (folder, (root / word).resolve())
    if not named and folder.is_dir():
        free = run.folder if not run.folder.exists() else run.folder.with_name(f"{run.name}-copy")
        command = shlex.join(["cp", "-r", str(folder), str(free)])
        raise Stop(f"{folder} is not in {run.folder.parent}, where runs are compared", f"{command}   and name the copy")
    if not named or not run.record.exists():
        there = [record.parent.name for record in root.glob("runs/*/run.json")]
        raise Stop(f"there is no run {word!r}: {nearest(run.name, there)}")
    return run


def compare(runs: list[Run], out: Path) -> str:
    """Write comparison.csv and comparison.png into the folder `out`; returns the table for the console.

    The first runs of the table are the largest group that can be compared, best first. Stops where a run has no scores.
    """
    import pandas as pd

    frame = pd.DataFrame([facts(run) for run in runs]).astype(COMPARISON)
    settings = differing_settings([existing(run.record)["config"] for run in runs])
    ranked, others = rank(frame.join(pd.DataFrame(settings, frame.index, dtype=object)))
    write_table(out / "comparison.csv", pd.concat([ranked, others]).drop(columns=MEASURED))
    plots.comparison(ranked, out / "comparison.png")
    lines = console(ranked)
    first = ranked.iloc[0]
    lines += [f"not comparable with these: {row['run']} ({difference(row, first)})" for _, row in others.iterrows()]
    return "\n".join([*lines, f"written: {out / 'comparison.csv'}, {out / 'comparison.png'}"])


def facts(run: Run) -> dict[str, Any]:
    """One row: what was trained, how well it did on the main metric, what it cost, and every other metric."""
    record, scores = existing(run.record), read_record(run.scores)
    if scores is None:
        raise Stop(f"the run {run.name} has no scores to compare", run.command(5))
    for step in (4, 5):
        state = steps.state_without_code(run, step, record["config"])
        if state.word != "complete":
            why = f"step {step} ({STEPS[step]}) is {state}"
            raise Stop(f"the scores of the run {run.name} are not of it as it is now: {why}", run.command(step))
    main = scores["main"]
    m = scores["metrics"][main["metric"]]
    times = [entry for stage in stage_folders(run) for entry in read_log(stage / "timing.jsonl")]
    others = {name: other["adapted"] for name, other in scores["metrics"].items() if name != main["metric"]}
    return {
        "rank": None,
        "run": run.name,
        "date": record.get("origin", {}).get("date", ""),
        **{key: record[key] for key in ("recipe", "preset", "demo")},
        "step": scores["step"],
        "trainable": trainable(run),
        **{key: main[key] for key in ("metric", "unit", "lower_is_better")},
        **{key: m[key] for key in ("base", "adapted", "trivial", "difference", "low", "high", "verdict")},
        "n_samples": scores["n_samples"],
        "held_out": held_out(run),
        MEASURED: measured(run, record, scores),
        "seconds": round(sum(entry["seconds"] for entry in times), 1),
        "memory_bytes": max((entry["memory_bytes"] for entry in times), default=None),
        "samples_per_second": statistics.median(entry["samples_per_second"] for entry in times) if times else None,
        "observations": experiment.observations(run),
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
    """Parameters that were trained: a layer that several stages train counts once."""
    of_layer: dict[str, int] = {}
    for stage in stage_folders(run):
        for layer, (count, _) in layers.read(stage).items():
            of_layer[layer] = max(count, of_layer.get(layer, 0))
    return sum(of_layer.values())


def held_out(run: Run) -> str:
    """The fingerprint of what was scored: the contents of the held-out files and the samples that were made of them."""
    records = read_table(run.manifest, MANIFEST)
    files = sorted(records.loc[(records["split"] == "test") & (records["status"] == "ok"), "sha256"])
    samples = sorted(set(read_table(run.scores.with_name("per_sample.csv"), PER_SAMPLE)["sample_id"]))
    return hashlib.sha256("\n".join([*files, "", *samples]).encode()).hexdigest()[:12]


def measured(run: Run, record: dict[str, Any], scores: dict[str, Any]) -> str:
    """What says what is measured, as JSON: settings of regions, of classes, of how the truth was made; and the stage
    that the scored one stands on, for generated images are compared with what its autoencoder makes of real ones.
    """
    recipe = recipes.find(run.root, record["recipe"])
    found = {key: record["config"].get(key) for key in marked(recipe.Config(), "measured")}
    for stage, at in scores.get("stands_on", {}).items():
        found[f"the stage {stage}"] = f"{at['name']} ({at['sha256'][:8]})"
    return json.dumps(found, sort_keys=True)


def differing_settings(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each run's settings those in which the runs differ: the axes of a sweep become columns."""
    unshown = silent_everywhere()
    keys = [key for key in dict.fromkeys(key for config in configs for key in config) if key not in unshown]
    differing = [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]
    return [{key: config.get(key) for key in differing} for config in configs]


def rank(frame: "pd.DataFrame") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """The largest group of comparable runs, best first, with its ranks; and the rest as it came."""
    scorer = frame["recipe"].map(scored_by)
    group = frame.groupby([scorer, *COMPARABLE], sort=False).ngroup()
    is_largest = group == group.mode()[0]  # of equals the one that was named first
    ranked = frame[is_largest]
    ranked = ranked.sort_values("adapted", ascending=bool(ranked["lower_is_better"].iloc[0]), kind="stable")
    return ranked.assign(rank=range(1, len(ranked) + 1)).astype({"rank": COUNT}), frame[~is_largest]


def scored_by(recipe: str) -> str:
    """What computes the scores of a recipe: itself, or a module that it has in common with others."""
    if recipe not in recipes.RECIPES:
        return recipe
    loaded = recipes.load(recipe)
    common = [file for file in loaded.modules("summarise") if not file.is_relative_to(loaded.folder)]
    return str(common[0]) if common else recipe


def difference(row: "pd.Series[Any]", other: "pd.Series[Any]") -> str:
    """Why two runs cannot be ranked, in words."""
    if scored_by(row["recipe"]) != scored_by(other["recipe"]):
        return f"recipe {row['recipe']}, not {other['recipe']}"
    if row["demo"] != other["demo"]:
        return "a demo run" if row["demo"] else "not a demo run"
    if row["metric"] != other["metric"]:
        return f"metric {row['metric']}, not {other['metric']}"
    if row["unit"] != other["unit"]:
        return f"in {row['unit'] or 'no unit'}, not {other['unit'] or 'in none'}"
    one, another = (json.loads(of[MEASURED]) for of in (row, other))
    for key in one.keys() | another.keys():
        if one.get(key) != another.get(key):
            return f"{key}={one.get(key)}, not {another.get(key)}"
    return "other held-out samples"


def console(frame: "pd.DataFrame") -> list[str]:
    """Aligned text, one line per run."""
    cells = [list(SHOWN), *(cells_of(row) for _, row in frame.iterrows())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def cells_of(row: "pd.Series[Any]") -> list[str]:
    import pandas as pd

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
        "–" if pd.isna(row["memory_bytes"]) else gigabytes(row["memory_bytes"]),
    ]
