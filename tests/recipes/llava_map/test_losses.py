"""What the golden cases do not say: invariance, degenerate edges, more lines than queries."""

import numpy as np
import torch

from lib.recipes.llava_map import losses, polylines
from lib.recipes.llava_map.losses import Truth, Weights

HALF, POINTS = (15.0, 30.0), 13  # the ring of 24 m has a sample on each of its corners
EXTENT = 2 * torch.tensor(HALF)
RING = np.array([[-4.0, 2], [4, 2], [4, 6], [-4, 6], [-4, 2]])
LINE = np.array([[2.0, -30], [3, 0], [2, 30]])


def truth(curves: list[np.ndarray], labels: list[int]) -> Truth:
    orders = polylines.padded([polylines.orders(curve, POINTS, HALF) for curve in curves], POINTS)
    return Truth(torch.tensor(labels), (torch.from_numpy(orders) / torch.tensor(HALF) + 1) / 2)


def predictions(queries: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, queries, 3, generator=generator), torch.rand(1, 1, queries, POINTS, 2, generator=generator)


def total(curves: list[np.ndarray], queries: int = 6) -> float:
    return losses.map_loss(*predictions(queries), [truth(curves, [1, 0])], Weights(), EXTENT)[0].item()


def test_direction_and_start_of_the_ground_truth_do_not_matter():
    samples = polylines.resample(RING, POINTS)
    rolled = np.concatenate([np.roll(samples[:-1], 3, axis=0), np.roll(samples[:-1], 3, axis=0)[:1]])
    plain = total([samples, LINE])
    assert np.isclose(total([samples[::-1], LINE[::-1]]), plain, rtol=1e-5)
    assert np.isclose(total([rolled, LINE]), plain, rtol=1e-5)


def test_collapsed_points_have_a_finite_gradient():
    logits, points = predictions(4)
    points = torch.full_like(points, 0.5).requires_grad_()
    losses.map_loss(logits, points, [truth([RING, LINE], [1, 0])], Weights(), EXTENT)[0].backward()
    assert points.grad.isfinite().all() and points.grad.any()


def test_frame_without_lines_teaches_that_nothing_is_there():
    logits, points = predictions(4)
    logits.requires_grad_()
    empty = Truth(torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, POINTS, 2))
    loss, numbers = losses.map_loss(logits, points, [empty], Weights(), EXTENT)
    loss.backward()
    assert numbers["loss_pts"] == 0 and (logits.grad > 0).all()


def test_more_lines_than_queries_match_every_query_once():
    logits, points = predictions(1)
    found = losses.match(logits[0, 0], points[0, 0], truth([RING, LINE], [1, 0]), Weights())
    assert found.query.tolist() == [0] and len(found.truth) == 1


def test_total_is_the_sum_over_layers_and_terms():
    logits, points = predictions(5)
    one, numbers = losses.map_loss(logits, points, [truth([RING, LINE], [1, 0])], Weights(), EXTENT)
    two, _ = losses.map_loss(
        logits.repeat(2, 1, 1, 1), points.repeat(2, 1, 1, 1, 1), [truth([RING, LINE], [1, 0])], Weights(), EXTENT
    )
    assert torch.isclose(two, 2 * one)
    assert np.isclose(numbers["loss_cls"] + numbers["loss_pts"] + numbers["loss_dir"], numbers["loss_total"])


def test_a_number_that_is_none_reaches_the_loss_and_not_the_matcher():
    """The loop's finite check must see it; scipy would raise a sentence that names nothing."""
    logits, points = predictions(4)
    points[0, 0, 0] = float("nan")
    assert losses.map_loss(logits, points, [truth([RING, LINE, LINE, LINE], [1, 0, 0, 0])], Weights(), EXTENT)[
        0
    ].isnan()
