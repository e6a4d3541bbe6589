"""Point-map metrics against worked distances."""

import math

import pytest
import torch

from lib.scenes import points

CLOUD = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 5
QUARTER_TURN = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


def test_a_perfect_cloud_of_another_scale_and_world_scores_zero():
    found = points.point_numbers(0.2 * CLOUD @ QUARTER_TURN.T + torch.tensor([1.0, 2, 3]), CLOUD)
    assert all(found[name] == pytest.approx(0, abs=1e-5) for name in points.MEASURES)


def test_accuracy_looks_from_the_prediction_and_completeness_from_the_truth():
    """A plane of which the prediction has folded one half onto the other: what is there is right, half is missing."""
    columns, rows = torch.meshgrid(torch.arange(-8.0, 9), torch.arange(-3.0, 4), indexing="ij")
    truth = torch.stack([columns, rows, 0 * rows], -1).reshape(-1, 3)
    folded = torch.stack([columns.abs(), rows, 0 * rows], -1).reshape(-1, 3)
    found = points.point_numbers(folded, truth)
    assert found["completeness"] > 2 * found["accuracy"] > 0
    assert found["chamfer"] == pytest.approx((found["accuracy"] + found["completeness"]) / 2)


def test_noise_is_measured_in_the_unit_of_the_truth():
    # So far apart that every point's nearest one is its own.
    grid = torch.cartesian_prod(*[torch.arange(5.0) * 100] * 3)
    noise = torch.zeros_like(grid)
    noise[::2, 0], noise[1::2, 0] = 0.5, -0.5
    assert points.point_numbers(grid + noise, grid)["accuracy"] == pytest.approx(0.5, rel=0.02)


def test_many_points_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(points, "MOST_POINTS", 100)
    noisy = CLOUD + 0.1 * torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    assert points.point_numbers(noisy, CLOUD) == points.point_numbers(noisy[::5], CLOUD[::5])


@pytest.mark.parametrize("predicted", [torch.ones(500, 3), torch.full((500, 3), torch.inf), CLOUD * torch.nan])
def test_what_no_similarity_fits_has_no_number(predicted):
    assert all(math.isnan(value) for value in points.point_numbers(predicted, CLOUD).values())


def test_two_points_or_none_have_no_number():
    for count in (0, 2):
        assert all(math.isnan(value) for value in points.point_numbers(CLOUD[:count], CLOUD[:count]).values())
