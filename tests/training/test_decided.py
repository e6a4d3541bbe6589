"""What a recipe leaves to the untouched base, and what a stage stands on beside its base."""

from types import SimpleNamespace

import pytest

from lib.core.config import TrainConfig
from lib.core.errors import DONE, PAUSED, Paused
from lib.core.records import Stage
from lib.core.run import read_json, read_log
from lib.network import scoring
from lib.recipes.toy import recipe
from lib.training.state import Training


def test_the_base_decides_a_setting_once_and_the_run_keeps_it(step, prepared, folder):
    prepared("train.epochs=2", "train.plan=auto", last=5)
    record = read_json(folder / "run.json")
    assert record["decided"] == {"train.plan": "long"} and record["config"]["train.plan"] == "long"
    assert record["overrides"]["train.plan"] == "auto"
    assert read_json(folder / "train" / "adapt" / "done.json")["steps"] == 10
    for again in (1, 4, 5):
        assert step(again, *(("train.epochs=2", "train.plan=auto") if again == 1 else ())) == DONE
    assert read_json(folder / "run.json")["decided"] == {"train.plan": "long"}


def test_the_base_is_scored_once_and_the_log_says_what_it_was_asked(step, prepared, folder, monkeypatch):
    logs = []
    for kept in (True, False):
        prepared("train.epochs=1", "train.plan=auto")
        scored, real = [], scoring.rows

        def rows(*arguments, scored=scored, real=real, **words):
            scored.append(len(arguments[5]))
            return real(*arguments, **words)

        with monkeypatch.context() as patched:
            patched.setattr(scoring, "rows", rows)
            if not kept:
                patched.setattr(Training, "base_rows", property(lambda self: None, lambda self, rows: None))
            assert step(4, "--force") == DONE
        logs.append((folder / "train" / "adapt" / "log.jsonl").read_bytes())
        evaluations = [one for one in read_log(folder / "train" / "adapt" / "log.jsonl") if "eval" in one]
        assert len(evaluations) > 1 and scored.count(max(scored)) == len(evaluations) + (not kept)
    assert logs[0] == logs[1]


def test_a_base_that_was_scored_in_large_batches_is_compared_in_the_same_ones(step, prepared, monkeypatch):
    """In half precision a sample's score depends on how many are scored at once."""
    prepared("train.epochs=1", "train.plan=auto")
    real = recipe.score_batch

    def rounded(config, stage, parts, batch):
        rows = real(config, stage, parts, batch)
        for row in rows:
            row.numbers["error"] *= 1 + 1e-3 * len(rows)
        return rows

    monkeypatch.setattr(recipe, "score_batch", rounded)
    assert step(4, "eval.batch=4") == DONE


def test_what_was_decided_survives_a_pause(step, prepared, folder):
    prepared("train.epochs=2", "train.plan=auto", "train.stages=2")
    assert step(4, "--stages", "adapt") == PAUSED
    assert read_json(folder / "run.json")["decided"] == {"train.plan": "long"}
    assert step(4) == DONE and step(5) == DONE


def test_a_session_that_ends_before_the_answer_asks_again(step, prepared, folder, monkeypatch):
    prepared("train.epochs=2", "train.plan=auto")

    def session_ends(config, score):
        raise Paused("the session's time is over")

    with monkeypatch.context() as patched:
        patched.setattr("lib.recipes.toy.recipe.decide", session_ends)
        assert step(4) == PAUSED
    assert "decided" not in read_json(folder / "run.json")
    assert step(4) == DONE and read_json(folder / "run.json")["decided"] == {"train.plan": "long"}


def test_other_settings_ask_the_base_again(step, prepared, folder):
    prepared("train.epochs=2", "train.plan=auto", last=4)
    assert step(1, "lora.rank=3") == DONE
    assert "decided" not in read_json(folder / "run.json")
    assert step(1, "train.log_seconds=3") == DONE and step(4, "--force") == DONE
    assert read_json(folder / "run.json")["decided"] == {"train.plan": "long"}


def test_what_a_person_said_is_not_decided(prepared, folder):
    prepared("train.epochs=2", "train.plan=short", last=4)
    assert read_json(folder / "run.json")["decided"] == {}
    assert read_json(folder / "train" / "adapt" / "done.json")["steps"] == 5


def test_a_stage_stands_on_the_finished_stage_that_it_names(step, prepared, folder, capsys):
    prepared("train.epochs=1", "train.stages=2", "train.stand=true")
    assert step(4, "--stages", "again") == 2
    assert "the stage again needs the stage adapt, which is not finished" in capsys.readouterr().err
    assert step(4) == DONE and step(5) == DONE
    [made] = (folder.parent.parent / "cache").glob("stage_inputs-*/made.txt")
    assert made.read_text() == f"step-{read_json(folder / 'train' / 'adapt' / 'best.json')['step']:06d}"
    assert "stage again starts from" not in capsys.readouterr().out


@pytest.mark.parametrize("own, steps", [(None, 5), (2.0, 10), (0.0, 0)])
def test_a_stage_may_say_how_often_it_is_evaluated(own, steps):
    training = SimpleNamespace(
        steps_of=lambda epochs: Training.steps_of(training, epochs),
        config=TrainConfig(evaluate_epochs=1.0, global_batch=4),
        train=SimpleNamespace(length=20),
        stage=Stage("one", 10, evaluate_epochs=own),
    )
    assert Training.evaluate_every_steps.fget(training) == steps
