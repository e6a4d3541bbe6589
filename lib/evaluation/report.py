"""The report of a run: one self-contained page, made from the run's files alone; it can be made again at any time.

`write(run_folder)` reads run.json, the stamps, manifest.csv, split.json, the logs and eval/, draws the curves, and
fills templates/report.html: images as data URIs, one script of its own, nothing from the network. What matters stands
first: the verdict, one picture, the main metric sample by sample, and the metrics that the recipe puts in front.
"""

import base64
import math
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.config import value_text
from lib.core.errors import Stop
from lib.core.run import SCRIPTS, STEPS, Run, existing, read_log, read_record, write_text
from lib.core.tables import read_table
from lib.core.words import change, counted
from lib.data.split import MANIFEST, in_words
from lib.evaluation import curves, experiment, origin, plots
from lib.network import layers

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

CLAIMS = {
    "better": "The adapted model is better than the untouched base.",
    "worse": "The adapted model is worse than the untouched base.",
    "not shown": "A difference to the untouched base is not shown: the interval includes zero.",
}
MOST_FRONT = 8  # metrics that stand before the fold
SHOWN_NAMES = 12  # of groups in a table cell


def write(run_folder: Path) -> Path:
    """Make report.html, which is returned, and record.md. Stop: the run has no scores yet."""
    run = Run(run_folder.parent.parent, run_folder.name)
    scores = read_record(run.scores, run.command(5, "--force"))
    if scores is None:
        raise Stop(f"the run {run.name} has no eval/scores.json yet", run.command(5))
    page = facts(run, scores)
    write_text(run.folder / "report.html", templates().get_template("report.html").render(page))
    experiment.write(run, page)
    return run.folder / "report.html"


def templates() -> "Environment":
    """The page and its tables as Jinja templates, with everything escaped that comes from files."""
    from jinja2 import Environment, FileSystemLoader

    folder = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": number,
        "signed": signed,
        "interval": interval,
        "duration": duration,
        "some": some,
    }
    return environment


def tables() -> Any:
    """The macros of tables.html, for the notebook."""
    return templates().get_template("tables.html").module


