"""Camera metrics against worked angles."""

import math

import pytest
import torch

from lib.scenes import cameras, geometry


def turned(axis: int, degrees: float) -> torch.Tensor:
    """The rotation matrix about one axis, in float64."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.eye(3, dtype=torch.float64)
    first, second = [i for i in range(3) if i != axis]
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def views(*cams: tuple[torch.Tensor, list[float]]) -> torch.Tensor:
    return torch.stack(
        [torch.cat([rotation, torch.tensor(t, dtype=torch.float64)[:, None]], 1) for rotation, t in cams]
    )


THREE = views((turned(0, 10), [0, 0, 0]), (turned(1, 25), [1, 0, 0.5]), (turned(2, -40), [0, 2, 1]))
INTRINSICS = torch.tensor([[100.0, 0, 56], [0, 100.0, 42], [0, 0, 1]], dtype=torch.float64).expand(3, 3, 3)


@pytest.mark.parametrize("metres_per_unit", [1.0, 0.07])
def test_perfect_cameras_of_any_scale_in_any_world_score_one(metres_per_unit):
    world_turn = turned(1, 70)
    shift = THREE[..., :3] @ torch.tensor([[3.0], [1], [2]]).double()
    moved = torch.cat([THREE[..., :3] @ world_turn, metres_per_unit * (THREE[..., 3:] + shift)], -1)
    code = geometry.encode_cameras(moved, INTRINSICS, 84, 112)
    found = cameras.camera_numbers(code, THREE, INTRINSICS, 84, 112)
    assert {name: found[name] for name in found if name != "fov_error"} == {
        f"pose_auc_{k}": 1.0 for k in (3, 5, 15, 30)
    }
    assert found["fov_error"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("degrees, expected", [(0.5, 1.0), (2.5, 1 / 3), (3.5, 0.0)])
def test_the_area_counts_every_degree_above_the_error(degrees, expected):
    """One of two cameras is turned by d degrees about its own centre: the share is 1 at those of 1, 2, 3 degrees that
    lie above d.
    """
    truth = views((turned(0, 0), [0, 0, 0]), (turned(0, 0), [1, 0, 0]))
    # t = -R c with the centre c = (-1, 0, 0); a turn about x leaves t, so only the rotation is wrong.
    predicted = views((turned(0, 0), [0, 0, 0]), (turned(0, degrees), [1, 0, 0]))
    assert cameras.pair_errors_deg(predicted, truth).tolist() == pytest.approx([degrees])
    assert cameras.area_under_recall(cameras.pair_errors_deg(predicted, truth), 3) == pytest.approx(expected)


def test_the_worse_of_rotation_and_direction_counts_and_the_sign_is_free():
    truth = views((turned(0, 0), [0, 0, 0]), (turned(0, 0), [1, 0, 0]))
    for direction, expected in (
        ([0.0, 1, 0], 90),
        ([-2.0, 0, 0], 0),
        ([1.0, math.tan(math.radians(20)), 0], 20),
        ([0.0, 0, 0], 90),
    ):
        predicted = views((turned(0, 0), [0, 0, 0]), (turned(0, 0), direction))
        assert cameras.pair_errors_deg(predicted, truth).tolist() == pytest.approx([expected], abs=1e-9)


def test_without_a_true_baseline_only_the_rotation_counts():
    truth = views((turned(0, 0), [0, 0, 0]), (turned(0, 30), [0, 0, 0]))
    predicted = views((turned(0, 0), [0, 0, 0]), (turned(0, 37), [0, 1, 0]))
    assert cameras.pair_errors_deg(predicted, truth).tolist() == pytest.approx([7])


def test_what_is_not_a_number_is_wrong():
    code = torch.zeros(3, 9)  # a quaternion of length 0
    assert cameras.camera_numbers(code, THREE, INTRINSICS, 84, 112)["pose_auc_30"] == 0


def test_a_single_view_has_a_field_of_view_and_no_pairs():
    code = geometry.encode_cameras(THREE[:1], INTRINSICS[:1], 84, 112)
    code[0, 7] += math.radians(4)
    found = cameras.camera_numbers(code, THREE[:1], INTRINSICS[:1], 84, 112)
    assert found["fov_error"] == pytest.approx(2) and math.isnan(found["pose_auc_30"])
