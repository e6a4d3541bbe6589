"""The largest sample is tried before the first step, and the trial leaves no trace but the micro-batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.core.records import Sampler
from lib.core.run import Run, existing, read_json
from lib.training import memory, one_step
from tests.training.test_loop import equal_files, stop_at, whole  # noqa: F401


def probing(monkeypatch):
    """On a CPU nothing runs out of memory by itself, so it is left out there."""
    monkeypatch.setattr(memory, "probe", memory.shrink_until_it_fits)


def test_the_micro_batch_is_halved_before_the_first_step_and_kept_in_the_run(
    step, prepared, monkeypatch, folder, capsys
):
    probing(monkeypatch)
    prepared("train.epochs=1", "train.fault=memory-0")
    assert step(4) == 0
    said = capsys.readouterr().out
    assert (
        "the largest of 20 samples needs more than 90% of the memory; micro_batch is now 1, the global batch stays 4"
        in said
    )
    assert "step 1: out of memory" not in said
    assert read_json(folder / "run.json")["micro_batch"] == 1
    assert read_json(folder / "run.json")["changes"] == [
        {"step": 1, "what": "micro_batch is now 1, the global batch stays 4"}
    ]


def test_the_trial_runs_with_dropout_as_the_training_does(step, prepared, monkeypatch):
    """In evaluation mode, as a scoring leaves it, it would keep fewer activations: the first step runs short of it."""
    from lib.recipes.toy import recipe as toy

    modes, real, train_on = [], toy.squared_error, memory.train_on

    def watched(fault):
        loss = real(fault)

        def noted(parts, batch, number):
            modes.append({m.training for m in parts.modules["net"].modules() if isinstance(m, torch.nn.Dropout)})
            return loss(parts, batch, number)

        return noted

    def after_a_scoring(training, sample):
        for module in training.parts.modules.values():
            module.eval()
        train_on(training, sample)

    probing(monkeypatch)
    prepared("train.epochs=1", "lora.dropout=0.5")
    monkeypatch.setattr(memory, "train_on", after_a_scoring)
    monkeypatch.setattr(toy, "squared_error", watched)
    assert step(4) == 0
    assert modes[0] == {True}


def test_the_trial_changes_nothing_else(step, whole, monkeypatch, folder):  # noqa: F811
    wanted = whole("train.epochs=1", "train.second_loss=true")
    probing(monkeypatch)
    assert step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted


def test_a_resume_keeps_the_micro_batch_and_does_not_try_again(step, prepared, monkeypatch, folder, capsys):
    probing(monkeypatch)
    prepared("train.epochs=1", "train.fault=memory-0")
    stop_at(monkeypatch, 2)
    assert step(4) == 75
    capsys.readouterr()
    assert step(4) == 0
    assert "the largest of" not in capsys.readouterr().out
    assert read_json(folder / "run.json")["micro_batch"] == 1


def test_recomputed_activations_are_kept_in_the_run_too(tmp_path):
    """Else each session would run out of memory once more before it goes on."""
    run, net = Run(tmp_path, "r"), torch.nn.Linear(1, 1)
    train = SimpleNamespace(gradient_checkpointing=False)
    training = SimpleNamespace(
        micro_batch=1, gradient_checkpointing=False, step=7, config=SimpleNamespace(global_batch=4),
        accelerator=SimpleNamespace(num_processes=1), parts=SimpleNamespace(modules={"net": net}),
        job=SimpleNamespace(record={}, run=run, config=SimpleNamespace(train=train)),
    )  # fmt: skip
    memory.use_less(training, "step 8: out of memory")
    assert existing(run.record)["gradient_checkpointing"] is True and net.gradient_checkpointing


def test_where_nothing_is_left_to_lower_the_training_begins_and_gives_the_advice(step, prepared, monkeypatch, capsys):
    probing(monkeypatch)
    prepared("train.epochs=1", "train.fault=full-0")
    assert step(4) == 1
    captured = capsys.readouterr()
    assert "micro_batch is now 1" in captured.out and "activations are recomputed" in captured.out
    assert captured.err.splitlines()[0] == "error: out of memory with micro_batch 1 and recomputed activations"


def test_the_largest_sample_is_found_by_its_bytes():
    sizes = [3, 7, 5, 1]
    draw = lambda index, key: {"sample_id": str(index), "images": np.zeros(sizes[index]), "valid": torch.zeros(2)}  # noqa: E731
    training = SimpleNamespace(train=Sampler(4, draw), config=SimpleNamespace(seed=1))
    assert memory.largest_sample(training)["sample_id"] == "1"


def test_statistics_that_training_moves_are_put_back(monkeypatch):
    norm = torch.nn.BatchNorm1d(3)
    training = SimpleNamespace(parts=SimpleNamespace(modules={"critic": norm}), tensors=dict(norm.named_parameters()))
    monkeypatch.setattr(memory, "train_on", lambda training, sample: norm(torch.ones(4, 3)).sum().backward())
    assert memory.fits(training, {})
    assert (norm.running_mean == 0).all() and norm.num_batches_tracked == 0 and norm.weight.grad is None


def test_a_process_that_runs_out_of_memory_among_others_leaves_less_on_disk_and_ends(tmp_path, monkeypatch):
    run = Run(tmp_path, "r")
    training = SimpleNamespace(
        micro_batch=2, gradient_checkpointing=False, step=0, config=SimpleNamespace(global_batch=4),
        accelerator=SimpleNamespace(num_processes=1), job=SimpleNamespace(record={}, run=run),
    )  # fmt: skip

    def ended(code):
        raise SystemExit(code)

    monkeypatch.setattr(memory.os, "_exit", ended)
    with pytest.raises(SystemExit, match="1"):
        memory.begin_again(training, "step 1: out of memory")
    assert existing(run.record)["micro_batch"] == 1 and run.again.read_text() == "1"  # changes so far


def test_a_training_that_recomputes_for_want_of_memory_goes_on_and_is_scored(step, prepared, monkeypatch, capsys):
    """What it lowered is no other setting: the next session asked for a training from scratch, and step 5 too."""
    prepared("train.epochs=2", "train.micro_batch=1")
    real = one_step.accumulate

    def short_from_step_4_on(training, number, objective):
        if training.step >= 3 and not training.gradient_checkpointing:
            raise torch.OutOfMemoryError("injected")
        return real(training, number, objective)

    monkeypatch.setattr(one_step, "accumulate", short_from_step_4_on)
    stop_at(monkeypatch, 6)
    assert step(4) == 75 and "step 4: out of memory; activations are recomputed" in capsys.readouterr().out
    assert step(4) == 0 and "out of memory" not in capsys.readouterr().out
    assert step(4) == step(5) == 0 and "step 4 (train): complete" in capsys.readouterr().out