def facts(run: Run, scores: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page shows, from files."""
    record = existing(run.record)
    figures = [
        {"caption": caption(path), "uri": data_uri(path)} for path in sorted((run.folder / "figures").glob("*.png"))
    ]
    table = metrics(scores)
    return {
        "name": run.name,
        "record": record,
        "scores": scores,
        "verdict": verdict(scores, record),
        "banner": banner(record),
        "origin": record.get("origin"),
        "origin_line": origin.line(record["origin"]) if "origin" in record else "",
        "paired": paired(run, table.iloc[0]),
        "main": shown(table.iloc[0]),
        "front": [shown(row) for _, row in table[table["front"]].iterrows()],
        "others": [shown(row) for _, row in table[~table["front"]].iterrows()],
        "by_group": by_group(scores),
        "hero": figures[0] if figures else None,
        "figures": figures[1:],
        "stages": [stage_facts(folder, title(scores)) for folder in stage_folders(run)],
        "data": data_facts(run),
        "steps": step_times(run),
        "changed": as_text(record["differs_from_preset"]),
        "settings": as_text(record["config"]),
        "circumstances": circumstances(record),
        "commands": commands(run, record),
    }


# ---------------------------------------------------------------------------------------------- metrics


def metrics(scores: dict[str, Any]) -> "pd.DataFrame":
    """One row per metric, the main one first: name, title, meaning, front, unit, lower_is_better and what
    scores.json has of it (base, adapted, trivial, difference, low, high, verdict).

    A number that the recipe does not name has its own name for a title; at most MOST_FRONT rows are in front.
    """
    import pandas as pd

    main = scores["main"]["metric"]
    names = [main, *(name for name in scores["metrics"] if name != main)]
    table = pd.DataFrame([scores["metrics"][name] for name in names]).assign(name=names)
    words = [scores["words"].get(name, {"title": "", "meaning": "", "front": False}) for name in names]
    table = table.join(pd.DataFrame(words))
    table["title"] = table["title"].where(table["title"] != "", table["name"].str.replace("_", " "))
    table["unit"] = [scores["units"].get(name, "") for name in names]
    table["lower_is_better"] = [scores["lower_is_better"].get(name) for name in names]
    table["front"] = table["front"].astype(bool) | (table["name"] == main)
    table["front"] &= table["front"].cumsum() <= MOST_FRONT
    return table


def shown(row: "pd.Series[Any]") -> dict[str, Any]:
    """A row of `metrics` as the page and the record show it."""
    numbers = {name: number(row[name]) for name in ("base", "adapted", "trivial")}
    arrow = {True: "↓", False: "↑", None: ""}[row["lower_is_better"]]
    words = {name: row[name] for name in ("name", "title", "meaning", "unit", "verdict")}
    with_unit = plots.with_unit(row["title"], row["unit"])
    return words | numbers | {
        "arrow": arrow, "title_with_unit": with_unit, "difference": signed(row["difference"]), "interval": interval(row)
    }  # fmt: skip


def by_group(scores: dict[str, Any]) -> "list[dict[str, Any]]":
    """The main metric of every held-out group, with the numbers that the page sorts by."""
    import pandas as pd

    if not scores["by_group"]:
        return []
    table = pd.DataFrame.from_dict(scores["by_group"], orient="index").rename_axis("group").reset_index()
    return table.assign(difference=table["adapted"] - table["base"]).to_dict("records")


def paired(run: Run, main: "pd.Series[Any]") -> dict[str, str] | None:
    """Base against adapted, sample by sample, for light and dark pages; None where the metric is of the whole set."""
    per_sample, label = run.scores.with_name("per_sample.csv"), plots.with_unit(main["title"], main["unit"])
    drawn = [plots.paired(per_sample, main["name"], label, dark) for dark in (False, True)]
    pictures = [data_uri(path) for path in drawn if path]
    return dict(zip(("light", "dark"), pictures, strict=True)) if pictures else None


# ---------------------------------------------------------------------------------------------- sentences


@dataclass(frozen=True)
class Verdict:
    """What the run has shown: `word` is better, worse, not shown, no verdict, or "" where there is nothing to compare
    with.
    """

    word: str
    claim: str
    numbers: str
    basis: str

    def __str__(self) -> str:
        return f"{self.claim}\n{self.numbers}\n{self.basis}"


def verdict(scores: dict[str, Any], record: dict[str, Any]) -> Verdict:
    """The sentences that the page begins with, in the words of the scores file."""
    main = scores["main"]
    m, unit = scores["metrics"][main["metric"]], f" {main['unit']}" if main["unit"] else ""
    word = m["verdict"] or ""
    other = scores["comparison"].replace("_", " ")
    no_base = f"No verdict: the comparison is with {other}, and there is no base to improve on."
    few = f"No verdict: {counted(scores['n_groups'], 'held-out group')}, and fewer than 5 give no interval."
    claim = CLAIMS.get(word, few if word else no_base)
    claim = " ".join([*trivial_wins(scores), *record.get("seen", []), claim])
    numbers = f"{title(scores)}: {number(m['adapted'])}{unit}"
    if word:
        share = change(m["difference"], m["base"]).replace("-", "−")
        difference = f"difference {signed(m['difference'])}{f', {share}' if share else ''}; {words(m)}"
        numbers += f" against {number(m['base'])}{unit} ({difference})."
    samples, groups = counted(scores["n_samples"], "held-out sample"), counted(scores["n_groups"], "group")
    resamples = counted(record["config"]["eval.resamples"], "resample")
    drawn = f"the interval comes from {resamples} of the groups" if scores["resampled"] else "no interval"
    basis = f"{samples} in {groups}; {drawn}."
    return Verdict(word, claim, numbers, basis)


def title(scores: dict[str, Any]) -> str:
    """What people call the main metric."""
    return str(scores["words"][scores["main"]["metric"]]["title"])


def trivial_wins(scores: dict[str, Any]) -> list[str]:
    """The first sentence where an answer that looks at nothing is as good as the adapted model, or better."""
    main = scores["main"]
    m = scores["metrics"][main["metric"]]
    if absent(m["trivial"]) or not main.get("rival", True):
        return []
    gained = m["trivial"] - m["adapted"] if main["lower_is_better"] else m["adapted"] - m["trivial"]
    if gained > 0:
        return []
    both = f"{number(m['trivial'])} against {number(m['adapted'])}{' ' + main['unit'] if main['unit'] else ''}"
    return [f"The trivial predictor is as good as the adapted model or better ({title(scores)} {both})."]


def banner(record: dict[str, Any]) -> dict[str, str] | None:
    """A demo run must not be mistaken for a result."""
    if not record["demo"]:
        return None
    scale = " at tiny scale" if record["scale"] == "tiny" else ""
    text = "A small network and stand-in data, unless the settings name other data. "
    text += "It shows that the pipeline works and says nothing about the published model."
    return {"title": f"Demo run{scale}.", "text": text}


# ---------------------------------------------------------------------------------------------- tables


def stage_folders(run: Run) -> list[Path]:
    """The folders of the stages, in the order in which they were trained."""
    logs = run.folder.glob("train/*/log.jsonl")
    return [log.parent for log in sorted(logs, key=lambda log: (log.stat().st_mtime_ns, log.parent.name))]


def stage_facts(stage: Path, main: str) -> dict[str, Any]:
    log = read_log(stage / "log.jsonl")
    times = read_log(stage / "timing.jsonl")
    best = read_record(stage / "best.json")
    rates = sorted(record["samples_per_second"] for record in times)
    skipped = sum("skipped" in record for record in log)
    parts = [counted(log[-1]["step"], "optimiser step") if log else "no optimiser step yet"]
    parts += [f"best at step {best['step']}"] if best else []
    parts += [f"{skipped} skipped because a number was not finite"] if skipped else []
    if times:
        parts += [
            f"{rates[len(rates) // 2]:.3g} samples/s (median)",
            f"peak memory {gigabytes(max(time['memory_bytes'] for time in times))}",
            f"device busy {100 * busy(times):.0f} % of the time",
        ]
    trained = layers.summary(stage)
    return {"name": stage.name, "summary": " · ".join(parts), "panels": panels(stage, main), "layers": trained}


def busy(times: list[dict[str, Any]]) -> float:
    """The share of the training's time in which the device did not wait for its batches."""
    waited, seconds = (sum(time[key] for time in times) for key in ("waited_seconds", "seconds"))
    return 1 - waited / seconds if seconds else 1.0


def panels(stage: Path, main: str) -> list[dict[str, str]]:
    """Every curve as a picture of its own, for light and dark pages."""
    with tempfile.TemporaryDirectory() as folder:
        light, dark = (curves.each(stage, Path(folder), main, dark) for dark in (False, True))
        return [{"title": title, "light": data_uri(light[title]), "dark": data_uri(dark[title])} for title in light]


def data_facts(run: Run) -> dict[str, Any]:
    """What was trained on, what was held out, what was left out, and the proof that the sides are disjoint."""
    split = existing(run.split)
    table = read_table(run.manifest, MANIFEST)
    used = table[table["status"] == "ok"]["split"].value_counts()
    sides = [
        {"split": side, "groups": groups, "records": int(used.get(side, 0))} for side, groups in split["groups"].items()
    ]
    skipped = table[table["status"] != "ok"]["reason"].value_counts().to_dict()
    proof = f"Split by {split['by']} with seed {split['seed']}. Found on both sides: {in_words(split['overlap'])}."
    return {"by": split["by"], "sides": sides, "skipped": skipped, "proof": proof}


def step_times(run: Run) -> list[dict[str, Any]]:
    """Steps 1 to 4: the stamp of step 5 is written after the report."""
    stamps = {n: read_record(run.stamp(n)) for n in (1, 2, 3, 4)}
    return [{"number": n, "name": STEPS[n], **stamp} for n, stamp in stamps.items() if stamp]


def circumstances(record: dict[str, Any]) -> dict[str, Any]:
    """What the numbers were made with: device and settings of the training, machine, versions."""
    machine = record["machine"]
    found = {key: record[key] for key in ("device", "precision", "processes", "threads", "micro_batch", "seed")}
    found |= {"cores": machine["cores"], "memory": gigabytes(machine["memory_bytes"])} | {
        key: machine[key] for key in ("system", "python")
    }
    return found | ({"cuda": machine["cuda"]} if machine["cuda"] else {}) | record["versions"]


def commands(run: Run, record: dict[str, Any]) -> list[str]:
    """What to type to get the same run on another machine."""
    words = ["--recipe", record["recipe"], "--preset", record["preset"]]
    words += (["--demo"] if record["demo"] else []) + ["--run", run.name]
    words += [f"{key}={value_text(value)}" for key, value in record["overrides"].items()]
    scale = ["export PIPELINE_SCALE=tiny"] if record["scale"] == "tiny" else []
    return [*scale, shlex.join(["python", SCRIPTS[1], *words]), *(run.portable_command(step) for step in (2, 3, 4, 5))]


# ---------------------------------------------------------------------------------------------- text of values


def number(value: Any) -> str:
    """Four significant digits, so that columns align; whole numbers in full; a dash for what does not exist."""
    if absent(value):
        return "–"
    if value == 0:
        return "0"
    return f"{value:,}" if isinstance(value, int) else f"{value:#.4g}".rstrip(".").replace("-", "−")


def absent(value: Any) -> bool:
    """None in a record, NaN in a table."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def signed(value: Any) -> str:
    return number(value) if absent(value) or value == 0 else f"{value:+#.3g}".rstrip(".").replace("-", "−")


def interval(metric: Any) -> str:
    return "–" if absent(metric["low"]) else f"{signed(metric['low'])} to {signed(metric['high'])}"


def words(metric: dict[str, Any]) -> str:
    return "no interval" if absent(metric["low"]) else f"95 % interval {interval(metric)}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"


def some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def as_text(settings: dict[str, Any]) -> dict[str, str]:
    return {key: value_text(value) for key, value in settings.items()}


def caption(png: Path) -> str:
    """What the recipe wrote into the picture as its text "Description", else its name."""
    from PIL import Image

    with Image.open(png) as picture:
        return str(picture.info.get("Description", png.stem.replace("_", " ")))


def data_uri(png: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}"
