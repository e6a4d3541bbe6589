"""`step(number, *words)` runs a step script in this process with the toy recipe and returns its exit code."""

import contextlib
import functools
import json
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each of the two processes that run tests; before torch is imported

from lib import recipes
from lib.commands import cli
from lib.core import machine

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "tests" / "toy"
recipes.load(str(TOY))  # from here on `lib.recipes.toy` can be imported
REALLY_INSPECT = machine.inspect_machine


@functools.cache
def inspected(*names: str) -> str:
    return json.dumps(REALLY_INSPECT(dict.fromkeys(names, ROOT)))


def inspect_once(folders):
    """Step 1 starts children that import torch; this machine is the same one in every test."""
    return json.loads(inspected(*folders))


WRITTEN: dict[str, set[Path]] = {"below": set(), "unguarded": set()}  # see `written_in`


def note_writing(event, values):
    """A file that is opened to be written from its beginning, under the name that it keeps: a kill leaves half of it.

    Each such file of a step must have a temporary name, or lie in a folder that has one.
    """
    if event != "open" or not WRITTEN["below"] or not isinstance(values[0], str | os.PathLike):
        return
    if isinstance(values[1], str) and set(values[1]) & set("wx+"):
        path = Path(os.path.abspath(os.fsdecode(values[0])))
        kept = [root for root in WRITTEN["below"] if path.is_relative_to(root)]
        if kept and not any(part.startswith(".") and part.endswith(".tmp") for part in path.relative_to(kept[0]).parts):
            WRITTEN["unguarded"].add(path)


sys.addaudithook(note_writing)


@contextlib.contextmanager
def written_in(root: Path):
    """Within the block, no file below a root is written under the name that it keeps."""
    before = WRITTEN["below"]
    WRITTEN["below"], WRITTEN["unguarded"] = {root}, set()
    try:
        yield
        assert not WRITTEN["unguarded"], f"written without a temporary name: {sorted(WRITTEN['unguarded'])}"
    finally:
        WRITTEN["below"] = before


@pytest.fixture
def step(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "inspect_machine", inspect_once)
    monkeypatch.setattr(cli, "run_child", lambda command, clock: earlier(command))
    monkeypatch.setattr(cli, "guard_against_dead_parent", lambda clock: None)  # it would end this process, the tests'
    for name in [name for name in os.environ if name.startswith(("PIPELINE_", "KAGGLE_", "SESSION_HOURS"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(number: int, *words: str) -> int:
        first = ("--recipe", str(TOY)) if number == 1 and "--recipe" not in words else ()
        name = () if "--run" in words else ("--run", "r")
        return script(number, *first, *name, *words)

    def script(number: int, *words: str) -> int:
        path = str(next(ROOT.glob(f"step{number}_*.py")))
        with written_in(tmp_path), monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
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


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory) -> dict[tuple, Path]:
    """(words, last step) -> a root that holds such a run; a run may be copied, so each is made once."""
    return {}


@pytest.fixture
def prepared(step, tmp_path, tmp_path_factory, made_runs):
    """prepared(*words, last=3) puts a run here whose steps 1 to `last` are done; the words are settings of step 1."""

    def make(*words: str, last: int = 3) -> None:
        if (words, last) in made_runs:
            shutil.copytree(made_runs[words, last], tmp_path, dirs_exist_ok=True)
            return
        for number in range(1, last + 1):
            assert step(number, *(words if number == 1 else ())) == 0
        made_runs[words, last] = shutil.copytree(tmp_path, tmp_path_factory.mktemp("made") / "root")

    return make


@pytest.fixture
def new_precision():
    """Forgets the precision that accelerate keeps for a whole process: now, when it is called, and afterwards."""
    from accelerate.state import AcceleratorState

    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)

    forget()
    yield forget
    forget()
