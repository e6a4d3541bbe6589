"""`step(number, *words)` runs a step script in this process with the toy recipe and returns its exit code."""
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

from lib import cli, recipes
from tests import toy

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def step(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", (*recipes.RECIPES, "toy"))
    monkeypatch.setitem(sys.modules, "lib.recipes.toy", toy)
    monkeypatch.setattr(toy, "__name__", "lib.recipes.toy")
    monkeypatch.setattr(cli, "run_child", lambda command, clock: earlier(command))
    for name in [name for name in os.environ if name.startswith(("PIPELINE_", "KAGGLE_", "SESSION_HOURS"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(number: int, *words: str) -> int:
        first = ("--recipe", "toy") if number == 1 and "--recipe" not in words else ()
        name = () if "--run" in words else ("--run", "r")
        return script(number, *first, *name, *words)

    def script(number: int, *words: str) -> int:
        path = str(next(ROOT.glob(f"step{number}_*.py")))
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
            patched.setattr(sys, "argv", [path, *words])
            runpy.run_path(path, run_name="__main__")
        return ended.value.code or 0

    def earlier(command: list[str]) -> int:
        """A step that another step repairs runs in this process too."""
        return script(int(Path(command[1]).name[4]), *command[2:])

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of the run that `step` works on."""
    return tmp_path / "runs" / "r"


@pytest.fixture
def prepared(step):
    """A run whose steps 1 to 3 are done; further words are settings of step 1."""

    def make(*words: str) -> None:
        for number in (1, 2, 3):
            assert step(number, *(words if number == 1 else ())) == 0

    return make
