"""FreiHAND's definitions against brute force and formulas; the official script's numbers are in tests/golden."""

import numpy as np
import pytest

from lib.recipes.hamer import metrics

RANDOM = np.random.default_rng(3)


def test_similarity_is_undone_exactly():
    truth = RANDOM.normal(size=(2, 21, 3))
    turn, _ = np.linalg.qr(RANDOM.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    np.testing.assert_allclose(metrics.align(2.5 * truth @ turn + [1, 2, 3], truth), truth, atol=1e-6)


def test_mirrored_hand_is_right_only_where_reflections_are_permitted():
    truth = RANDOM.normal(size=(1, 21, 3))
    mirrored = truth * [-1, 1, 1]
    assert metrics.distances(metrics.align(mirrored, truth, reflections=True), truth).max() < 1e-6
    assert metrics.distances(metrics.align(mirrored, truth), truth).mean() > 0.1


def test_f_score_is_the_harmonic_mean_of_both_directions():
    one, other = RANDOM.normal(0, 0.01, (40, 3)), RANDOM.normal(0, 0.01, (60, 3))
    far = np.linalg.norm(one[:, None] - other[None], axis=-1)
    precision, recall = (far.min(1) < 0.005).mean(), (far.min(0) < 0.005).mean()
    assert metrics.f_score(one, other, (0.005,))[0] == pytest.approx(2 * precision * recall / (precision + recall))


def test_f_score_of_far_sets_is_zero():
    assert metrics.f_score(np.zeros((5, 3)), np.ones((5, 3)), (0.005, 0.015)).tolist() == [0, 0]


def test_area_of_a_constant_error():
    errors = np.full((4, 21), 0.025)
    thresholds, curve, area = metrics.pck_curve(errors)
    assert curve.tolist() == (thresholds >= 0.025).astype(float).tolist()
    assert area == pytest.approx(0.5, abs=0.01)


def test_2d_keypoints_without_confidence_do_not_count():
    truth = np.zeros((2, 21, 3))
    truth[..., 2] = 1
    truth[0, 3, 2] = 0.5  # not above the threshold
    predicted = np.zeros((2, 21, 2))
    predicted[1, :, 0] = 0.11
    correct = metrics.within(predicted, truth, np.array([1.0, 1.0]), 0.1)
    assert np.isnan(correct[0, 3]) and correct[0, 4] == 1 and correct[1, 3] == 0
    assert metrics.pck(correct) == pytest.approx((20 * 0.5 + 0) / 21)
