"""--plan says what would run, why, and what it costs; nothing runs."""

import json
import shutil

from lib.core.run import existing, write_record


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
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in root.rglob("*")}


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
