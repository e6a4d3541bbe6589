"""Equal arc length, and all orders that are the same curve."""

import numpy as np

from lib.recipes.llava_map import polylines

HALF = (15.0, 30.0)
SQUARE = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4], [0, 0]])


def test_samples_are_at_equal_arc_length_round_a_corner():
    corner = np.array([[0.0, 0], [3, 0], [3, 1]])
    assert np.allclose(polylines.resample(corner, 5), [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]])


def test_repeated_vertices_do_not_move_samples():
    line = np.array([[0.0, 0], [0, 0], [2, 0], [2, 0], [4, 0]])
    assert np.allclose(polylines.resample(line, 3), [[0, 0], [2, 0], [4, 0]])


def test_open_line_has_two_orders():
    found = polylines.orders(np.array([[0.0, 0], [0, 9]]), 4, HALF)
    assert found.shape == (2, 4, 2) and np.array_equal(found[1], found[0][::-1])


def test_every_order_of_a_ring_is_the_closed_ring():
    """The trap: rolling all samples lets the repeated closing point travel inside."""
    found = polylines.orders(SQUARE, 9, HALF)  # eight distinct samples, two directions
    assert found.shape == (16, 9, 2)
    assert np.array_equal(found[:, 0], found[:, -1])
    assert np.allclose(np.hypot(*np.diff(found, axis=1).transpose(2, 0, 1)), 2.0)
    assert len(np.unique(found.reshape(16, -1), axis=0)) == 16


def test_v2_starts_the_ring_at_each_vertex():
    found = polylines.orders(SQUARE, 9, HALF, "v2")
    assert found.shape == (4, 9, 2) and np.array_equal(found[:, 0], SQUARE[:-1])


def test_v2_keeps_an_even_choice_of_many_vertices():
    angle = np.linspace(0, 2 * np.pi, 101)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ring[-1] = ring[0]
    assert polylines.orders(ring, 20, HALF, "v2").shape == (19, 20, 2)


def test_samples_stay_in_the_region():
    crossing = np.array([[-15.2, 0.0], [15.2, 0.0]])
    assert polylines.sampled(crossing, 20, HALF)[[0, -1], 0].tolist() == [-15.0, 15.0]


def test_padding_is_never_nearest():
    groups = [polylines.orders(SQUARE, 5, HALF), polylines.orders(np.array([[0.0, 0], [1, 1]]), 5, HALF)]
    padded = polylines.padded(groups, 5)
    assert padded.shape == (2, 8, 5, 2) and (padded[1, 2:] == polylines.FAR_M).all()
