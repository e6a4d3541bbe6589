"""Which views see one surface, by depth and poses; what else `overlap` refuses stands in test_agreement.py."""

import numpy as np
import pytest

from lib.scenes import overlap


def test_seen_share_is_one_from_the_same_place_half_after_half_a_width_and_none_from_behind():
    camera = np.array([[40.0, 0, 40], [0, 40, 30], [0, 0, 1]])
    wall = np.full((60, 80), 10.0, np.float32)  # 10 away: 80 px are 20 wide
    here = np.eye(3, 4)
    aside = here.copy()
    aside[0, 3] = -10
    behind = np.diag([-1.0, 1, -1]) @ here
    world = overlap.surface(overlap.Seen(wall, camera, here))
    views = [overlap.Seen(wall, camera, pose) for pose in (here, aside, behind)]
    views.append(overlap.Seen(wall * 2, camera, here))  # another surface in front
    assert [overlap.seen_share(world, view) for view in views] == pytest.approx([1, 0.5, 0, 0])
