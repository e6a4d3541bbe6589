"""--sweep: one run per combination, resumable, one comparison; a second call does nothing."""

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lib.commands import cli, sweep
from lib.core.errors import Stop
from lib.core.run import SCRIPTS

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


def test_every_combination_once():
    assert sweep.combinations(["lora.rank=8,16", "train.lr=1e-4,2e-4"]) == [
        ["lora.rank=8", "train.lr=1e-4"],
        ["lora.rank=8", "train.lr=2e-4"],
        ["lora.rank=16", "train.lr=1e-4"],
        ["lora.rank=16", "train.lr=2e-4"],
    ]


def test_axis_without_values_is_refused():
    with pytest.raises(Stop, match="not key=v1,v2"):
        sweep.combinations(["lora.rank"])


def test_runs_are_named_by_what_differs():
    args = sweep.parse(["--sweep", "lora.rank=8", "--run", "r"])
    assert sweep.run_name(args, ["lora.rank=8", "train.lr=1e-4"]) == "r-rank8-lr1e-4"


@pytest.mark.parametrize(
    "axes, said",
    [
        (["lora.rank=8,8"], "names lora.rank=8 twice"),
        (["lora.rank=8", "lora.rank=16"], "names lora.rank twice"),
        (["lora.rank=8,"], "empty value"),
    ],
)
def test_doubles_and_gaps_in_a_sweep_are_refused(axes, said):
    with pytest.raises(Stop, match=said):
        sweep.combinations(axes)


def test_a_setting_is_varied_or_set_for_all_runs(monkeypatch, tmp_path):
    """The runs would be called after values that they do not have."""
    monkeypatch.setattr(sweep, "run_child", lambda command, clock: pytest.fail("a run was begun"))
    args = sweep.parse(["--sweep", "lora.rank=8,16", "--set", "train.epochs=1", "lora.rank=4", "--root", str(tmp_path)])
    with pytest.raises(Stop, match=r"--set lora\.rank=4 is for every run"):
        sweep.sweep(args, None)


def test_what_goes_on_with_a_sweep_can_be_typed_as_it_stands(monkeypatch, tmp_path, capsys):
    words = ["--sweep", "lora.rank=8,16", "--set", "data.root=/my photos", "--root", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["step4_train.py", *words])
    monkeypatch.setattr(sweep, "run_child", lambda command, clock: 75)
    assert sweep.sweep(sweep.parse(words), None) == 75
    _, _, command = capsys.readouterr().out.strip().partition("go on with: python step4_train.py ")
    assert shlex.split(command) == words


def test_lists_are_values_and_every_combination_is_a_run_of_its_own():
    args = sweep.parse(["--sweep", "x", "--run", "s"])
    found = sweep.combinations(["lora.alpha=8.5,16.5", "data.frames=[2,2],[2,8]"])
    assert [sweep.run_name(args, one) for one in found] == [
        "s-alpha8.5-frames2+2", "s-alpha8.5-frames2+8", "s-alpha16.5-frames2+2", "s-alpha16.5-frames2+8",
    ]  # fmt: skip
    with pytest.raises(Stop, match="would both be called s-rootx_y"):
        sweep.refuse_equal([sweep.run_name(args, [f"data.root={value}"]) for value in ("x/y", "x_y")])


def words_of(root: Path) -> list[str]:
    """Of step 4."""
    toy = str(ROOT / "tests" / "toy")
    return ["--recipe", toy, "--run", "r", "--root", str(root), "--set", "train.epochs=1", "--sweep", "lora.rank=1,2"]


def kill_in_the_second_run(root: Path) -> str:
    """What the sweep said until SIGKILL; the step that it had begun notices that nobody waits for it, and ends."""
    said, environment = "", os.environ | {"PIPELINE_SCALE": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / SCRIPTS[4]), *words_of(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as sweeping:
        assert sweeping.stdout
        for line in sweeping.stdout:
            said += line
            if "step 3 (prepare) of r-rank2" in line:
                sweeping.kill()
                break
        said += sweeping.stdout.read()  # ends with the last process that can write there
    return said


def test_a_killed_sweep_goes_on_gives_one_table_and_a_third_call_trains_nothing(step, tmp_path, monkeypatch, capsys):
    """The second and the third call run their steps in this process."""
    monkeypatch.setattr(sweep, "run_child", cli.run_child)
    outputs = [kill_in_the_second_run(tmp_path)]
    for _ in range(2):
        assert step(4, *words_of(tmp_path)) == 0
        outputs.append(capsys.readouterr().out)
    with open(tmp_path / "runs" / "comparison.csv", newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"r-rank1", "r-rank2"}
    assert [said.count("step 4 (train): done") for said in outputs] == [1, 1, 0]
    assert outputs[1].count("complete, nothing to do") in (7, 8) and outputs[2].count("complete, nothing to do") == 10


def test_values_that_are_no_settings_are_refused_before_anything_runs():
    for axis, words in (("lora.rank={8", "cannot be read"), ("data.root=${oc.env:HOME}", "holds")):
        with pytest.raises(Stop, match=words):
            sweep.combinations([axis])


def test_two_runs_of_one_name_end_the_sweep_before_the_first(monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "run_child", lambda command, clock: pytest.fail("a run was begun"))
    args = sweep.parse(["--sweep", "data.root=x/y,x_y", "--run", "s", "--root", str(tmp_path)])
    with pytest.raises(Stop, match="would both be called s-rootx_y"):
        sweep.sweep(args, None)
