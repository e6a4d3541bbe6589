"""The base of the demo: what its two tasks ask for, and what is shipped."""

import numpy as np
import pytest
import torch

from lib.network.weights import tensors
from lib.recipes.llava_map import pretrain, pretrain_tasks, stand_in
from lib.recipes.llava_map.pretrain_tasks import ASIDE_M, CELL_M, CELL_PX
from lib.recipes.llava_map.roadmap import Vector
from lib.recipes.llava_map.tables import CAMERAS, read_frames


def test_answers_are_cells_of_the_picture_and_of_the_ground_ahead_of_the_camera(world):
    """A line across the road, 20 m ahead of the lidar: 19.2 m ahead of the front camera, level in its picture."""
    config, frame = pretrain_tasks.demo_config(), read_frames(world, stand_in.VERSION)[0][0]
    line = Vector(2, np.array([[-4.0, 20.0], [4.0, 20.0]]))
    in_picture, on_ground = pretrain_tasks.answers(config, frame, [line])
    ahead, aside = np.nonzero(on_ground[0, 2])
    assert set(ahead.tolist()) == {int(19.2 / CELL_M[0])}
    assert aside.min() * CELL_M[1] - ASIDE_M == pytest.approx(-4, abs=0.8)
    assert aside.max() * CELL_M[1] - ASIDE_M == pytest.approx(4, abs=0.8)
    rows, columns = np.nonzero(in_picture[0, 2])
    focal_px, width_m, depth_m = 1266 * config.data.width_px / 1600, 8.0, 19.2
    assert np.ptp(rows) <= 1
    assert np.ptp(columns) * CELL_PX == pytest.approx(focal_px * width_m / depth_m, abs=12)
    behind = CAMERAS.index("CAM_BACK")
    assert not in_picture[behind].any() and not on_ground[behind].any() and not in_picture[:, :2].any()


def test_the_shipped_base_is_half_precision_and_at_most_4_mb():
    file = pretrain.TARGET / "base.safetensors"
    assert file.stat().st_size <= 4e6
    assert {tensor.dtype for _, tensor in tensors(file) if tensor.is_floating_point()} == {torch.float16}
