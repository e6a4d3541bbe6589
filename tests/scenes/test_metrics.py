"""Depth metrics by worked numbers; the golden cases are in tests/golden_vggt.py."""

import math

import pytest
import torch

from lib.scenes import metrics

TRUTH = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)) * 10 + 1
VALID = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(1)) < 0.7


def test_the_numbers_follow_their_formulas():
    predicted, truth = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([2.0, 4.0, 6.0])
    found = metrics.depth_numbers(predicted, truth, torch.ones(3, dtype=torch.bool))
    expected = {
        "mae": (1 + 0 + 3) / 3,
        "rmse": math.sqrt((1 + 0 + 9) / 3),
        "abs_rel": (1 / 2 + 0 + 3 / 6) / 3,
        "sq_rel": (1 / 2 + 0 + 9 / 6) / 3,
        "delta_1": 1 / 3,
        "delta_2": 2 / 3,
        "delta_3": 2 / 3,
        "delta_103": 1 / 3,
        "delta_110": 1 / 3,
        "negative_share": 0,
    }
    assert found == pytest.approx(expected)


def test_a_negative_depth_is_an_error_and_never_an_inlier():
    predicted, truth = torch.tensor([-2.0, 2.0, 0.0]), torch.tensor([2.0, 2.0, 2.0])
    found = metrics.depth_numbers(predicted, truth, torch.ones(3, dtype=torch.bool))
    expected = {"delta_3": 1 / 3, "negative_share": 2 / 3, "mae": 2}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("alignment", ["scale", "median", "scale_shift"])
def test_a_perfect_prediction_of_another_scale_scores_zero(alignment):
    found = metrics.sequence_numbers(TRUTH * 0.13, TRUTH, VALID, alignment)
    assert found["mae"] < 1e-4 and found["delta_1"] == 1
    assert metrics.sequence_numbers(TRUTH * 0.13, TRUTH, VALID, "none")["abs_rel"] == pytest.approx(0.87, abs=1e-5)


def test_frames_that_disagree_about_the_scale_are_seen_by_the_main_alignment_alone():
    predicted = TRUTH * torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    assert metrics.sequence_numbers(predicted, TRUTH, VALID, "median")["abs_rel"] < 1e-5
    assert metrics.sequence_numbers(predicted, TRUTH, VALID, "scale")["abs_rel"] > 0.2


def test_scale_shift_recovers_a_line_per_frame():
    slope, shift = torch.tensor([0.5, 2.0, 1.0])[:, None, None], torch.tensor([-3.0, 7.0, 0.0])[:, None, None]
    assert metrics.sequence_numbers(TRUTH * slope + shift, TRUTH, VALID, "scale_shift")["mae"] < 1e-4
    assert metrics.sequence_numbers(TRUTH * slope + shift, TRUTH, VALID, "median")["mae"] > 0.1


def test_a_constant_prediction_becomes_the_median_or_the_mean():
    flat = torch.full_like(TRUTH, 0.3)
    by_frame = [metrics.align(flat, TRUTH, VALID, name)[1, 0, 0].item() for name in ("median", "scale_shift")]
    assert by_frame == pytest.approx([TRUTH[1][VALID[1]].median().item(), TRUTH[1][VALID[1]].mean().item()], rel=1e-5)
    of_sequence = metrics.align(flat, TRUTH, VALID, "scale")[1, 0, 0].item()
    assert of_sequence == pytest.approx(TRUTH[VALID].median().item(), rel=1e-5)


@pytest.mark.parametrize("alignment", metrics.SUFFIXES)
def test_invalid_pixels_do_not_count(alignment):
    predicted = TRUTH + torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(2))
    spoiled = torch.where(VALID, predicted, torch.tensor(1e6)), torch.where(VALID, TRUTH, torch.tensor(torch.inf))
    expected = metrics.sequence_numbers(predicted, TRUTH, VALID, alignment)
    assert metrics.sequence_numbers(*spoiled, VALID, alignment) == expected


def test_a_frame_without_valid_pixels_is_left_out_and_a_sequence_without_any_is_nan():
    valid = VALID.clone()
    valid[2] = False
    predicted = TRUTH * 1.1
    for alignment in metrics.SUFFIXES:
        expected = metrics.sequence_numbers(predicted[:2], TRUTH[:2], valid[:2], alignment)
        assert metrics.sequence_numbers(predicted, TRUTH, valid, alignment) == expected
        without = metrics.sequence_numbers(predicted, TRUTH, torch.zeros_like(valid), alignment)
        assert all(map(math.isnan, without.values()))


def test_a_frame_that_the_network_fails_on_is_not_left_out():
    truth, valid = torch.ones(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    for failed in (torch.nan, torch.inf):
        predicted = torch.ones(2, 4, 4)
        predicted[1, 0, 0] = failed
        assert not math.isfinite(metrics.sequence_numbers(predicted, truth, valid, "median")["mae"])


def test_the_spread_ignores_what_is_not_finite():
    found = metrics.spread([1.0, 2.0, 6.0, math.nan, math.inf])
    assert found == pytest.approx({"mean": 3, "std": math.sqrt(14 / 3), "median": 2})
    assert all(map(math.isnan, metrics.spread([]).values()))


def test_the_small_thresholds_are_3_and_10_percent():
    predicted, truth = torch.tensor([1.02, 1.05, 1.2, 1 / 1.02]), torch.ones(4)
    found = metrics.depth_numbers(predicted, truth, torch.ones(4, dtype=torch.bool))
    assert (found["delta_103"], found["delta_110"], found["delta_1"]) == (0.5, 0.75, 1)


def test_the_region_is_scored_apart_under_the_alignment_of_the_whole():
    region = torch.zeros_like(VALID)
    region[:, :2] = True
    aligned = TRUTH + torch.where(region, 0.5, 0.0)
    found = metrics.region_numbers(aligned, TRUTH, VALID, region)
    assert found["mae_region"] == pytest.approx(0.5, abs=1e-5) and found["mae_outside"] == found["abs_rel_outside"] == 0
    empty = metrics.region_numbers(aligned, TRUTH, VALID, VALID & False)
    assert math.isnan(empty["mae_region"]) and math.isnan(empty["abs_rel_region"])


def test_ause_is_zero_for_the_right_order_and_largest_for_the_reverse():
    truth, error = torch.zeros(1, 1, 4), torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    everywhere = torch.ones(1, 1, 4, dtype=torch.bool)
    right, wrong = (metrics.confidence_numbers(error, truth, everywhere, trust) for trust in (1 / error, error))
    # Mean errors of what is left, the best order: 1, 1.5, 2, 2.5; the worst: 4, 3.5, 3, 2.5. Their mean difference is
    # 1.5, the error 2.5.
    assert right["ause"] == pytest.approx(0) and wrong["ause"] == pytest.approx(1.5 / 2.5)
    assert wrong["confidence"] == 2.5


def test_confidence_counts_valid_pixels_alone():
    confidence = 1 + torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(3))
    predicted = TRUTH * 1.1
    valid_alone = (values[VALID].view(1, 1, -1) for values in (predicted, TRUTH, VALID, confidence))
    expected = metrics.confidence_numbers(*valid_alone)
    assert metrics.confidence_numbers(predicted, TRUTH, VALID, confidence) == expected
    assert all(map(math.isnan, metrics.confidence_numbers(predicted, TRUTH, VALID & False, confidence).values()))
