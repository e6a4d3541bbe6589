"""Time, memory and gain at full demo scale, by hand:

    python -m tests.long [recipe …]

Runs every preset of CLAIMS through papermill or the steps, in a scratch folder, and writes tests/long_results.json,
which the README quotes. Ten minutes to half an hour per recipe on 2 cores; nothing else should run meanwhile.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tests" / "long_results.json"
# recipe -> presets; the first one runs through papermill, all five steps, and is what the time limit is about
CLAIMS = {
    "vggt_eth3d": ("strategy_b", "strategy_a", "strategy_c", "head_full"), "da3_eth3d": ("base_b",),
    "hamer": ("rank8", "rank4", "rank16"),
    "vavae_microdoppler": ("three_stages", "dit_scratch_s", "dit_frozen", "dit_lora"),
    "llava_map": ("stage2", "no_llm"),
}  # fmt: skip
# recipe -> further metrics that the README names
ALSO = {
    "vavae_microdoppler": (
        "alignment_cosine",
        "lpips",
        "user_accuracy",
        "user_accuracy_real",
        "diversity_ratio",
        "memorisation_ratio",
        "utility_real",
        "utility_both",
        "utility_generated",
    )
}
POLL_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipes", nargs="*", default=list(CLAIMS), metavar="recipe")
    parser.add_argument(
        "--presets", nargs="+", default=[], help="only these; the results of the others stay as they are"
    )
    parser.add_argument("--keep", type=Path, help="keep the runs below this folder")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for recipe in args.recipes:
        root = args.keep or Path(tempfile.mkdtemp(prefix="long-"))
        root.mkdir(parents=True, exist_ok=True)
        before = results.get(recipe, {}).get("presets", {})
        results[recipe] = {"presets": {preset: before[preset] for preset in CLAIMS[recipe] if preset in before}}
        for preset in args.presets or CLAIMS[recipe]:
            results[recipe]["presets"][preset] = measured(
                recipe, preset, root, through_papermill=preset == CLAIMS[recipe][0]
            )
            results[recipe]["presets"] = {
                name: results[recipe]["presets"][name] for name in CLAIMS[recipe] if name in results[recipe]["presets"]
            }
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(preset, json.dumps(results[recipe]["presets"][preset]))


def measured(recipe: str, preset: str, root: Path, through_papermill: bool) -> dict:
    """One demo run from nothing: seconds, peak memory of the whole process tree, and what the scores say."""
    run, started, peak = f"{recipe}-{preset}-demo", time.monotonic(), 0
    commands = (
        [papermill(recipe, preset, root)] if through_papermill else [step(n, recipe, preset, root) for n in range(1, 6)]
    )
    for command in commands:
        peak = max(peak, run_and_watch(command))
    seconds = time.monotonic() - started
    scores = json.loads((root / "runs" / run / "eval" / "scores.json").read_text())
    main_metric = scores["metrics"][scores["main"]["metric"]]
    return {
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "seconds": round(seconds, 1),
        "through_papermill": through_papermill,
        "peak_memory_bytes": peak,
        "metric": scores["main"]["metric"],
        "unit": scores["main"]["unit"],
        "comparison": scores["comparison"],
        "also": {name: scores["metrics"][name] for name in ALSO.get(recipe, ()) if name in scores["metrics"]},
        "step": scores["step"],
        "n_samples": scores["n_samples"],
        "n_groups": scores["n_groups"],
        "resampled": scores["resampled"],
        **main_metric,
    }


def table(recipe: str, result: dict) -> list[str]:
    """The README's tables of a recipe, line by line: one for each main metric and what it is compared with, and below
    it what else was scored.
    """
    presets, lines = result["presets"], []
    first: dict[str, dict] = {}
    for metric, comparison in dict.fromkeys((row["metric"], row["comparison"]) for row in presets.values()):
        of_table = {"metric": metric, "comparison": comparison}
        rows = {preset: row for preset, row in presets.items() if of_table.items() <= row.items()}
        scores = f"{metric}: trivial predictor | {column(rows)} | adapted"
        lines.append(f"| preset | {scores} | 95 % interval of the difference | verdict |")
        lines.append("|---|---|---|---|---|---|")
        lines += [line(preset, row) for preset, row in rows.items()]
        lines.append("")
        first |= dict([next(iter(rows.items()))])  # its cost is named; the others differ by their trained share
        for preset, row in rows.items():
            lines += [f"`{preset}`: {also(row)}.", ""] if row["also"] else []
    one = next(iter(presets.values()))
    held_out = f"{one['n_samples']} held-out samples of {one['n_groups']} groups, {one['resampled']} resampled"
    costs = ", ".join(cost(preset, row) for preset, row in first.items())
    return [*lines, f"Measured by `python -m tests.long {recipe}`: {held_out}; all five steps took {costs}."]


def strategies(result: dict) -> list[str]:
    """Of the generator's presets, for the recipe's page: what they reach, beside training from scratch."""
    head = "| preset | Fréchet distance | right user | classifier taught by real, both, generated images |"
    lines = [head, "|---|---|---|---|"]
    for preset, row in result["presets"].items():
        if "user_accuracy" in row["also"]:
            shares = {name: f"{100 * metric['adapted']:.0f} %" for name, metric in row["also"].items()}
            learnt = ", ".join(share for name, share in shares.items() if name.startswith("utility_"))
            lines.append(
                f"| `{preset}` | {row['adapted']:.3f} | {shares['user_accuracy']} | {learnt or 'not measured'} |"
            )
    return lines


def cost(preset: str, row: dict) -> str:
    cores = "1 core" if row["cores"] == 1 else f"{row['cores']} cores"
    used = f"{row['seconds']:.0f} s and {row['peak_memory_bytes'] / 1e9:.1f} GB"
    return f"`{preset}` {used} on {cores} ({row['processor']}, {row['date']})"


def column(rows: dict[str, dict]) -> str:
    """What the adapted model is compared with: the untouched base, or what stands in for it."""
    return {"base": "untouched base", "random_init": "untrained"}[next(iter(rows.values()))["comparison"]]


def line(preset: str, row: dict) -> str:
    number = lambda value: "–" if value is None else f"{value:.3f}" + (f" {row['unit']}" if row["unit"] else "")  # noqa: E731
    share = f" ({100 * row['difference'] / row['base']:+.1f} %)" if row["comparison"] == "base" else ""
    change = f" ({row['difference']:+.2f} dB)" if row["unit"] == "dB" else share
    cells = (
        f"`{preset}`",
        number(row["trivial"]),
        number(row["base"]),
        number(row["adapted"]) + change,
        f"{row['low']:.3f} to {row['high']:.3f}",
        row["verdict"] or "no verdict",
    )
    return f"| {' | '.join(cells)} |"


def also(row: dict) -> str:
    return ", ".join(
        f"{name} {m['base']:.3f} → {m['adapted']:.3f} ({m['low']:+.3f} to {m['high']:+.3f})"
        for name, m in row["also"].items()
    )


def papermill(recipe: str, preset: str, root: Path) -> list[str]:
    notebook = ROOT / "notebooks" / "pipeline.ipynb"
    words = {"recipe": recipe, "preset": preset, "root": str(root)}
    given = [word for name, value in words.items() for word in ("-r", name, value)]
    return [
        sys.executable,
        "-m",
        "papermill",
        str(notebook),
        str(root / f"{preset}.ipynb"),
        "--cwd",
        str(ROOT),
        "-p",
        "demo",
        "True",
        *given,
    ]


def step(number: int, recipe: str, preset: str, root: Path) -> list[str]:
    script = next(ROOT.glob(f"step{number}_*.py"))
    return [sys.executable, str(script), "--recipe", recipe, "--preset", preset, "--demo", "--root", str(root)]


def run_and_watch(command: list[str]) -> int:
    """Runs a command to its end; returns the largest sum of resident memory over its process tree, in bytes."""
    child, peak = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PIPELINE_SCALE": ""}), 0
    while child.poll() is None:
        peak = max(peak, tree_memory(child.pid))
        time.sleep(POLL_SECONDS)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return peak


def tree_memory(root: int) -> int:
    """Proportional set size of a process and all below it (shared pages are counted once), in bytes."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    below, size = {root}, 0
    for pid in sorted(parents):
        if parents[pid] in below:
            below.add(pid)
    for pid in below:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            size += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return size


if __name__ == "__main__":
    main()
