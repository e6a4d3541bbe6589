"""A base that is worse than its publisher's cannot be it: said before the training, and again before a comparison."""

import pytest

from lib.core.errors import Stop
from lib.network import audit
from lib.recipes import Loaded

SAID = "error: the base is not the published one: its error on the held-out samples is"


def known_limit(monkeypatch, limit: float) -> None:
    monkeypatch.setattr(Loaded, "base_limits", lambda recipe, config, stage, manifest: {"error": limit}, raising=False)


def test_training_does_not_begin_on_another_base(step, prepared, monkeypatch, folder, capsys):
    prepared("train.epochs=1")
    known_limit(monkeypatch, 1e-3)
    assert step(4) == 1
    assert capsys.readouterr().err.startswith(SAID) and not (folder / "train" / "adapt" / "log.jsonl").exists()


def test_a_comparison_with_another_base_is_not_written(step, prepared, monkeypatch, folder, capsys):
    prepared("train.epochs=1", last=4)
    known_limit(monkeypatch, 1e-3)
    assert step(5) == 1
    assert capsys.readouterr().err.startswith(SAID) and not (folder / "eval" / "scores.json").exists()


def test_the_published_base_passes(step, prepared, monkeypatch):
    prepared("train.epochs=1")
    known_limit(monkeypatch, 1e3)
    assert step(4) == 0 and step(5) == 0


@pytest.mark.parametrize("value", [0.08, 0.43, float("nan")])
def test_the_limit_itself_and_what_is_not_a_number_are_refused(value):
    with pytest.raises(Stop, match=r"the published weights stay below 0\.08"):
        audit.refuse_other_base({"abs_rel": 0.08}, {"abs_rel": value})
    audit.refuse_other_base({"abs_rel": 0.08}, {"abs_rel": 0.079})
    audit.refuse_other_base({}, {"abs_rel": value})
