"""train.compile: the same training in compiled blocks, or one sentence and the same training as without it."""

import pytest
import torch
from torch import nn

from lib.core.records import FrozenFeatures, Parts
from lib.core.run import read_log
from lib.training import compiling

WORDS = ("train.epochs=1", "lora.dropout=0.5")


def losses(folder):
    return [one["loss_objective"] for one in read_log(folder / "train/adapt/log.jsonl") if "eval" not in one]


def tensors(folder):
    """Of the last checkpoint, byte by byte."""
    last = max(folder.glob("train/adapt/step-*"))
    return {path.name: path.read_bytes() for path in last.rglob("*.safetensors")}


@pytest.fixture
def plain(step, prepared, folder, tmp_path):
    """(losses, tensors) of the training without it; leaves a prepared run that asks for it."""
    prepared(*WORDS, last=4)
    found = losses(folder), tensors(folder)
    assert step(1, "train.compile=true") == 0
    return found


def test_compiled_blocks_are_trained_as_plain_ones_with_the_same_dropout(step, plain, folder, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")  # inductor's own C++ takes half a minute
    assert step(4, "--force") == 0
    assert "compiled 2 blocks in" in capsys.readouterr().out
    assert losses(folder) == pytest.approx(plain[0], rel=1e-5) and len(plain[0]) == 5


def test_where_no_compiler_is_found_one_sentence_says_so_and_nothing_else_changes(
    step, plain, folder, monkeypatch, capsys
):
    monkeypatch.setattr(compiling, "BACKEND", broken)
    assert step(4, "--force") == 0
    assert "train.compile is left out: BackendCompilerFailed: " in capsys.readouterr().out
    assert tensors(folder) == plain[1]


def broken(graph, inputs):
    raise RuntimeError("no C++ compiler")


def test_looking_for_bad_numbers_goes_without(step, plain, folder, capsys):
    assert step(4, "--force", "--detect-anomaly") == 0
    assert "train.compile is left out: --detect-anomaly looks at every module" in capsys.readouterr().out
    assert losses(folder) == plain[0]


def test_the_frozen_front_is_left_out_because_runs_without_the_setting_read_its_units():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    frozen = FrozenFeatures("front", lambda sample: [], lambda sample, number: torch.zeros(1), r"net\.0\..*")
    parts = Parts({"net": network}, frozen_features=frozen, shard={"net": ("0", "1")})
    assert list(compiling.blocks_of(parts)) == [network[1]]
