"""The loop: a run that was interrupted is the same run, it learns, and its stages follow one another."""

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lib.core.errors import Stop
from lib.core.run import existing, read_json, read_log
from lib.network import audit, checkpoint, gradients
from lib.recipes.toy import recipe
from lib.training import loop, stages
from tests.equal import equal_files

pytestmark = pytest.mark.long


def log(folder, stage="adapt"):
    return {
        record["step"]: record for record in read_log(folder / "train" / stage / "log.jsonl") if "eval" not in record
    }


@pytest.fixture
def whole(prepared, tmp_path, folder):
    """The same run, never interrupted: whole(words) -> its files that must be equal; leaves a prepared run here."""

    def make(*words):
        prepared(*words, last=5)
        files = equal_files(folder)
        for path in sorted(tmp_path.iterdir()):
            path.rename(tmp_path.parent / f"{tmp_path.name}-{path.name}-whole")
        prepared(*words)
        return files

    return make


def stop_at(monkeypatch, *steps_to_stop):
    """SIGTERM as it comes from a session that ends, in the middle of the given optimiser steps."""
    real = loop.optimiser_step
    waiting = list(steps_to_stop)

    def optimiser_step(stages):
        if stages.step + 1 in waiting:
            waiting.remove(stages.step + 1)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(stages)

    monkeypatch.setattr(loop, "optimiser_step", optimiser_step)


@pytest.mark.parametrize(
    "words", [(), ("train.ema=0.9", "lora.full=['net\\.2\\.bias']"), ("train.second_loss=true", "train.micro_batch=1")]
)
def test_paused_and_resumed_is_bit_equal(step, whole, monkeypatch, folder, capsys, words):
    wanted = whole("train.epochs=2", *words)
    stop_at(monkeypatch, 2, 5, 9)
    for at in (2, 5, 9):
        assert step(4) == 75
        assert (
            f"paused at {at} of 10 steps of stage adapt: SIGTERM. Go on with: python step4_train.py --run r"
            in capsys.readouterr().out
        )
        assert read_json(folder / "4_train.json")["progress"]["done"] == at
    assert step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted and len(wanted) >= 6


def test_a_run_with_a_fused_optimiser_goes_on_bit_equal(step, whole, folder, monkeypatch):
    monkeypatch.setattr(gradients, "FUSED", ("cpu",))
    wanted = whole(
        "train.epochs=1", "train.lr=0.004"
    )  # `prepared` keeps runs by their words: no other test takes these
    stop_at(monkeypatch, 3)
    assert step(4) == 75 and step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted


def test_a_checkpoint_holds_its_own_step_although_the_training_goes_on(step, whole, monkeypatch, folder):
    often = ("train.epochs=1", "train.checkpoint_steps=1", "train.keep_checkpoints=9", "train.ema=0.9")
    wanted, real, ahead = whole(*often), checkpoint.write, []
    taken, stages_seen = loop.optimiser_step, []

    def seen(stage):
        stages_seen[:] = [stage]
        return taken(stage)

    def late(place, number, *rest):
        until = time.monotonic() + 0.3
        while time.monotonic() < until and not ahead:
            ahead.extend([True] if stages_seen[0].step > number else [])
        return real(place, number, *rest)

    monkeypatch.setattr(loop, "optimiser_step", seen)
    monkeypatch.setattr(checkpoint, "write", late)
    assert step(4) == 0 and ahead
    monkeypatch.setattr(checkpoint, "write", real)
    assert step(5) == 0 and equal_files(folder) == wanted
    assert len(list((folder / "train" / "adapt").glob("step-*"))) == 5


def test_a_checkpoint_that_cannot_be_written_stops_the_training(step, prepared, folder, monkeypatch, capsys):
    prepared("train.epochs=1", "train.checkpoint_steps=2", "train.evaluate_epochs=0")
    real = checkpoint.write

    def full(place, number, *rest):
        if number == 4:
            raise checkpoint.DiskFull(1)
        return real(place, number, *rest)

    monkeypatch.setattr(checkpoint, "write", full)
    assert step(4) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert [one.name for one in (folder / "train" / "adapt").glob("step-*")] == ["step-000002"]


def test_a_pause_saves_no_objective_the_check_of_its_first_backward(step, prepared, monkeypatch):
    """The second one is due in every second step from step 1 on, so for the first time after the pause."""
    prepared("train.epochs=1", "train.second_loss=true")
    of_recipe, checked = recipe.objectives, []

    def objectives(config, stage):
        first, second = of_recipe(config, stage)
        return [first, replace(second, from_step=1)]

    monkeypatch.setattr(recipe, "objectives", objectives)
    monkeypatch.setattr(audit, "after_backward", lambda objective, *others: checked.append(objective.name))
    stop_at(monkeypatch, 2)
    assert step(4) == 75 and step(4) == 0
    assert checked == ["fit", "back"]


