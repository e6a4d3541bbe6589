"""Step 3 on several cores gives what it gives on one: results, order, errors, settings that were read."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib import recipes
from lib.core.config import note_reads
from lib.core.errors import Stop
from lib.data import cores

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Inner:
    scale: int = 10
    unused: int = 0


@dataclass
class Settings:
    inner: Inner = field(default_factory=Inner)


def scaled(config, item, told=0):
    if item == 7:
        raise Stop("seven is refused", "leave it out", 1)
    return config.inner.scale * item + told, os.getpid()


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(cores, "WORTH_SECONDS", 0.0)


def test_results_come_in_order_from_other_processes(at_once):
    found = list(cores.in_order(Settings(), partial(scaled, told=5), range(7), processes=2))
    assert [value for value, _ in found] == [5, 15, 25, 35, 45, 55, 65]
    assert found[0][1] == os.getpid() and os.getpid() not in {process for _, process in found[1:]}


def test_short_work_starts_no_process():
    assert {process for _, process in cores.in_order(Settings(), scaled, range(7), processes=2)} == {os.getpid()}


def test_what_a_worker_raises_is_raised_in_its_place(at_once):
    seen = []
    with pytest.raises(Stop) as stopped:
        seen.extend(cores.in_order(Settings(), scaled, range(9), processes=2))
    assert (stopped.value.cause, stopped.value.command, stopped.value.code) == ("seven is refused", "leave it out", 1)


def test_settings_that_only_workers_read_are_noted(at_once):
    read: set[str] = set()
    config = note_reads(Settings(), read)
    assert len(list(cores.in_order(config, second_only, range(3), processes=2))) == 3
    assert read == {"inner.scale"}


def second_only(config, item):
    return config.inner.scale if item else 0


def test_nothing_is_left_running_when_the_caller_stops_in_the_middle(at_once):
    results = cores.in_order(Settings(), scaled, range(7), processes=2)
    workers = {next(results)[1], next(results)[1], next(results)[1]} - {os.getpid()}
    results.close()
    assert workers and not any(map(is_alive, workers))


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


KILLED = """
import os, sys
sys.path.insert(0, {root!r})
from lib.data import cores
from tests.data.test_cores import Settings, scaled
cores.WORTH_SECONDS = 0.0
if __name__ == "__main__":
    results = cores.in_order(Settings(), scaled, range(7), processes=2)
    next(results)
    print(next(results)[1], flush=True)
    os.kill(os.getpid(), 9)
"""


def test_workers_end_with_a_step_that_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(root=str(ROOT)))
    ended = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    patience = time.monotonic() + 20
    while is_alive(int(ended.stdout)):
        assert time.monotonic() < patience, "a worker outlived its step"
        time.sleep(0.05)


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_every_recipe_prepares_the_same_on_several_cores(recipe, step, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    monkeypatch.setattr(cores, "cores", lambda: 2)
    assert step(1, "--recipe", recipe, "--demo") == 0 and step(2) == 0
    seen, plain, shown = [], cores.spread, []
    monkeypatch.setattr(cores, "spread", lambda *given: seen.append(1) or plain(*given))
    made = []
    for worth_seconds in (1e9, 0.0):
        monkeypatch.setattr(cores, "WORTH_SECONDS", worth_seconds)
        assert step(3, "--force") == 0
        made.append(prepared(tmp_path, folder))
        shown.append(overlays(tmp_path))
        for place in (tmp_path / "cache").glob("prepared-*"):
            place.rename(tmp_path / f"{place.name}-{worth_seconds}")
    assert made[0] == made[1] and len(made[0]) > 1 and seen
    assert shown[0].keys() == shown[1].keys()
    assert all(np.abs(picture - shown[1][name]).max() <= 1 for name, picture in shown[0].items())


def prepared(root, folder):
    """The manifest and what training reads, by name."""
    [place] = (root / "cache").glob("prepared-*")
    files = [folder / "manifest.csv", *(path for path in place.rglob("*") if path.is_file())]
    read = [path for path in files if path.parent.name != "overlays" and path.name != "hashes.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in read}


def overlays(root):
    """Pictures to look at, which Matplotlib does not draw alike each time: of 60 of one scene, drawn by one process, 15
    differed from the others, in 1 of 20 000 numbers and by one grey level.
    """
    found = (root / "cache").glob("prepared-*/overlays/*.png")
    return {path.name: np.asarray(Image.open(path).convert("RGB")).astype(int) for path in found}
