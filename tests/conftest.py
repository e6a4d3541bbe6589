"""`step(number, *words)` runs a step script in this process with the toy recipe and returns its exit code."""
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

from lib import recipes
from tests import toy

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def step(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", (*recipes.RECIPES, "toy"))
    monkeypatch.setitem(sys.modules, "lib.recipes.toy", toy)
    monkeypatch.setattr(toy, "__name__", "lib.recipes.toy")
    monkeypatch.delenv("PIPELINE_SCALE", raising=False)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(number: int, *words: str) -> int:
        script = next(ROOT.glob(f"step{number}_*.py"))
        first = ("--recipe", "toy") if number == 1 else ()
        monkeypatch.setattr(sys, "argv", [str(script), *first, "--run", "r", *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        return ended.value.code or 0

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.pop("PIPELINE_LOCKED", None)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of the run that `step` works on."""
    return tmp_path / "runs" / "r"
