"""Whole files that lie where they do not belong (of another run, step, column or folder) are not taken for what they
replace: each of them has its right hash.
"""

import os
import shutil
from pathlib import Path

import pytest

from lib.commands import compare, verify
from lib.core.errors import Stop
from lib.core.run import Run, read_json, read_log
from lib.network import layers
from lib.network.units import Units
from tests.evaluation.test_evaluate import stop_after
from tests.training.test_loop import stop_at

pytestmark = pytest.mark.long
SETTINGS = ("train.epochs=2", "train.checkpoint_steps=2", "train.keep_checkpoints=9")


@pytest.fixture
def other(prepared, tmp_path, folder) -> Path:
    """The root of a run of the same data with another rate; a run with SETTINGS is made beside it."""
    prepared(*SETTINGS, "train.lr=1e-3", "data.scale=2.0", last=5)
    shutil.move(tmp_path / "runs", tmp_path / "other" / "runs")
    shutil.move(tmp_path / "cache", tmp_path / "other" / "cache")
    prepared(*SETTINGS, last=5)
    return tmp_path / "other"


@pytest.fixture
def stage(folder):
    return folder / "train" / "adapt"


def replace(target: Path, source: Path) -> None:
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)


def test_a_checkpoint_of_another_training_is_neither_scored_nor_gone_on_from_nor_removed(
    step, other, folder, stage, capsys
):
    [best] = [f"step-{read_json(stage / 'best.json')['step']:06d}"]
    scores = (folder / "eval" / "scores.json").read_bytes()
    replace(stage / best, other / "runs" / "r" / "train" / "adapt" / best)
    assert step(5) == 1
    assert f"{stage / best} does not belong there: it comes from another training" in capsys.readouterr().err
    assert (folder / "eval" / "scores.json").read_bytes() == scores
    assert verify.main(["--verify", str(folder)]) == 1
    assert f"train/adapt/{best}: it comes from another training" in capsys.readouterr().out
    newest = max(stage.glob("step-*"))
    replace(newest, other / "runs" / "r" / "train" / "adapt" / newest.name)
    assert step(4, "train.epochs=3") == 1
    assert f"{newest} does not belong there" in capsys.readouterr().err and newest.exists()


def test_a_checkpoint_under_the_name_of_another_step_is_refused(step, other, stage, capsys):
    best = stage / f"step-{read_json(stage / 'best.json')['step']:06d}"
    another = next(folder for folder in sorted(stage.glob("step-*")) if folder != best)
    replace(best, another)
    assert step(5, "--force") == 1
    assert f"it is that of step {int(another.name[5:])} of the stage adapt" in capsys.readouterr().err


def test_the_best_step_of_another_training_is_not_the_best_of_this_one(step, other, folder, stage, capsys):
    replace(stage / "best.json", other / "runs" / "r" / "train" / "adapt" / "best.json")
    assert step(5, "--force") == 1
    assert "best.json does not belong there" in capsys.readouterr().err
    assert verify.main(["--verify", str(folder)]) == 1
    assert step(5, "--force", "--checkpoint", "last") == 0


def test_the_end_of_another_training_does_not_end_this_one(step, prepared, stage, monkeypatch, tmp_path):
    prepared(*SETTINGS, "train.lr=1e-3", last=4)
    done = tmp_path / "done.json"
    shutil.move(stage / "done.json", done)
    shutil.rmtree(tmp_path / "runs")
    prepared(*SETTINGS)
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        assert step(4) == 75
    shutil.copyfile(done, stage / "done.json")
    assert step(4) == 0
    assert {record["step"] for record in read_log(stage / "log.jsonl")} >= set(range(1, 11))


def test_the_prepared_arrays_of_another_run_are_refused_and_made_again(step, other, tmp_path, folder, capsys):
    [mine], [others] = ((root / "cache").glob("prepared-*") for root in (tmp_path, other))
    scores = (folder / "eval" / "scores.json").read_bytes()
    replace(mine, others)
    assert step(5, "--force") == 1
    assert f"{mine} does not hold what was written, but a copy of {others.name}" in capsys.readouterr().err
    assert step(3, "--force") == 0 and step(5, "--force") == 0
    assert (folder / "eval" / "scores.json").read_bytes() == scores


def test_kept_units_of_another_folder_are_not_kept_here(tmp_path):
    import torch

    for number in (1, 2):
        Units(tmp_path / f"frozen-features-{number}", 1e9).put("a", torch.full((3,), float(number)))
    for name in ("0.units", "0.jsonl"):
        replace(tmp_path / "frozen-features-1" / name, tmp_path / "frozen-features-2" / name)
    assert Units(tmp_path / "frozen-features-1", 1e9).get("a") is None
    assert Units(tmp_path / "frozen-features-2", 1e9).get("a").tolist() == [2, 2, 2]


def test_rows_of_one_network_do_not_serve_the_other(step, other, folder, monkeypatch):
    scores = (folder / "eval" / "scores.json").read_bytes()
    with monkeypatch.context() as patched:
        stop_after(patched, 35)  # the base is scored, and most of the adapted model
        assert step(5, "--force") == 75
    [rows] = (folder / "eval" / "partial").iterdir()
    os.replace(rows / "base.jsonl", rows / "adapted.jsonl")
    assert step(5) == 0
    assert (folder / "eval" / "scores.json").read_bytes() == scores


@pytest.mark.parametrize("name", ["eval/scores.json", "eval/per_sample.csv"])
@pytest.mark.parametrize("change", ["other", "gone"])
def test_scores_of_another_run_are_not_compared_as_those_of_this_one(other, tmp_path, folder, name, change):
    replace(folder / name, other / "runs" / "r" / name)
    if change == "gone":
        (folder / name).unlink()
    with pytest.raises(Stop, match=rf"{name} is not what the step wrote|{name} is missing|has no scores"):
        compare.facts(Run(tmp_path, "r"))


def test_the_table_for_people_changes_no_number(other, tmp_path, stage):
    trained = compare.trainable(Run(tmp_path, "r"))
    table = stage / "layers.csv"
    table.write_text(table.read_text().replace(",32,", ",96,"))
    assert layers.read(stage) and compare.trainable(Run(tmp_path, "r")) == trained
    table.unlink()
    assert compare.trainable(Run(tmp_path, "r")) == trained


@pytest.mark.parametrize("log", ["log.jsonl", "timing.jsonl"])
def test_a_line_that_is_there_twice_is_noticed(other, folder, stage, capsys, log):
    assert verify.main(["--verify", str(folder)]) == 0
    with (stage / log).open("a") as file:
        file.write((stage / log).read_text().splitlines(keepends=True)[0])
    assert verify.main(["--verify", str(folder)]) == 1
    assert f"train/adapt/{log}: " in capsys.readouterr().out
