"""--plan says what would run, why, and what it costs; nothing runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib import recipes
from lib.core.run import existing, write_record
from tests.conftest import TOY


def planned(step, capsys, *words):
    capsys.readouterr()
    assert step(4, "--plan", *words) == 0
    return capsys.readouterr().out


def test_plan_shows_states_parameters_and_memory(step, prepared, capsys, folder):
    prepared()
    text = planned(step, capsys)
    assert "run r: recipe toy, preset small" in text
    assert "1 setup     complete" in text and "3 prepare   complete" in text and "4 train     absent" in text
    assert "parameters 81, trainable 50 (61.728 %)" in text  # 8 * 9 + 9; rank 2: 2 * (8 + 8) + 2 * (8 + 1)
    assert "estimated peak memory" in text
    assert not (folder / "train").exists()


def test_plan_is_also_json(step, prepared, capsys):
    prepared()
    found = json.loads(planned(step, capsys, "--json", "lora.rank=4"))
    assert found["plan"]["trainable"] == 100 and found["states"]["4"]["state"] == "absent" and found["run"] == "r"


def test_a_paused_step_shows_its_progress(step, prepared, capsys, folder):
    prepared("train.epochs=1", last=5)
    stamp = existing(folder / "4_train.json")
    write_record(
        folder / "4_train.json", stamp | {"state": "paused", "progress": {"done": 3, "total": 5, "unit": "steps"}}
    )
    text = planned(step, capsys)
    assert "4 train     paused at 3 of 5 steps" in text and "5 evaluate  stale: step 4 is paused" in text


def test_what_follows_a_stale_step_is_stale(step, prepared, capsys, tmp_path):
    prepared("train.epochs=1", last=5)
    shutil.rmtree(tmp_path / "cache")
    text = planned(step, capsys)
    assert "4 train     stale: step 3 is stale" in text and "5 evaluate  stale: step 3 is stale" in text


def listing(root):
    """Everything below a root with its time and content: a file that came and went changed its folder's time."""
    found = [root, *root.rglob("*")]
    return {path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in found}


def scripts():
    return sorted(Path(__file__).resolve().parents[2].glob("step?_*.py"))


@pytest.mark.parametrize("last", [0, 3, 5])
def test_plan_of_every_step_leaves_the_root_byte_for_byte(
    step, prepared, capsys, tmp_path, tmp_path_factory, monkeypatch, last
):
    """Without a run, in the middle and at the end; with what a look would mend: damaged memos and a stamp of a step."""
    prepared("train.epochs=1", last=last) if last else None
    for name in ("places.json", "cache/hashes.json") if last else ():
        (tmp_path / name).write_text("{")
    (tmp_path / "runs" / "r" / "3_prepare.json").write_text("{") if last == 5 else None
    monkeypatch.setattr(recipes, "find", lambda root, name: recipes.load(str(TOY)))  # places.json says where, else
    inputs = shutil.copytree(tmp_path, tmp_path_factory.mktemp("input"), dirs_exist_ok=True)
    before, beside = listing(tmp_path), listing(inputs)
    recipe = () if last else ("--recipe", str(TOY))
    for number in range(1, 6):
        for words in (["--plan"], ["--plan", "--json"], ["--plan", "--inputs", str(inputs)]):
            capsys.readouterr()
            assert step(number, *words, *recipe) == 0
            said = capsys.readouterr()
            assert listing(tmp_path) == before and listing(inputs) == beside, (number, words)
            assert "--json" not in words or json.loads(said.out)["run"] == "r"


def can_mount() -> bool:
    return shutil.which("unshare") is not None and not subprocess.run(["unshare", "-m", "true"], check=False).returncode


@pytest.mark.skipif(not can_mount(), reason="a mount of its own needs the right to make one")
def test_plan_of_every_step_works_on_a_root_that_is_read_only(prepared, tmp_path):
    prepared("train.epochs=1", last=5)
    (tmp_path / "cache" / "hashes.json").write_text("{")
    mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path} && ! touch {tmp_path}/x && "
    run = ["--plan", "--json", "--run", "r", "--root", str(tmp_path), "--recipe", str(TOY)]
    calls = " && ".join(f"{sys.executable} {script} {' '.join(run)} >/dev/null" for script in scripts())
    done = subprocess.run(["unshare", "-m", "sh", "-c", mount + calls], capture_output=True, text=True, check=False,
                          env=os.environ | {"PIPELINE_SCALE": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_plan_writes_nothing_where_an_earlier_session_would_be_continued(step, prepared, capsys, tmp_path):
    """The run lies below --inputs, and here what a lost run.json left: a checkpoint and a person's notes."""
    prepared()
    (tmp_path / "input").mkdir()
    (tmp_path / "runs").rename(tmp_path / "input" / "runs")
    (tmp_path / "runs" / "r" / "train" / "main" / "step-000009").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "notes.md").write_text("mine")
    before = listing(tmp_path)
    text = planned(step, capsys, "--inputs", str(tmp_path / "input"))
    assert "continuing the run r from" in text and "3 prepare" in text
    json.loads(planned(step, capsys, "--json", "--inputs", str(tmp_path / "input")))
    assert listing(tmp_path) == before
    assert step(4, "--inputs", str(tmp_path / "input")) == 2
    assert "has no run.json but holds notes.md, train" in capsys.readouterr().err and listing(tmp_path) == before
