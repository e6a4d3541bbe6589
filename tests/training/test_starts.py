"""A stage belongs to the training that it was made from: where that changes, it is trained again or nothing is said to
be complete.
"""

import shlex
import shutil

import pytest

from lib.core.run import read_json
from tests.training.test_loop import stop_at

pytestmark = pytest.mark.long

HANDED_OVER = ("train.epochs=1", "train.stages=2")
STOOD_ON = (*HANDED_OVER, "train.stand=true")


def command(said):
    """The words after the script in the command of a message."""
    line = next(line for line in said.splitlines() if "python step4_train.py" in line)
    return shlex.split(line.partition("step4_train.py")[2].partition("   (")[0])


@pytest.mark.parametrize("words", [HANDED_OVER, STOOD_ON])
def test_a_stage_before_that_goes_on_makes_those_after_it_old(step, prepared, folder, capsys, words):
    prepared(*words, last=5)
    assert step(1, "train.epochs=2") == 0
    capsys.readouterr()
    assert step(4) == 2
    said = capsys.readouterr().err
    found = "the stage again was made from another step-000005 of the stage adapt, whose best checkpoint is step-000010"
    assert found in said
    assert step(5) == 2  # its training is not complete
    assert step(4, *command(said)) == 0 and step(4) == 0 and step(5) == 0


def test_a_stage_before_that_is_trained_again_otherwise_does_too(step, prepared, folder, tmp_path, capsys):
    prepared(*HANDED_OVER, "train.stages=3", last=5)
    source = shutil.copytree(folder / "train" / "again" / "step-000005", tmp_path / "step-000077")
    assert step(4, "--force", "--stages", "adapt", "--checkpoint", str(source)) == 75
    assert step(5) == 2
    capsys.readouterr()
    assert step(4) == 2
    said = capsys.readouterr().err
    assert "again was made from another step-000005 of the stage adapt\n" in said
    assert command(said)[-2:] == ["--stages", "again,once_more"]
    assert step(4, *command(said)) == 0
    assert step(4) == 0 and step(5) == 0


def test_the_same_training_again_leaves_those_after_it_as_they_are(step, prepared, folder):
    prepared(*HANDED_OVER, last=5)
    assert step(4, "--force", "--stages", "adapt") == 0
    assert read_json(folder / "4_train.json")["state"] == "complete"


def test_a_stage_does_not_start_from_a_half_trained_one(step, prepared, monkeypatch, capsys):
    prepared(*HANDED_OVER, last=3)
    stop_at(monkeypatch, 3)
    assert step(4) == 75
    capsys.readouterr()
    assert step(4, "--stages", "again") == 2
    said = capsys.readouterr().err
    assert "the stage again needs the stage adapt, which is not finished" in said
    assert step(4, *command(said)) == 75 and step(4, "--stages", "again") == 0
