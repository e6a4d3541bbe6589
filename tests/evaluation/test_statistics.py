"""Base against adapted on the same samples, with an interval that can be checked by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from lib import recipes
from lib.core.errors import Stop
from lib.core.records import Metric, Row, Stage
from lib.evaluation import statistics
from lib.network import scoring
from tests.conftest import TOY

STAGE = Stage("adapt", 1)
NAN = math.nan
CONFIG = SimpleNamespace(eval=SimpleNamespace(resamples=2000, batch=1), train=SimpleNamespace(seed=42))


def rows(errors, group=lambda i: f"g{i}"):
    return [Row(f"s{i}", group(i), {"error": float(error)}) for i, error in enumerate(errors)]


def compared(base, adapted, group=lambda i: f"g{i}", comparison="base"):
    return statistics.compare(
        recipes.load(str(TOY)), CONFIG, STAGE, rows(base, group), rows(adapted, group), rows(base, group), comparison
    )


def test_better_worse_and_not_shown():
    base = np.linspace(1, 2, 10)
    noise = np.tile([1.0, -1.0], 5)
    assert compared(base, base - 0.5)["metrics"]["error"]["verdict"] == "better"
    assert compared(base, base + 0.5)["metrics"]["error"]["verdict"] == "worse"
    assert compared(base, base + noise)["metrics"]["error"]["verdict"] == "not shown"
    assert compared(base, base - 0.5, comparison="random_init")["metrics"]["error"]["verdict"] == ""


def test_the_interval_is_the_paired_bootstrap_of_the_mean():
    """For a mean of paired differences d the percentile interval is near mean(d) +- 1.96 std(d) / sqrt(n) (Efron &
    Tibshirani 1993, ch. 13).
    """
    generator = np.random.Generator(np.random.Philox(key=3))
    base = generator.uniform(5, 6, 200)
    moves = generator.normal(-0.3, 1.0, 200)
    found = compared(base, base + moves)["metrics"]["error"]
    half = 1.96 * moves.std() / math.sqrt(200)
    assert found["difference"] == pytest.approx(moves.mean())
    assert found["low"] == pytest.approx(moves.mean() - half, abs=0.15 * half)
    assert found["high"] == pytest.approx(moves.mean() + half, abs=0.15 * half)


def test_groups_are_drawn_where_five_are_held_out_and_nothing_below_that():
    by, draws = statistics.resamples(rows(range(10), lambda i: f"g{i // 2}"), 50, 1)
    assert by == "groups"
    assert all(draw[k] + 1 == draw[k + 1] and draw[k] % 2 == 0 for draw in draws for k in range(0, 10, 2))
    assert statistics.resamples(rows(range(8), lambda i: f"g{i // 2}"), 50, 1) == ("", [])


def test_whole_set_metrics_are_computed_again_for_every_resample():
    def spread(config, stage, rows):
        errors = [row.numbers["error"] for row in rows]
        return {"spread": max(errors) - min(errors)}

    recipe = SimpleNamespace(summarise=spread, measures=lambda config, stage: {"spread": Metric()})
    found = statistics.compare(recipe, CONFIG, STAGE, rows(range(10)), rows([0] * 10), None, "base")["metrics"][
        "spread"
    ]
    assert found["difference"] == -9 and -9 <= found["low"] < found["high"] <= 0 and found["trivial"] is None


def test_only_the_main_metric_has_a_verdict_and_every_metric_its_interval():
    def twice(config, stage, some):
        return dict.fromkeys(("main", "other"), float(np.mean([row.numbers["error"] for row in some])))

    measures = {"main": Metric(), "other": Metric()}
    recipe = SimpleNamespace(summarise=twice, measures=lambda config, stage: measures)
    base = rows(np.linspace(1, 2, 12))
    found = statistics.compare(recipe, CONFIG, None, base, rows(np.linspace(0, 1, 12)), None, "base")["metrics"]
    assert (found["main"]["verdict"], found["other"]["verdict"]) == ("better", "")
    assert found["other"]["high"] < 0


def test_an_interval_with_nan_shows_nothing():
    assert statistics.verdict(None, None, Metric(), True) == "not shown"
    assert statistics.verdict(1, 2, Metric("", lower_is_better=False), True) == "better"


def test_fewer_than_five_groups_give_no_interval_and_no_verdict():
    def group(i):
        return f"scene{i % 4}"

    compared = statistics.compare(
        recipes.load(str(TOY)), CONFIG, STAGE, rows(range(8), group), rows([0] * 8, group), None, "base"
    )
    found = compared["metrics"]["error"]
    assert compared["resampled"] == "" and found["verdict"] == "no verdict"
    assert found["low"] is None and found["high"] is None


def test_a_sample_scored_twice_or_not_at_all_stops():
    with pytest.raises(
        Stop, match="3 held-out samples should have been scored once each, but the recipe gave 3 rows of 2 samples"
    ):
        scoring.refuse_double([*rows(range(2)), rows(range(1))[0]], 3)
    with pytest.raises(Stop, match="2 rows of 2 samples"):
        scoring.refuse_double(rows(range(2)), 3)


def test_per_sample_table_holds_numbers_exactly(tmp_path):
    value = 0.1 + 0.2
    statistics.write_scores(tmp_path / "per_sample.csv", {"base": rows([value]), "adapted": rows([1 / 3])})
    assert (tmp_path / "per_sample.csv").read_text().splitlines()[1] == f"s0,g0,error,{value!r},{1 / 3!r}"
    assert [p.name for p in tmp_path.iterdir()] == ["per_sample.csv"]


def test_a_sample_that_one_network_alone_has_no_number_for_is_named():
    """Recipes average what has a number, so a network that fails on the hard samples would look better."""
    known, lost = rows([1, 2, 3]), rows([1, math.nan, 3])
    assert statistics.without_number("error", known, known) == statistics.without_number("error", lost, lost) == ""
    said = statistics.without_number("error", known, lost)
    assert (
        said == "error of the adapted model is not finite for 1 held-out sample, first s1, where the base has a value"
    )
    assert "error of the base is" in statistics.without_number("error", lost, known)
    assert statistics.without_number("frechet", known, lost) == ""  # of the whole set: in no row


def test_means_are_over_the_samples_that_both_networks_have_a_number_for():
    """2D keypoints of a crop that one network leaves: what the other has there counts for neither."""
    base = [Row("easy", "g", {"pck": 0.8}), Row("hard", "g", {"pck": 0.2, "mae": 3.0}), Row("none", "g", {"pck": NAN})]
    adapted = [Row("easy", "g", {"pck": 0.9}), Row("hard", "g", {"pck": NAN, "mae": 2.0}), base[2]]
    trivial = [Row("easy", "g", {"pck": 0.1}), Row("hard", "g", {"pck": 0.5, "mae": 9.0}), base[2]]
    columns = {"base": base, "adapted": adapted, "trivial": trivial}
    alone = statistics.of_one_alone(columns)
    kept = statistics.paired(columns, alone)
    assert statistics.left_out(alone) == [
        "pck has a value for 1 sample under one network alone: left out of every mean of it"
    ]
    for column, first in (("base", 0.8), ("adapted", 0.9), ("trivial", 0.1)):
        assert [row.numbers["pck"] for row in kept[column]] == pytest.approx([first, NAN, NAN], nan_ok=True)
    assert [kept[column][1].numbers["mae"] for column in kept] == [3, 2, 9]
    same = {"base": base, "adapted": base}
    alone = statistics.of_one_alone(same)
    assert statistics.paired(same, alone) == same and statistics.left_out(alone) == []
