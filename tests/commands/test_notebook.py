"""A cell that runs a step streams it, keeps its output short, ends in peace on a pause and loudly on a fault."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib.commands import notebook
from lib.core.errors import Stop

CLONE = Path(__file__).parents[2]
NOTEBOOK = CLONE / "notebooks" / "pipeline.ipynb"
SCRIPTS = ("step1_setup.py", "step2_download.py", "step3_prepare.py", "step4_train.py", "step5_evaluate.py")


def fake_clone(folder: Path, **bodies: str) -> Path:
    """A clone whose step scripts only print, or do what `bodies` (step1=..., step2=...) say."""
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(NOTEBOOK, folder / "notebooks")
    shutil.copytree(CLONE / "lib", folder / "lib", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for script in SCRIPTS:
        (folder / script).write_text(
            "import os, sys, time\n"
            + bodies.get(script.partition("_")[0], f"print('{script} ran', *sys.argv[1:])")
            + "\n"
        )
    return folder


def follow(code: str, folder: Path) -> tuple[int, list[str]]:
    return notebook.follow([sys.executable, "-c", code], folder)


def test_lines_of_the_child_appear_in_order_from_both_streams(tmp_path, capfd):
    code, last = follow(
        "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); print('three')", tmp_path
    )
    assert code == 0
    assert capfd.readouterr().out.split() == ["one", "two", "three"] == last


def test_what_ends_in_a_carriage_return_is_replaced_by_what_follows():
    stream = io.BufferedReader(io.BytesIO("a\rb\rgrün\nlast".encode()))
    assert list(notebook.pieces(stream)) == [("a", False), ("b", False), ("grün", True), ("last", True)]


def test_a_character_cut_between_two_reads_is_put_together():
    reads = iter([b"gr\xc3", b"\xbcn\n", b""])

    class Slow:
        def read1(self, size):
            return next(reads)

    assert list(notebook.pieces(Slow())) == [("grün", True)]


def test_a_flood_of_lines_keeps_its_beginning_and_its_end(tmp_path, capfd):
    follow("for i in range(5000): print('line', i)", tmp_path)
    lines = capfd.readouterr().out.splitlines()
    assert "line 0" in lines and "line 999" in lines and "line 4999" in lines
    assert len(lines) < 1100


def test_a_fault_is_raised_with_the_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(
        notebook,
        "REPOSITORY",
        fake_clone(tmp_path / "clone", step2="print('error: the file x is missing'); sys.exit(2)"),
    )
    with pytest.raises(
        notebook.StepFailed, match=r"step2_download\.py ended with exit code 2: error: the file x is missing"
    ):
        notebook.step(2, demo=True)


GIVEN = {"recipe": "hamer", "preset": "rank8", "demo": True, "run": "", "overrides": "", "time_limit": "", "root": ""}


@pytest.mark.parametrize("word, meant", [(False, False), ("false", False), ("No", False), ("true", True), (1, True)])
def test_false_in_any_spelling_does_not_run_the_demo(word, meant):
    assert notebook.parameters(GIVEN | {"demo": word}, [])["demo"] is meant


def test_a_number_for_a_name_is_read_as_text_and_said(capsys):
    found = notebook.parameters(GIVEN | {"run": 7, "time_limit": None}, [])
    assert found["run"] == "7" and found["time_limit"] == "" and "-r run" in capsys.readouterr().out


@pytest.mark.parametrize("name, value", [("demo", "perhaps"), ("run", True), ("overrides", ["lora.rank=8"])])
def test_a_parameter_of_an_impossible_type_is_refused(name, value):
    with pytest.raises(Stop, match=f"the parameter {name} is"):
        notebook.parameters(GIVEN | {name: value}, [])


def test_a_parameter_that_does_not_exist_is_refused_before_anything_runs(tmp_path):
    clone = fake_clone(tmp_path / "clone")
    code, cells = papermill(clone, clone, "-p", "presett", "rank8")
    errors = [output.evalue for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert code == 1 and "no parameter 'presett': did you mean 'preset'?" in errors[0]
    assert "ran" not in text_of(cells)


def test_papermill_knows_every_parameter_and_its_type():
    from papermill.inspection import inspect_notebook

    known = inspect_notebook(str(NOTEBOOK))
    assert tuple(known) == notebook.KNOWN and all(one["help"] for one in known.values())
    assert {name: one["inferred_type_name"] for name, one in known.items()} == {
        name: "bool" if name == "demo" else "str" for name in notebook.KNOWN
    }


def test_the_link_to_the_report_counts_from_where_the_notebook_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(notebook.OUTPUT_PATH, raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert notebook.notebook_folder() == tmp_path / "notebooks"  # papermill from the clone
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "mine" / "a.ipynb"))
    assert notebook.notebook_folder() == tmp_path / "mine"
    notebook.parameters(GIVEN | {notebook.OUTPUT_PATH: "out/done.ipynb"}, ["# Parameters\nPAPERMILL_OUTPUT_PATH = 1"])
    assert notebook.notebook_folder() == tmp_path / "out"


def test_a_step_killed_by_a_signal_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "REPOSITORY", fake_clone(tmp_path / "clone", step4="os.kill(os.getpid(), 9)"))
    with pytest.raises(notebook.StepFailed, match="exit code -9"):
        notebook.step(4, demo=True)


def test_a_pause_ends_the_notebook_with_zero_and_names_the_command(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(notebook, "REPOSITORY", fake_clone(tmp_path / "clone", step4="sys.exit(75)"))
    with pytest.raises(SystemExit) as ending:
        notebook.step(4, run="mine")
    assert ending.value.code == 0
    assert "python step4_train.py --run mine" in capfd.readouterr().out


def test_parameters_become_the_flags_of_the_command_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        notebook, "REPOSITORY", fake_clone(tmp_path / "clone", step1="print(sys.argv[1:], os.getcwd())")
    )
    root = tmp_path / "elsewhere"
    notebook.step(1, "vggt_eth3d", "strategy_a", True, "mine", "lora.rank=8 'data.scenes=[a, b]'", "90s", str(root))
    words = [
        "--recipe",
        "vggt_eth3d",
        "--preset",
        "strategy_a",
        "--run",
        "mine",
        "--time-limit",
        "90s",
        "--demo",
        "lora.rank=8",
        "data.scenes=[a, b]",
    ]
    assert f"{words} {root}" in capfd.readouterr().out


def test_an_interrupt_reaches_the_child_and_the_cell_waits_for_it(tmp_path):
    child = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (print('saved'), sys.exit(75)))\n"
        "pathlib.Path('ready').touch()\ntime.sleep(60)"
    )

    def interrupt_when_ready():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background
    threading.Thread(target=interrupt_when_ready, daemon=True).start()
    assert follow(child, tmp_path) == (75, ["saved"])
    assert signal.getsignal(signal.SIGINT) == before


def test_the_child_is_told_who_its_parent_is(tmp_path, capfd):
    follow(
        "import os; print(os.environ['PIPELINE_PARENT'] == str(os.getppid()), os.getpgid(0) == os.getpid())", tmp_path
    )
    assert capfd.readouterr().out.split() == ["True", "True"]


def test_the_clock_is_set_once(monkeypatch):
    monkeypatch.setenv("PIPELINE_SESSION_START", "12.5")
    notebook.start_clock()
    assert os.environ["PIPELINE_SESSION_START"] == "12.5"
    monkeypatch.delenv("PIPELINE_SESSION_START")
    notebook.start_clock()
    assert abs(float(os.environ["PIPELINE_SESSION_START"]) - time.monotonic()) < 60


def test_the_kernel_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'matplotlib', 'omegaconf', 'jinja2', 'IPython'}"
    subprocess.run(
        [sys.executable, "-c", f"import sys; from lib.commands import notebook; assert not {heavy} & set(sys.modules)"],
        cwd=CLONE,
        check=True,
    )


def papermill(clone: Path, cwd: Path, *words: str) -> tuple[int, list]:
    """The executed cells of the clone's notebook, and papermill's exit code."""
    import nbformat

    out = clone / "executed.ipynb"
    command = [
        sys.executable,
        "-m",
        "papermill",
        "-k",
        "python3",
        "--no-progress-bar",
        str(clone / "notebooks" / "pipeline.ipynb"),
        str(out),
    ]
    code = subprocess.run(
        [*command, "-p", "run", "mine", *words], cwd=cwd, capture_output=True, text=True, check=False
    ).returncode
    return code, [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]


def text_of(cells: list) -> str:
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in cells
        for output in cell.outputs
    )


def test_papermill_ends_with_zero_on_a_pause_and_runs_no_later_cell(tmp_path):
    progress = (
        "for i in range(3000):\n    print(f'step {i}', end='\\r', flush=True); time.sleep(0.001)\nprint(); sys.exit(75)"
    )
    clone = fake_clone(tmp_path / "clone", step4=progress)
    code, cells = papermill(clone, cwd=clone)
    said = text_of(cells)
    assert code == 0
    assert "step3_prepare.py ran --recipe vggt_eth3d --run mine --demo" in said
    assert "step 2999" in said and "Paused" in said and "step5_evaluate.py ran" not in said
    train = next(cell for cell in cells if "step(4" in cell.source)
    assert len(train.outputs) < 10  # 3 000 progress lines


def test_papermill_fails_on_a_fault_from_the_notebooks_own_folder(tmp_path):
    clone = fake_clone(tmp_path / "clone", step2="print('error: no such file'); sys.exit(2)")
    code, cells = papermill(clone, cwd=clone / "notebooks")
    assert code == 1
    assert "step1_setup.py ran" in text_of(cells) and "step3_prepare.py ran" not in text_of(cells)


def test_the_committed_notebook_has_no_outputs_and_names_its_parameters():
    import nbformat

    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")
    parameters = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    for name in ("recipe", "preset", "demo", "run", "overrides", "time_limit", "root"):
        assert f"{name}: " in parameters.source
    assert 'preset: str = ""' in parameters.source  # `-p recipe hamer` alone is enough
