"""What is drawn into a picture."""

import numpy as np
import pytest

from lib.recipes.llava_map import scene_view


def test_a_line_that_passes_the_camera_is_drawn_only_ahead_of_it():
    """A camera at 1.5 m looking along y over a line on the ground from 20 m behind to 20 m ahead."""
    bev_from_cam = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    intrinsics = np.array([[100.0, 0, 100], [0, 100, 50], [0, 0, 1]])
    [piece] = scene_view.drawn_in(np.array([[0.0, -20], [0, 20]]), intrinsics, bev_from_cam, 200, 100)
    assert np.allclose(piece[:, 0], 100)
    assert piece[:, 1].max() <= 100 and piece[:, 1].min() == pytest.approx(50 + 100 * 1.5 / 20, abs=0.1)
