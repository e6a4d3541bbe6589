"""Bad numbers and too little memory: the run goes on where it can, says what it did, and is the same run."""

import pytest
import torch
from safetensors.torch import load_file

from lib.core.run import read_json
from lib.network import setup
from lib.network.batches import Batches
from lib.training import one_step
from tests.training.test_loop import equal_files, log, stop_at, whole  # noqa: F401

EVERY_STEP = ("train.checkpoint_steps=1", "train.keep_checkpoints=9")


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
    prepared("train.epochs=1", *EVERY_STEP)
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


def test_a_bad_batch_moves_no_running_statistic(step, prepared, folder, monkeypatch):
    prepared("train.epochs=1", "train.running=true", "train.evaluate_epochs=0", *EVERY_STEP)
    real = Batches.take

    def once_bad(batches, keys):
        batch, names = real(batches, keys)
        taken.append(keys)
        return (batch | {"x": batch["x"] / 0} if len(taken) == 7 else batch), names  # of step 3, after two of the base

    taken = []
    monkeypatch.setattr(Batches, "take", once_bad)
    assert step(4) == 0
    files = [folder / "train" / "adapt" / f"step-00000{n}" / "weights.safetensors" for n in (2, 3, 5)]
    before, after, last = (load_file(file) for file in files)
    assert torch.equal(before["seen.mean"], after["seen.mean"]) and before["seen.count"] == after["seen.count"] == 2
    assert last["seen.mean"].isfinite().all() and last["seen.count"] == 4


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


def test_running_statistics_forget_a_micro_batch_that_ran_out_of_memory(step, prepared, folder):
    def trained(fault):
        prepared("train.epochs=1", "train.running=true", f"train.fault={fault}", "train.evaluate_epochs=0")
        assert step(4, "--force") == 0
        return load_file(max((folder / "train/adapt").glob("step-*")) / "weights.safetensors")

    torch.testing.assert_close(trained("memory-2"), trained(""))


def test_out_of_memory_at_micro_batch_1_recomputes_activations_then_advises(step, prepared, folder, capsys):
    prepared("train.epochs=2", "train.fault=full-5")
    assert step(4) == 1
    captured = capsys.readouterr()
    assert "micro_batch is now 1" in captured.out and "activations are recomputed" in captured.out
    assert captured.err.splitlines()[0] == "error: out of memory with micro_batch 1 and recomputed activations"
    assert "lower resolution or a lower lora.rank" in captured.err


def test_after_an_out_of_memory_a_resume_is_bit_equal(step, whole, monkeypatch, folder):  # noqa: F811
    wanted = whole("train.epochs=2", "train.fault=memory-5")
    stop_at(monkeypatch, 3, 8)
    assert step(4) == 75 and step(4) == 75 and step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted


def test_force_forgets_the_micro_batch_of_an_earlier_out_of_memory(step, prepared, folder):
    prepared("train.epochs=2", "train.fault=memory-5")
    assert step(4) == 0 and read_json(folder / "run.json")["micro_batch"] == 1
    assert step(1, "train.fault=") == 0 and step(4, "--force") == 0
    assert read_json(folder / "run.json")["micro_batch"] == 2