def test_killed_before_the_first_checkpoint_the_log_starts_again(step, whole, monkeypatch, folder):
    wanted = whole("train.epochs=1")
    real = loop.optimiser_step

    def killed_in_step_4(stages):
        if stages.step == 3:
            raise KeyboardInterrupt
        return real(stages)

    monkeypatch.setattr(loop, "optimiser_step", killed_in_step_4)
    with pytest.raises(KeyboardInterrupt):
        step(4)
    assert len(read_log(folder / "train" / "adapt" / "log.jsonl")) == 4  # the evaluation of the base and three steps
    monkeypatch.setattr(loop, "optimiser_step", real)
    assert step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted


def test_a_time_limit_pauses_after_at_least_one_step(step, prepared, monkeypatch, folder, capsys):
    prepared("train.epochs=1", "session.reserve_seconds=5")
    monkeypatch.setenv("PIPELINE_SESSION_START", "0")  # the session is long over
    for at in range(1, 5):
        assert step(4, "--time-limit", "6s") == 75
        assert f"paused at {at} of 5 steps of stage adapt: the session's time is over" in capsys.readouterr().out
    assert step(4, "--time-limit", "6s") == 0


def test_training_learns_and_the_report_says_better(step, prepared, folder):
    prepared("train.epochs=8", last=5)
    scores = read_json(folder / "eval" / "scores.json")
    error = scores["metrics"]["error"]
    assert (
        error["verdict"] == "better" and error["high"] < 0 and error["adapted"] < 0.7 * error["base"] < error["trivial"]
    )
    assert scores["resampled"] == "groups" and scores["n_samples"] == 20 and scores["n_groups"] == 5


def test_the_step_does_not_depend_on_the_micro_batch(step, prepared, tmp_path, folder):
    """Without dropout a step of two micro-batches of two is a step of one of four, up to float32 rounding."""
    losses = []
    for micro_batch in (1, 2, 4):
        prepared("train.epochs=1", "lora.dropout=0.0", f"train.micro_batch={micro_batch}")
        assert step(4, "--force") == 0
        losses.append([record["loss_objective"] for record in log(folder).values()])
    assert losses[0] == pytest.approx(losses[2], rel=1e-5) and losses[1] == pytest.approx(losses[2], rel=1e-5)


def test_a_step_is_adamw_on_the_mean_gradient(step, prepared, folder):
    """The first step written out: B starts at 0, its gradient is clipped to norm 1 and AdamW moves every number by lr *
    sign.
    """
    prepared("train.epochs=1", "lora.dropout=0.0", "train.checkpoint_steps=1", "train.keep_checkpoints=9")
    assert step(4) == 0
    first = load_file(folder / "train" / "adapt" / "step-000001" / "adapter" / "adapter_model.safetensors")
    rate = log(folder)[1]["lr_all"]
    moved = first["base_model.model.2.lora_B.weight"].abs()
    assert torch.allclose(moved, torch.full_like(moved, rate), rtol=1e-3)


def test_patience_ends_a_stage_early_and_it_stays_complete(step, prepared, folder, monkeypatch):
    prepared("train.epochs=4", "train.lr=0", "train.patience_evaluations=2")
    assert step(4) == 0
    done = existing(folder / "train" / "adapt" / "done.json")
    assert (done["steps"], done["trained_steps"]) == (20, 15)  # better than nothing at 5, then two that are not
    assert step(4) == 0 and max(log(folder)) == 15


def test_stages_hand_over_and_can_be_asked_for_one_by_one(step, prepared, folder, capsys):
    prepared("train.epochs=1", "train.stages=2")
    assert step(4, "--stages", "nonsense") == 2
    assert "there is no stage 'nonsense'; there are: adapt, again" in capsys.readouterr().err
    assert step(4, "--stages", "adapt") == 75
    assert "the stages again were not asked for" in capsys.readouterr().out
    assert step(5) == 2
    assert step(4) == 0
    assert "stage again starts from step-000005 of stage adapt" in capsys.readouterr().out
    last_of_first = [r for r in read_log(folder / "train" / "adapt" / "log.jsonl") if "eval" in r][-1]["eval"]
    first_of_second = next(r["eval"] for r in read_log(folder / "train" / "again" / "log.jsonl") if "eval" in r)
    assert first_of_second == last_of_first


def test_force_with_stages_trains_these_again_and_leaves_the_others(step, prepared, folder):
    prepared("train.epochs=1", "train.stages=2", last=5)
    first, second = (folder / "train" / name / "log.jsonl" for name in ("adapt", "again"))
    (folder / "train" / "adapt" / "mark").write_text("kept")
    (folder / "train" / "again" / "mark").write_text("removed")
    before = first.read_bytes(), second.read_bytes()
    assert step(4, "--force", "--stages", "again") == 0
    assert (first.read_bytes(), second.read_bytes()) == before
    assert (first.parent / "mark").exists() and not (second.parent / "mark").exists()


def test_a_checkpoint_starts_the_first_stage_that_is_asked_for(step, prepared, folder, tmp_path, capsys):
    prepared("train.epochs=1", "train.stages=2", last=5)
    source = shutil.copytree(folder / "train" / "again" / "step-000005", tmp_path / "step-000077")
    capsys.readouterr()
    assert step(4, "--force", "--stages", "again", "--checkpoint", str(source)) == 0
    assert "stage again starts from step-000077" in capsys.readouterr().out


