import numpy as np
import pytest
from scipy.ndimage import maximum_filter, uniform_filter

from lib.scenes import reach
from lib.scenes.reach import reach_px, within_reach

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (reach.BAND + 1, 9), (2 * reach.BAND + 3, 40)])
@pytest.mark.parametrize("share", [0, 0.02, 0.4, 1])
def test_bands_give_the_reach_of_the_whole_map(shape, share):
    """Bit for bit: what two filters over the whole map give takes four times as long."""
    known = GENERATOR.random(shape) < share
    densest = maximum_filter(uniform_filter(known.astype(np.float32), 7, mode="nearest"), 7)
    due = np.where(known, np.minimum(1.25 / np.sqrt(np.maximum(densest, 1e-3)), 6), 0).astype(np.float32)
    assert reach_px(known).tobytes() == due.tobytes()


@pytest.mark.parametrize("farthest", [1.25, 6])
def test_every_measurement_within_its_reach_is_found_once_and_no_other(monkeypatch, farthest):
    """Also of points beside the map, whose rows have no neighbours at their ends; in pieces as in one."""
    monkeypatch.setattr(reach, "PIECE", 100)
    known = GENERATOR.random((12, 17)) < 0.5
    distances = np.where(known, GENERATOR.uniform(0.5, farthest, known.shape), 0).astype(np.float32)
    pixels = np.concatenate([GENERATOR.uniform(-8, 25, (400, 2)), [[0, 0], [17, 12], [3, 4], [-1e6, -1e6]]])
    row, column = np.nonzero(known)
    away = np.abs(pixels[:, None] - np.stack([column + 0.5, row + 0.5], 1)).max(2)
    due = {(p, row[m] * 17 + column[m]) for p, m in np.argwhere(away <= distances[known])}
    point, distance, its_reach, place = within_reach(pixels, distances)
    assert len(point) == len(due) and set(zip(point, place, strict=True)) == due
    assert (its_reach == distances.ravel()[place]).all() and (distance <= its_reach).all()
