"""SIGKILL at any moment of any step, also in the middle of writing a checkpoint: the finished run is the same, bit for
bit.

KILLS=100 python -m pytest tests/test_kill.py is the long form; KILL_SEED chooses other moments. Every step runs in a
process that a server with everything imported forks, so that a hundred kills take minutes.
"""

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from tests import conftest
from tests.equal import equal_files

KILLS = int(os.environ.get("KILLS", "6"))
SEED = int(os.environ.get("KILL_SEED", "1"))
ROOT = Path(__file__).resolve().parent.parent
SETTINGS = (
    "train.epochs=2",
    "train.checkpoint_minutes=0",
    "train.ema=0.9",
    "eval.figures=1",
)  # a checkpoint after every step

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "tests.conftest",
        "torch",
        "peft",
        "pandas",
        "accelerate",
        "lib.core.machine",
        "lib.training.stages",
        "lib.evaluation.evaluate",
    ]
)


def run_step(root: Path, number: int, machine: dict, renames: int | None, name: str = "r", *words: str) -> None:
    """A step in this process. With `renames` it is killed at that rename of a finished file: before it when even, after
    it when odd.
    """
    from lib.core import machine as looking

    looking.inspect_machine = lambda folders: machine
    os.chdir(root)
    os.environ |= {"OMP_NUM_THREADS": "1"}
    output = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if renames is not None:
        die_at_rename(renames)
    script = str(next(ROOT.glob(f"step{number}_*.py")))
    first = ("--recipe", str(conftest.TOY), *SETTINGS, *words) if number == 1 else ()
    sys.argv = [script, "--run", name, *first]
    runpy.run_path(script, run_name="__main__")


def die_at_rename(which: int) -> None:
    real, seen = os.replace, []

    def replace(source, target):
        seen.append(target)
        if len(seen) - 1 == which // 2 and which % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
        if len(seen) - 1 == which // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace


def attempt(root: Path, number: int, seconds: float | None = None, renames: int | None = None) -> bool:
    """Runs a step, killed after so many seconds or at a rename; False when it was killed."""
    child = SERVER.Process(target=run_step, args=(root, number, conftest.inspect_once(["root"]), renames))
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), (root / "output.txt").read_text()
    return child.exitcode == 0


def test_a_run_killed_at_random_moments_equals_one_that_was_not(tmp_path):
    whole, other = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    durations = {}
    for number in range(1, 6):
        began = time.monotonic()
        assert attempt(whole, number)
        durations[number] = time.monotonic() - began
    wanted = equal_files(whole / "runs" / "r")
    generator = np.random.Generator(np.random.Philox(key=SEED))
    killed = rounds = 0
    while killed < KILLS:
        rounds += 1
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        for number in range(1, 6):
            killed += kills_until_done(other, number, durations[number], generator, KILLS - killed)
        assert equal_files(other / "runs" / "r") == wanted
        assert not list(other.rglob(".step-*.tmp"))
    print(f"{killed} kills in {rounds} runs: equal")


def kills_until_done(root: Path, number: int, duration: float, generator, budget: int) -> int:
    """Kills a step at random moments, half of them in the middle of a write; training, the longest step, most often."""
    killed = 0
    for _ in range(min(budget, 6 if number == 4 else 1)):
        if generator.random() < 0.5:
            done = attempt(root, number, seconds=float(generator.uniform(0.05, duration)))
        else:
            done = attempt(root, number, renames=int(generator.integers(0, 40 if number == 4 else 8)))
        if done:
            return killed
        killed += 1
    assert attempt(root, number)
    return killed


def together(root: Path, number: int, *runs: tuple[str, ...]) -> None:
    """The step of several runs in one root at the same moment, each in a process of its own."""
    machine = conftest.inspect_once(["root"])
    children = [SERVER.Process(target=run_step, args=(root, number, machine, None, *run)) for run in runs]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * len(runs), (root / "output.txt").read_text()


def test_runs_begun_at_the_same_moment_in_one_root_equal_one_that_was_alone(tmp_path):
    """They share the stand-in base, the prepared arrays, the frozen features and the memos."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for root, runs in ((alone, ["r"]), (shared, ["r", "s", "t"])):
        root.mkdir()
        for number in range(1, 6):
            together(root, number, *((name,) for name in runs))
    said = (shared / "output.txt").read_text()
    assert len(list((shared / "data" / "toy").iterdir())) == 1 and "Traceback" not in said
    for name in ("eval/scores.json", "eval/per_sample.csv", "train/adapt/log.jsonl", "manifest.csv"):
        for run in ("r", "s", "t"):
            assert (shared / "runs" / run / name).read_bytes() == (alone / "runs" / "r" / name).read_bytes(), name
    assert not [path for path in shared.rglob(".*") if path.name != ".lock"]
