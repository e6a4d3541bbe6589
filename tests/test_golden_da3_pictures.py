"""Pictures at the network's size; against the original's pixels: tests/golden_da3.py."""

import numpy as np
import pytest

from lib.core.errors import Stop
from tests import golden_da3_pictures


@pytest.mark.parametrize("width, height, method, seen", [
    (6048, 4032, "upper_bound_resize", (504, 336)), (4032, 6048, "upper_bound_resize", (336, 504)),
    (504, 371, "upper_bound_resize", (504, 378)), (504, 370, "upper_bound_resize", (504, 364)),  # 26.5 patches: up
    (504, 376, "upper_bound_crop", (504, 364)), (640, 480, "lower_bound_resize", (672, 504)),
    (1208, 680, "lower_bound_crop", (882, 504)), (97, 1000, "upper_bound_crop", (42, 504)),
])  # fmt: skip
def test_the_longest_or_the_shortest_side_becomes_504_and_both_whole_patches(width, height, method, seen):
    assert golden_da3_pictures.sizes(width, height, method=method).seen == seen


def test_intrinsics_follow_their_pixels_axis_by_axis():
    given = np.array([[100.0, 0, 60], [0, 90, 40], [0, 0, 1]])
    found = golden_da3_pictures.sizes(121, 80, 56, "upper_bound_crop")  # 56 x 37, of which 56 x 28 are kept
    assert (found.bounded, found.top, found.left, found.seen) == ((56, 37), 4, 0, (56, 28))
    scaled = golden_da3_pictures.intrinsics(given, 121, 80, found)
    np.testing.assert_allclose(scaled[0], [100 * 56 / 121, 0, 60 * 56 / 121])
    np.testing.assert_allclose(scaled[1], [0, 90 * 37 / 80, 40 * 37 / 80 - 4])
    assert given[0, 0] == 100


def test_smaller_is_the_mean_of_the_area_and_keeps_the_sum():
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    half = golden_da3_pictures.resized(photo, 30, 20)
    mean = photo.reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert np.abs(half - mean).max() <= 0.51
    for given, wanted in ((60, 56), (4032, 336), (7, 3)):
        shares = golden_da3_pictures.area(given, wanted).toarray()
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(shares.sum(0), wanted / given, atol=1e-5)


def test_larger_keeps_what_is_flat_and_stays_within_8_bits():
    photo = np.zeros((10, 10, 3), np.uint8)
    photo[:, 5:] = 255
    found = golden_da3_pictures.resized(photo, 14, 28)
    assert found.shape == (28, 14, 3) and (found[:, :4] == 0).all() and (found[:, -4:] == 255).all()


def test_a_picture_in_which_no_patch_fits_and_an_unknown_way_are_refused():
    with pytest.raises(Stop, match="no patch fits"):
        golden_da3_pictures.sizes(10, 1000, 504, "upper_bound_crop")
    with pytest.raises(Stop, match="no way to size"):
        golden_da3_pictures.sizes(100, 100, 504, "stretch")
