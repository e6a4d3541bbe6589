"""Average precision on cases whose answer is known by hand."""

import numpy as np
import pytest

from lib.recipes.llava_map import metrics
from lib.recipes.llava_map.metrics import Detections


def straight(x_m: float) -> np.ndarray:
    return np.array([[x_m, -30.0], [x_m, 30.0]])


TRUTH = [straight(x_m) for x_m in (-6.0, 0.0, 6.0)]


def score(predicted: list[np.ndarray], scores: list[float], truth: list[np.ndarray]) -> np.ndarray:
    """AP at the three thresholds of one frame and class."""
    scores = np.array(scores)
    return metrics.average_precision(
        Detections(scores, metrics.hits(metrics.similarity(predicted, truth), scores), len(truth))
    )


def test_ground_truth_as_prediction_scores_one():
    assert score(TRUTH, [0.9, 0.8, 0.7], TRUTH).tolist() == [1, 1, 1]


def test_no_prediction_scores_zero():
    assert score([], [], TRUTH).tolist() == [0, 0, 0]


def test_lines_off_by_70_cm_are_wrong_at_half_a_metre_and_right_at_one():
    assert score([line + np.array([0.7, 0]) for line in TRUTH], [0.9, 0.8, 0.7], TRUTH).tolist() == [0, 1, 1]


def test_a_second_detection_of_the_same_line_is_false():
    """By hand: ranks true, false, true of two truths; envelope 1 to recall 1/2, 2/3 to 1: AP = 1/2 + 1/2 * 2/3."""
    found = score([TRUTH[0], TRUTH[0], TRUTH[1]], [0.9, 0.8, 0.7], TRUTH[:2])
    assert found == pytest.approx([5 / 6] * 3)


def test_a_detection_does_not_take_a_free_line_that_is_not_its_nearest():
    """MapTR's rule: the nearest truth is taken, so the detection is false although another is free within 1.5 m."""
    truth = [straight(0.0), straight(1.2)]
    true = metrics.hits(metrics.similarity([straight(0.1), straight(0.3)], truth), np.array([0.9, 0.8]))
    assert true[:, 2].tolist() == [True, False]


def test_a_shift_along_the_line_hardly_counts():
    """100 points are 0.61 m apart, so but for the ends none is more than 0.303 m from another line's.

    20 points would make it 1.5 m.
    """
    shifted = straight(0.0) + np.array([0, 1.5])
    assert -metrics.similarity([shifted], [straight(0.0)])[0, 0] < 0.303 + 2 * 1.5 / 100


def test_strips_that_do_not_touch_are_never_compared():
    assert metrics.similarity([straight(0.0)], [straight(4.5)])[0, 0] == metrics.APART
    assert metrics.similarity([straight(0.0)], [straight(3.5)])[0, 0] == pytest.approx(-3.5)


def test_class_without_ground_truth_counts_as_zero_in_the_mean():
    perfect = Detections(np.array([0.9]), np.ones((1, 3), bool), 1)
    nothing = Detections(np.zeros(0), np.zeros((0, 3), bool), 0)
    assert metrics.table([perfect, nothing, nothing])["mAP"] == pytest.approx(1 / 3)


def test_a_query_may_be_kept_with_two_classes():
    logits = np.array([[3.0, 2.0, -9.0], [-9.0, -9.0, -8.0]])
    scores, labels, lines = metrics.best_pairs(logits, np.arange(8.0).reshape(2, 2, 2), keep=3)
    assert labels.tolist() == [0, 1, 2] and lines[:, 0, 0].tolist() == [0, 0, 4]
    assert scores == pytest.approx(1 / (1 + np.exp([-3.0, -2.0, 8.0])))
