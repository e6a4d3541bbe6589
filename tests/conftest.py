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

import torch

from lib import recipes
from lib.commands import cli
from lib.core import hashes, machine

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "tests" / "toy"
recipes.load(str(TOY))  # from here on `lib.recipes.toy` can be imported
REALLY_INSPECT = machine.inspect_machine


def pytest_collection_modifyitems(items):
    """Long files first, so that the two processes end at nearly the same moment; xdist would begin with many tests."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws does not depend on the tests that ran before it in its process."""
    torch.manual_seed(0)


@functools.cache
def inspected(*names: str) -> str:
    return json.dumps(REALLY_INSPECT(dict.fromkeys(names, ROOT)))


def inspect_once(folders):
    """Step 1 starts children that import torch; this machine is the same one in every test."""
    return json.loads(inspected(*folders))


OPENED: dict[str, set[Path]] = {"below": set(), "unguarded": set(), "unread": set()}  # see `watched`


def note_opening(event, values):
    """Notes files that a step opens otherwise than it may.

    unguarded: written from its beginning under the name that it keeps, so that a kill leaves half of it.
    unread: a prepared array read by training or scoring before its content was compared (lib.core.hashes.checked).
    """
    if event != "open" or not OPENED["below"] or not isinstance(values[0], str | os.PathLike):
        return
    path, mode = Path(os.path.abspath(os.fsdecode(values[0]))), values[1] if isinstance(values[1], str) else ""
    kept = [root for root in OPENED["below"] if path.is_relative_to(root)]
    if set(mode) & set("wx+") and kept:
        inside = path.relative_to(kept[0]).parts
        if TRACKER not in inside and not any(part.startswith(".") and part.endswith(".tmp") for part in inside):
            OPENED["unguarded"].add(path)
    elif mode.startswith("r") and str(path) in hashes.expected and sys._getframe(1).f_code is not HASHING:
        OPENED["unread"] |= {path for root in kept if path.is_relative_to(root / "cache")}


TRACKER = "tensorboard"  # the folder of its own files, which no step reads
HASHING = hashes.sha256_of.__code__  # what `checked` itself opens a file with
sys.addaudithook(note_opening)


@contextlib.contextmanager
def watched(root: Path, number: int):
    """No step writes a file below the root under the name that it keeps; 4 and 5 read no array that was not compared.

    What a library opens in another language (safetensors) is not seen.
    """
    before = dict(OPENED)  # a step may run within another one that repairs it
    OPENED.update(below={root}, unguarded=set(), unread=set())
    hashes.expected.clear()  # of an earlier step in this process
    try:
        yield
        assert not OPENED["unguarded"], f"written without a temporary name: {sorted(OPENED['unguarded'])}"
        assert number < 4 or not OPENED["unread"], f"read without being compared: {sorted(OPENED['unread'])}"
    finally:
        OPENED.update(before)


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
        name = () if {"--run", "--list"} & set(words) else ("--run", "r")
        return script(number, *first, *name, *words)

    def script(number: int, *words: str) -> int:
        path = str(next(ROOT.glob(f"step{number}_*.py")))
        with watched(tmp_path, number), monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
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


@pytest.fixture
def changed_since(monkeypatch):
    """changed_since(folder, pattern): these files are other ones than what their step recorded."""
    monkeypatch.setattr(hashes, "expected", {})

    def record(folder: Path, pattern: str) -> None:
        names = [file.relative_to(folder).as_posix() for file in folder.rglob(pattern)]
        assert names, f"{folder} holds no {pattern}"
        hashes.expect(folder, dict.fromkeys(names, "another"), "python step3_prepare.py --force")

    return record
