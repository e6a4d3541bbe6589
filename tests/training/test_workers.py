"""Batches that threads make ahead of the step: the same run, the same sentences, and the first steps tell how many."""

import importlib
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from lib.core.errors import Stop
from lib.core.records import Sampler
from lib.core.run import read_json
from lib.training import workers
from tests.training.test_loop import equal_files, log, stop_at, whole  # noqa: F401

WORDS = ("train.epochs=2", "train.second_loss=true", "train.micro_batch=1")


@pytest.fixture
def drawing(monkeypatch):
    """drawing(change) lets change(side, sample) give every sample that the toy recipe draws."""
    toy = importlib.import_module("lib.recipes.toy.recipe")
    real = toy.sampler

    def put(change):
        def sampler(config, stage, manifest, side):
            chosen = real(config, stage, manifest, side)
            return Sampler(chosen.length, lambda index, key: change(side, chosen.draw(index, key)))

        monkeypatch.setattr(toy, "sampler", sampler)

    return put


@pytest.mark.parametrize("words", [("train.workers=1",), ("train.workers=4", "cache.policy=none")])
def test_threads_change_no_byte_whether_or_not_the_run_is_paused(
    step,
    whole,  # noqa: F811
    drawing,
    folder,
    monkeypatch,
    words,
):
    wanted = whole(*WORDS, "train.workers=0")
    threads = set()
    drawing(lambda side, sample: threads.add((side, threading.current_thread().name[:5])) or sample)
    stop_at(monkeypatch, 3, 8)
    assert step(1, *words) == 0
    assert step(4) == 75 and step(4) == 75 and step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted
    assert {("train", "ahead"), ("select", "ahead"), ("test", "ahead")} <= threads


def test_after_an_out_of_memory_the_batches_made_ahead_are_the_smaller_ones(step, whole, folder):  # noqa: F811
    wanted = whole("train.epochs=2", "train.fault=memory-5", "train.workers=0")
    assert step(1, "train.workers=4") == 0 and step(4) == 0 and step(5) == 0
    assert equal_files(folder) == wanted


def test_what_a_thread_cannot_draw_is_the_same_sentence_at_the_same_step(step, prepared, drawing, folder, capsys):
    prepared("train.epochs=2", "train.evaluate_epochs=0")
    said, seen = [], []

    def broken(side, sample):
        seen.append(side)
        if seen.count("train") == 1 + 20 + 3:  # one is drawn before the first step, 20 are an epoch
            raise Stop("the sample is gone", "bring it back")
        return sample

    drawing(broken)
    for count in (0, 1):
        seen.clear()
        assert step(1, f"train.workers={count}") == 0
        assert step(4, "--force") == 2
        said.append((capsys.readouterr().err, max(log(folder))))
    assert said[0] == said[1] == ("error: the sample is gone\n   go on with: bring it back\n", 5)


def test_a_sampler_that_shares_its_chance_with_others_is_refused(step, prepared, drawing, capsys):
    prepared("train.epochs=1")
    drawing(lambda side, sample: sample | {"x": sample["x"] + torch.rand(1)} if side == "train" else sample)
    assert step(4) == 1
    assert "draws samples with random numbers of its own accord" in capsys.readouterr().err


def test_the_first_steps_tell_whether_threads_help_and_the_run_keeps_it(step, prepared, drawing, folder, capsys):
    prepared("train.epochs=4", "train.evaluate_epochs=0", "train.fault=slow", "train.micro_batch=4")
    drawing(lambda side, sample: time.sleep(0.005) or sample)  # 20 ms a step, as long as the step itself takes
    assert step(4) == 0
    assert read_json(folder / "run.json")["workers"] >= 1
    assert "batches made ahead of the step took" in capsys.readouterr().out
    assert step(4, "--force") == 0
    assert "batches made ahead of the step took" not in capsys.readouterr().out


@pytest.mark.parametrize("with_threads, chosen", [(0.5, 3), (2.0, 0)])
def test_the_faster_number_stays(monkeypatch, tmp_path, with_threads, chosen):
    monkeypatch.setattr(workers, "spare_threads", lambda training: 3)
    used = []
    made = SimpleNamespace(
        config=SimpleNamespace(workers="auto"),
        job=SimpleNamespace(record={}, run=SimpleNamespace(record=tmp_path / "run.json")),
        batches=SimpleNamespace(use=used.append),
        accelerator=SimpleNamespace(num_processes=1),
    )
    trial = workers.Trial(made)
    for turn in (1.0, with_threads, 1.0, with_threads):
        for seconds in (9.0, turn, turn):
            trial.note(seconds)
    assert used == [3, 0, 3, chosen] and made.job.record == {"workers": chosen}
    assert workers.at_start(made) == chosen and not workers.Trial(made).open
