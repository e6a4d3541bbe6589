"""The loop: a run that was interrupted, ran out of memory or met bad numbers is the same run."""

import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lib.core.errors import Stop
from lib.core.run import existing, read_json, read_log
from lib.network import checkpoint, gradients, setup
from lib.training import loop, one_step, stages
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


def test_bad_numbers_are_skipped_named_counted_and_then_stop(step, prepared, folder, capsys):
    prepared("train.epochs=2", "train.fault=nan-7", "train.stop_after_bad_steps=3", "train.checkpoint_steps=5")
    assert step(4) == 1
    captured = capsys.readouterr()
    skipped = [line for line in captured.out.splitlines() if "batch skipped" in line]
    assert (
        len(skipped) == 3
        and skipped[0].startswith("step 8: fit is not finite, batch skipped: s")
        and skipped[0].count("s") >= 4
    )
    assert captured.err.splitlines()[0] == "error: 3 steps in a row were not finite; the last good checkpoint stands"
    assert "--detect-anomaly" in captured.err
    assert (folder / "train" / "adapt" / "step-000005").is_dir() and log(folder)[8]["skipped"] == 1.0
    assert read_json(folder / "4_train.json")["state"] == "paused"


def test_one_bad_step_moves_nothing_and_is_counted(step, prepared, folder, monkeypatch):
    prepared("train.epochs=1", "train.checkpoint_steps=1", "train.keep_checkpoints=9")
    real = one_step.accumulate

    def once_bad(stages, number, objective):
        totals, seen = real(stages, number, objective)
        if stages.step == 2:
            stages.sums[objective.name].flat[0] = float("inf")
        return totals, seen

    monkeypatch.setattr(one_step, "accumulate", once_bad)
    assert step(4) == 0
    before, after = (
        (folder / "train" / "adapt" / f"step-00000{n}" / "adapter" / "adapter_model.safetensors").read_bytes()
        for n in (2, 3)
    )
    assert before == after
    assert read_json(folder / "train" / "adapt" / "step-000005" / "state.json")["skipped"] == 1


def test_one_objective_that_is_always_bad_stops_although_the_other_is_good(step, prepared, capsys):
    prepared("train.epochs=2", "train.second_loss=true", "train.fault=nan-4", "train.stop_after_bad_steps=3")
    assert step(4) == 1
    assert "3 steps in a row were not finite" in capsys.readouterr().err


@pytest.fixture
def scaled(monkeypatch):
    """Training with a gradient scaler, as in fp16 on a GPU; scaled(step) says at which steps the gradients overflow."""
    real_open, real_accumulate = setup.open_accelerator, one_step.accumulate

    def opened(*arguments):
        accelerator = real_open(*arguments)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        return accelerator

    def put(overflows):
        def accumulate(stage, number, objective):
            totals, seen = real_accumulate(stage, number, objective)
            if overflows(stage.step):
                stage.sums[objective.name].flat[0] = float("inf")
            return totals, seen

        monkeypatch.setattr(setup, "open_accelerator", opened)
        monkeypatch.setattr(one_step, "accumulate", accumulate)

    return put


def test_an_overflow_of_the_scaled_gradients_is_no_fault_even_in_the_first_step(step, prepared, folder, scaled):
    prepared("train.epochs=1", "train.checkpoint_steps=1", "train.keep_checkpoints=9")
    scaled(lambda at: at == 0)
    assert step(4) == 0
    states = [read_json(folder / "train" / "adapt" / f"step-00000{n}" / "state.json") for n in (1, 2)]
    assert [state["scaler"]["scale"] for state in states] == [2.0**15, 2.0**15] and states[1]["skipped"] == 0
    assert log(folder)[2]["grad_norm_all"] < 100  # unscaled


def test_gradients_that_no_scale_makes_finite_stop(step, prepared, scaled, capsys):
    prepared("train.epochs=6", "train.stop_after_bad_steps=3", "train.evaluate_epochs=0")
    scaled(lambda at: at > 0)
    assert step(4) == 1  # 17 halvings from 2**16 to below 1, then three bad steps
    captured = capsys.readouterr()
    assert "3 steps in a row were not finite" in captured.err and "step 21: fit is not finite" in captured.out


def test_a_paused_run_with_a_scaler_goes_on_bit_equal(step, prepared, folder, scaled, monkeypatch, tmp_path):
    prepared("train.epochs=1")
    scaled(lambda at: at == 1)
    assert step(4) == 0
    wanted = {p.name: p.read_bytes() for p in (folder / "train" / "adapt" / "step-000005").rglob("*.safetensors")}
    stop_at(monkeypatch, 3)
    assert step(4, "--force") == 75 and step(4) == 0
    assert {
        p.name: p.read_bytes() for p in (folder / "train" / "adapt" / "step-000005").rglob("*.safetensors")
    } == wanted


@pytest.mark.parametrize("fault, said", [
    ("inf-7", "net.0 (Linear) is the first module whose output is not finite"),
    ("nan-7", "every module's output is finite, but the loss fit of s"),
])  # fmt: skip
def test_detect_anomaly_goes_back_and_names_the_module(step, prepared, capsys, fault, said):
    prepared("train.epochs=2", f"train.fault={fault}", "train.stop_after_bad_steps=2", "train.checkpoint_steps=5")
    assert step(4) == 1
    capsys.readouterr()
    assert step(4, "--detect-anomaly") == 1
    captured = capsys.readouterr()
    assert "going on from step-000005" in captured.out
    assert captured.err.splitlines()[0].startswith(f"error: {said}")


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_global_batch(step, prepared, folder, capsys):
    prepared("train.epochs=2", "train.fault=memory-5")
    assert step(4) == 0
    assert "step 6: out of memory; micro_batch is now 1, the global batch stays 4" in capsys.readouterr().out
    record = read_json(folder / "run.json")
    assert record["micro_batch"] == 1 and record["config"]["train.global_batch"] == 4
    assert record["changes"] == [{"step": 6, "what": "micro_batch is now 1, the global batch stays 4"}]
    assert len(log(folder)) == 10


def test_out_of_memory_at_micro_batch_1_recomputes_activations_then_advises(step, prepared, folder, capsys):
    prepared("train.epochs=2", "train.fault=full-5")
    assert step(4) == 1
    captured = capsys.readouterr()
    assert "micro_batch is now 1" in captured.out and "activations are recomputed" in captured.out
    assert captured.err.splitlines()[0] == "error: out of memory with micro_batch 1 and recomputed activations"
    assert "lower resolution or a lower lora.rank" in captured.err


def test_after_an_out_of_memory_a_resume_is_bit_equal(step, whole, monkeypatch, folder):
    wanted = whole("train.epochs=2", "train.fault=memory-5")
    stop_at(monkeypatch, 3, 8)
    assert step(4) == 75 and step(4) == 75 and step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted


def test_force_forgets_the_micro_batch_of_an_earlier_out_of_memory(step, prepared, folder):
    prepared("train.epochs=2", "train.fault=memory-5")
    assert step(4) == 0 and read_json(folder / "run.json")["micro_batch"] == 1
    assert step(1, "train.fault=") == 0 and step(4, "--force") == 0
    assert read_json(folder / "run.json")["micro_batch"] == 2


def test_patience_ends_a_stage_early_and_it_stays_complete(step, prepared, folder, monkeypatch):
    prepared("train.epochs=4", "train.lr=0", "train.patience_evaluations=2")
    assert step(4) == 0
    assert existing(folder / "train" / "adapt" / "done.json") == {
        "steps": 20,
        "trained_steps": 15,
    }  # better than nothing at 5, then two that are not
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