def test_a_half_trained_stage_that_was_not_asked_for_is_not_complete(step, prepared, monkeypatch):
    prepared("train.epochs=1", "train.stages=2")
    stop_at(monkeypatch, 3)
    assert step(4) == 75
    assert step(4, "--stages", "adapt") == 75
    stop_at(monkeypatch, 2)
    assert step(4) == 75
    assert step(4, "--stages", "adapt") == 75


def test_a_new_run_starts_from_a_checkpoint_and_refuses_other_adapters(step, prepared, tmp_path, folder, capsys):
    prepared("train.epochs=1", last=5)
    source = str(folder / "train" / "adapt" / "step-000005")
    assert step(1, "--run", "s", "--recipe", "toy", "train.epochs=1", "lora.rank=3") == 0 and step(3, "--run", "s") == 0
    capsys.readouterr()
    assert step(4, "--run", "s", "--checkpoint", source) == 2
    assert "lora.rank: checkpoint 2, run 3" in capsys.readouterr().err
    assert step(4, "--run", "s", "--checkpoint", str(tmp_path)) == 2
    assert "is not a usable checkpoint: sha256.json is missing" in capsys.readouterr().err
    assert step(1, "--run", "s", "lora.rank=2") == 0 and step(4, "--run", "s", "--force", "--checkpoint", source) == 0
    log = read_log(tmp_path / "runs" / "s" / "train" / "adapt" / "log.jsonl")
    began = next(record["eval"] for record in log if "eval" in record)
    ended = [r for r in read_log(folder / "train" / "adapt" / "log.jsonl") if "eval" in r][-1]["eval"]
    assert began == ended


def test_a_stage_that_began_does_not_begin_from_another_checkpoint(
    step, prepared, monkeypatch, folder, tmp_path, capsys
):
    prepared("train.epochs=1", last=5)
    source, other = (str(folder / "train" / "adapt" / "step-000005"), str(tmp_path / "other"))
    shutil.copytree(source, other)
    assert step(4, "--run", "r", "train.epochs=2", "--checkpoint", other) == 2  # r is trained, and from its base
    assert "began without a checkpoint, so --checkpoint" in capsys.readouterr().err
    assert step(1, "--run", "s", "--recipe", "toy", "train.epochs=1") == 0
    with monkeypatch.context() as patched:  # before the first checkpoint, and without a word
        patched.setattr(stages, "run_stage", lambda training, resume: sys.exit(9))
        assert step(4, "--run", "s", "--checkpoint", source) == 9
    assert step(4, "--run", "s") == 2
    assert "was to begin from step-000005, and has no checkpoint yet" in capsys.readouterr().err
    stop_at(monkeypatch, 2)
    assert step(4, "--run", "s", "--checkpoint", other) == 75  # the same one, wherever it lies
    assert step(4, "--run", "s", "--checkpoint", source) == 0
    capsys.readouterr()
    assert step(4, "--run", "r", "--checkpoint", other) == 2  # complete, and from its base
    assert "began without a checkpoint, so --checkpoint" in capsys.readouterr().err
    assert step(4, "--run", "s", "--checkpoint", source) == 0  # complete, and from this one


def test_force_does_not_remove_what_it_is_to_begin_from(step, prepared, folder, tmp_path, capsys):
    prepared("train.epochs=1", last=5)
    source = folder / "train" / "adapt" / "step-000005"
    assert step(4, "--force", "--checkpoint", str(source)) == 2
    assert "--force removes the old training, and with it" in capsys.readouterr().err
    assert step(4, "--force", "--checkpoint", str(tmp_path / "nothing")) == 2
    assert "is not a usable checkpoint" in capsys.readouterr().err and source.exists()


def test_without_keep_best_the_last_checkpoint_is_scored(step, prepared, folder):
    prepared("train.epochs=2", "train.keep_best=0", "train.keep_checkpoints=1", "train.evaluate_epochs=0.4", last=5)
    assert not (folder / "train" / "adapt" / "best.json").exists()
    assert read_json(folder / "eval" / "scores.json")["step"] == 10


def test_the_global_batch_must_divide_over_the_processes():
    job = SimpleNamespace(record={"micro_batch": 2}, config=SimpleNamespace(train=SimpleNamespace(global_batch=4)))
    stages.refuse_uneven(job, 2)
    with pytest.raises(Stop, match=r"train\.global_batch=4 is not a multiple of train\.micro_batch=2 x 3 processes"):
        stages.refuse_uneven(job, 3)


def test_the_log_holds_no_times_and_timing_no_values(step, prepared, folder):
    prepared("train.epochs=1", last=5)
    assert set(log(folder)[1]) == {"step", "epoch", "loss_objective", "loss_square", "lr_all", "grad_norm_all"}
    assert set(read_log(folder / "train" / "adapt" / "timing.jsonl")[0]) == {
        "step",
        "seconds",
        "waited_seconds",
        "samples_per_second",
        "memory_bytes",
    }
    assert json.loads((folder / "4_train.json").read_text())["state"] == "complete"
