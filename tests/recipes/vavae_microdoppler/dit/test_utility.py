"""Do generated images help a classifier? On pictures whose answer is known."""

import numpy as np
import pytest
import torch

from lib.core.records import Row
from lib.recipes.vavae_microdoppler.dit import evaluate, judge, utility
from tests.recipes.vavae_microdoppler.dit.dit_case import DIT


def row(group: str, real: float, both: float) -> Row:
    numbers = {"utility_real": real, "utility_both": both, "utility_generated": 0.5}
    return Row(group, group, numbers)


def test_a_gain_in_every_recording_helps_and_one_in_a_single_recording_proves_nothing():
    every = [row(f"u/{i}", 0.2, 0.6 + 0.01 * i) for i in range(8)]
    found = evaluate.usefulness(every)
    assert found["utility_gain"] == pytest.approx(0.435)
    low, high = evaluate.interval_of_gain(every)
    assert 0.4 < low < 0.435 < high < 0.47 and "generation helps" in evaluate.of_utility(found, every)
    one = [row(f"u/{i}", 0.5, 1.0 if i == 0 else 0.48) for i in range(8)]
    assert "neither helps nor harms" in evaluate.of_utility(evaluate.usefulness(one), one)


def test_each_diet_is_learnt_from_by_every_seed_and_only_when_recordings_are_tested(laid, monkeypatch):
    case, meals = laid, []
    parts, learn = case.parts(), judge.learn
    monkeypatch.setattr(utility, "OF_REAL", {})
    monkeypatch.setattr(judge, "learn", lambda *a: meals.append((len(a[0]), a[-1])) or learn(*a))
    with torch.no_grad():
        evaluate.score_batch(case.config, DIT, parts, case.batch("select", 2))
        assert not meals
        rows = evaluate.score_batch(case.config, DIT, parts, case.batch("test", 4))
        evaluate.score_batch(case.config, DIT, parts, case.batch("test", 2))
        seeds = list(utility.SEEDS)
        assert meals == [(10, s) for s in seeds] + [(20, s) for s in seeds] + [(10, s) for s in seeds]
        other = evaluate.score_batch(case.config, DIT, case.parts(), case.batch("test", 4))
    assert len(meals) == 15, "what learns from real images alone does so once for all networks"
    assert [row.numbers["utility_real"] for row in other] == [row.numbers["utility_real"] for row in rows]
    assert {one.side_px for one in utility.KNOWN[parts.modules["dit"]]["both"]} == {utility.SIDE_PX}
    found = evaluate.summarise(case.config, DIT, rows)
    assert {"utility_real", "utility_both", "utility_generated", "utility_gain"} <= set(found)
    assert set(found) <= set(evaluate.measures(case.config, DIT))


def test_other_real_images_make_other_classifiers(laid, monkeypatch):
    parts, taught = laid.parts(), []
    monkeypatch.setattr(utility, "taught", lambda parts, images: taught.append(len(images[0])) or [])
    made = torch.zeros(2, 3, utility.SIDE_PX, utility.SIDE_PX, dtype=torch.uint8), torch.tensor([0, 1])
    monkeypatch.setattr(utility, "OF_REAL", {})
    utility.trained(parts, made)
    parts.modules["reference"].learning_images[0] //= 2
    utility.trained(parts, made)
    assert taught == [10, 12, 2] * 2


def test_what_a_classifier_learns_from_decides_what_it_knows(monkeypatch):
    """Users told apart by brightness: real images that say so beat generated ones that say nothing."""
    monkeypatch.setattr(judge, "STEPS", 40)
    bright = torch.tensor([40, 200], dtype=torch.uint8).repeat_interleave(16)[:, None, None, None].expand(-1, 3, 64, 64)
    labels = torch.tensor([0, 1]).repeat_interleave(16)
    grey = torch.full_like(bright, 120)
    image = bright.float() / 127.5 - 1
    said = [judge.learn(images, labels, 2, torch.device("cpu"), 101)(image).argmax(1) for images in (bright, grey)]
    assert (said[0] == labels).float().mean() == 1 and (said[1] == labels).float().mean() == 0.5


def test_measuring_usefulness_moves_no_other_number(laid):
    case, found = laid, []
    for wanted in (True, False):
        case.config.eval.utility = wanted
        with torch.no_grad():
            found.append(evaluate.score_batch(case.config, DIT, case.parts(), case.batch("test", 3)))
    with_it, without = (np.array([[r.numbers[name] for name in found[1][0].numbers] for r in rows]) for rows in found)
    assert np.array_equal(with_it, without)
