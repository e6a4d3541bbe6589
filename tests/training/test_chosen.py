"""Which checkpoint is the best one, and what step 5 says of it: also after a kill, and with another train.keep_best."""

import pytest

from lib.core.run import read_json
from lib.training import state
from tests.training.test_loop import stop_at

pytestmark = pytest.mark.long


class Killed(BaseException):
    """Nothing of the project catches it, and nothing is put in order on the way."""


def folders(stage):
    return sorted(path.name for path in stage.glob("step-*"))


@pytest.fixture
def stage(folder):
    return folder / "train" / "adapt"


def test_a_kill_between_the_last_checkpoint_and_best_json_leaves_no_older_best(step, prepared, stage, monkeypatch):
    prepared("train.epochs=2", "train.lr=5e-3", "train.checkpoint_steps=4", "train.keep_checkpoints=1")
    real = state.write_record

    def die_before_it(path, record):
        if path.name == "best.json" and record["step"] == 10:
            raise Killed
        real(path, record)

    with monkeypatch.context() as patched:
        patched.setattr(state, "write_record", die_before_it)
        with pytest.raises(Killed):
            step(4)
    assert read_json(stage / "best.json")["step"] == 5 and "step-000010" in folders(stage)
    assert step(4) == 0
    assert read_json(stage / "best.json")["step"] == 10 and folders(stage) == ["step-000010"]


def test_no_best_is_kept_from_the_moment_that_none_is_wanted(step, prepared, stage, monkeypatch):
    prepared("train.epochs=4")
    stop_at(monkeypatch, 8)
    assert step(4) == 75 and read_json(stage / "best.json")["step"] == 5
    assert step(4, "train.keep_best=0") == 0 and not (stage / "best.json").exists()
    assert step(5) == 0


def test_of_what_was_not_kept_none_is_the_best_once_one_is_wanted(step, prepared, stage, monkeypatch):
    prepared("train.epochs=4", "train.keep_best=0", "train.keep_checkpoints=1")
    stop_at(monkeypatch, 8)
    assert step(4) == 75 and folders(stage) == ["step-000008"]
    assert step(4, "train.keep_best=1") == 0
    best = read_json(stage / "best.json")
    assert (best["step"], best["leaders"]) == (20, [{"step": 20, "value": best["value"]}])  # 5 was better


@pytest.mark.parametrize("words", ["train.keep_best=0", "train.evaluate_epochs=0"])
def test_the_report_says_chosen_only_of_what_was_chosen(step, prepared, folder, words):
    prepared("train.epochs=2", words, last=5)
    [sentence] = [one for one in read_json(folder / "eval" / "scores.json")["guards"] if "step-000010" in one]
    assert "is the last step: no best checkpoint was kept" in sentence and "chosen on" not in sentence
