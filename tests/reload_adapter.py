"""An exported adapter in a process of its own: the base, and what the model card says, give the scored outputs.

`python -m tests.reload_adapter ROOT RUN` prints the largest difference; `refuse_other_outputs(RUN)` is for tests.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WITHIN = 1e-5  # of a score, relative to the larger of it and 1
REPOSITORY = Path(__file__).resolve().parent.parent


def refuse_other_outputs(run: str) -> None:
    """Below the current folder, whose run `run` was exported with --export adapter."""
    command = [sys.executable, "-m", "tests.reload_adapter", str(Path.cwd()), run]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def main(root: str, name: str) -> None:
    from lib.commands import settings
    from lib.core.job import Job
    from lib.core.session import Clock

    flags = {"root": Path(root), "run": name, "overrides": [], "inputs": Path(root), "plan": False}
    args = argparse.Namespace(recipe=None, preset=None, demo=None, **flags)
    run, recipe, config, record = settings.of_run(5, args)
    job = Job(5, run, recipe, config, record, args, Clock(None, 1, time.monotonic()))
    found = scored_again(job, run.folder / "export")
    wanted = column(run.folder / "eval" / "per_sample.csv", "adapted")
    base = column(run.folder / "eval" / "per_sample.csv", "base")
    apart = max(abs(found[key] - value) / max(1, abs(value)) for key, value in wanted.items() if value == value)
    assert found.keys() == wanted.keys() and apart <= WITHIN, apart
    assert (
        max(abs(base[key] - value) for key, value in wanted.items() if value == value) > 10 * WITHIN
    )  # it was trained
    print(apart)


def scored_again(job: Any, export: Path) -> dict[tuple[str, str], float]:
    """(sample, number) -> score, of the base with what lies in the folder `export`, loaded as the card there says."""
    from lib.evaluation.evaluate import opened
    from lib.network import scoring
    from lib.network.setup import build_base, uncached

    with opened(job) as session:
        accelerator, asset_dirs, manifest, stage = session
        parts = build_base(job, stage, asset_dirs, accelerator)
        os.chdir(export)
        exec(card_code(export / "adapter" / "README.md"), {"networks": parts.modules})
        sampler = job.recipe.sampler(job.config, stage, manifest, "test")
        rows, frozen = [], uncached(parts, accelerator)
        for index in range(sampler.length):  # one by one, as step 5 does
            rows += scoring.rows(job.recipe, job.config, stage, parts, sampler, [index], accelerator, frozen)
    return {(row.sample_id, name): value for row in rows for name, value in row.numbers.items() if value == value}


def card_code(card: Path) -> str:
    return card.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def column(path: Path, name: str) -> dict[tuple[str, str], float]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[name]]  # an empty cell has no value
        return {(row["sample_id"], row["number"]): float(row[name]) for row in rows}


if __name__ == "__main__":
    main(*sys.argv[1:])
