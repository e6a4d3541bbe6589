"""Scores of held-out hands: perfect answers, hands with 2D labels alone, what the stand-in hand is not scored by."""

import numpy as np
import pytest
import torch

from lib.core.records import Parts
from lib.recipes.hamer import assemble, evaluate, losses
from lib.recipes.hamer.critic import Discriminator
from tests.recipes.hamer.conftest import STAGE
from tests.recipes.hamer.test_assemble import batch_of


@pytest.fixture
def answered(network, configure):
    """Settings -> (config, parts, a batch that is labelled with the network's own answers)."""

    def make(**changes):
        config = configure(**changes)
        parts, batch = Parts({"hamer": network(config)}), batch_of(config)
        with torch.no_grad():
            answer = assemble.forward(config, parts, batch)
        one = torch.ones(2, 21, 1)
        batch |= {
            "keypoints_2d": torch.cat([answer["pred_keypoints_2d"], one], 2),
            "keypoints_3d": torch.cat([answer["pred_keypoints_3d"], one], 2),
        }
        batch |= {
            "sample_id": ["a", "b"],
            "group": ["g", "g"],
            "vertices": torch.zeros(2),
            "mean_2d": torch.zeros(2, 21, 2),
            "mean_3d": batch["keypoints_3d"][..., :3],
        }
        return config, parts, batch

    return make


def scores(config, parts, batch):
    with torch.no_grad():
        return evaluate.summarise(config, STAGE, evaluate.score_batch(config, STAGE, parts, batch))


def test_scores_of_a_perfect_answer_are_perfect(answered):
    config, parts, batch = answered()
    numbers, trivial = scores(config, parts, batch), scores(config, None, batch)
    assert numbers["pa_mpjpe_mm"] < 1e-3 and numbers["pck_05"] == 1 and numbers["auc_joints"] > 0.98
    assert "pa_mpvpe_mm" not in numbers  # no mesh to compare with
    assert trivial["pa_mpjpe_mm"] < 1e-3 and trivial["pck_05"] < 1


def test_a_metric_that_no_hand_can_be_scored_by_is_no_zero(answered):
    config, parts, batch = answered()
    batch["keypoints_2d"][..., 2] = 0
    numbers = scores(config, parts, batch)
    assert np.isnan(numbers["pck_05"]) and numbers["pa_mpjpe_mm"] < 1e-3


def test_mesh_scores_need_a_mesh_of_the_same_hand(answered):
    config, parts, batch = answered()
    batch["vertices"] = torch.ones(2)
    with torch.no_grad():
        numbers = evaluate.score_batch(config, STAGE, parts, batch)[0].numbers
        truth = evaluate.true_vertices(parts, batch)[0]
    assert {"pa_mpvpe_mm", "f5", "f15", "auc_vertices"} <= numbers.keys()
    perfect = evaluate.mesh_numbers(truth, truth)
    assert perfect["f5"] == 1 and perfect["pa_mpvpe_mm"] < 1e-3


def test_hands_with_2d_labels_alone_are_scored_by_pck(answered):
    config, parts, batch = answered(data__format="folder", data__truth="2d")
    batch["keypoints_3d"] = torch.zeros(2, 21, 4)
    assert next(iter(evaluate.measures(config, STAGE))) == "pck_10"
    assert scores(config, parts, batch) == {"pck_10": 1, "pck_05": 1, "pck_15": 1}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_truth_and_geometry_stay_in_fp32_under_autocast(answered, kind):
    """In half precision MANO itself would move by 0.06 to 0.27 mm, and numpy has no bfloat16."""
    config, parts, batch = answered()
    batch["vertices"] = torch.ones(2)
    with torch.no_grad():
        truth, expected = evaluate.true_vertices(parts, batch), evaluate.score_batch(config, STAGE, parts, batch)
        with torch.autocast("cpu", dtype=kind):
            assert (evaluate.true_vertices(parts, batch) == truth).all()
            rows = evaluate.score_batch(config, STAGE, parts, batch)
            trivial = evaluate.score_batch(config, STAGE, None, batch)
    assert trivial[0].numbers == evaluate.score_batch(config, STAGE, None, batch)[0].numbers
    for row, other in zip(rows, expected, strict=True):  # a random network: its own rounding, not the truth's
        assert abs(row.numbers["pa_mpvpe_mm"] - other.numbers["pa_mpvpe_mm"]) < 0.05 * other.numbers["pa_mpvpe_mm"]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_losses_compare_in_fp32_under_autocast(answered, kind, monkeypatch):
    config, parts, batch = answered()
    compared, terms = [], losses.terms
    monkeypatch.setattr(losses, "terms", lambda *sides: compared.append(sides) or terms(*sides))
    assemble.objectives(config, STAGE)[0].loss(parts, batch, 0)
    with torch.autocast("cpu", dtype=kind):
        value, _ = assemble.objectives(config, STAGE)[0].loss(parts, batch, 0)
    (_, truth), (prediction, labels) = compared
    assert all((labels[name] == expected).all() for name, expected in truth.items())
    assert {tensor.dtype for tensor in (value, *prediction.values(), *labels.values())} == {torch.float32}
    config.loss.adversarial, parts.modules["discriminator"] = 0.1, Discriminator()
    with torch.autocast("cpu", dtype=kind):
        _, logged = assemble.objectives(config, STAGE)[0].loss(parts, batch, 0)
    assert {tensor.dtype for tensor in logged.values()} == {torch.float32}


@pytest.mark.parametrize("form", ["freihand", "hamer_npz", "hamer_tar"])
def test_the_stand_in_hand_gets_no_3d_score_of_a_published_benchmark(answered, form):
    config, parts, batch = answered(data__format=form)
    assert list(scores(config, parts, batch)) == ["pck_10", "pck_05", "pck_15"]
    with torch.no_grad():
        rows = evaluate.score_batch(config, STAGE, parts, batch)
    assert not any("mm" in name or name.startswith(("auc", "f5", "f15")) for row in rows for name in row.numbers)
    entry = {
        "base": 0.5,
        "adapted": 0.6,
        "trivial": None,
        "difference": 0.1,
        "low": 0.05,
        "high": 0.2,
        "verdict": "better",
    }
    found = {
        "n_samples": 2,
        "n_groups": 1,
        "metrics": {"pck_10": entry},
        "main": {"metric": "pck_10", "unit": ""},
        "resampled": "samples",
    }
    said = evaluate.describe(config, STAGE, found, rows, rows)
    assert f"With it there are no 3D scores on {form}" in said and "2 held-out hands of 1 group" in said


def test_the_licensed_hand_is_scored_in_3d_on_published_benchmarks(configure):
    config = configure(data__format="freihand", model__mano="licensed")
    assert next(iter(evaluate.measures(config, STAGE))) == "pa_mpjpe_mm"
