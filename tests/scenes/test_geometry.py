"""Round trips and worked numbers; the golden cases are in tests/golden_vggt.py. Rotations come from scipy."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from lib.scenes import geometry


def rotations(count: int = 50) -> torch.Tensor:
    return torch.tensor(Rotation.random(count, random_state=0).as_matrix())


def cameras(batch: int = 2, frames: int = 3) -> torch.Tensor:
    rotation = rotations(batch * frames).view(batch, frames, 3, 3)
    generator = torch.Generator().manual_seed(1)
    return torch.cat([rotation, torch.randn(batch, frames, 3, 1, dtype=torch.float64, generator=generator)], -1)


def test_quaternions_agree_with_scipy_and_have_positive_w():
    matrices = rotations()
    expected = torch.tensor(Rotation.from_matrix(matrices.numpy()).as_quat(canonical=True))
    torch.testing.assert_close(geometry.quaternion_from_rotation(matrices), expected)
    torch.testing.assert_close(geometry.rotation_from_quaternion(3 * expected), matrices)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -2, 3]])
@pytest.mark.parametrize("angle", [0.0, 1e-4, math.pi - 1e-3, math.pi])
def test_quaternions_are_stable_at_small_and_half_turns(axis, angle):
    vector = angle * torch.tensor(axis, dtype=torch.float64) / torch.tensor(axis, dtype=torch.float64).norm()
    matrix = torch.tensor(Rotation.from_rotvec(vector.numpy()).as_matrix()).float()
    quaternion = geometry.quaternion_from_rotation(matrix)
    assert quaternion.norm() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(geometry.rotation_from_quaternion(quaternion), matrix, rtol=0, atol=2e-6)


def test_the_pose_code_is_translation_quaternion_and_vertical_before_horizontal_view():
    cam_from_world = torch.cat([torch.eye(3), torch.tensor([[1.0], [2.0], [3.0]])], 1)
    intrinsics = torch.tensor([[100.0, 0, 40], [0, 50.0, 20], [0, 0, 1]])
    code = geometry.encode_cameras(cam_from_world, intrinsics, height_px=100, width_px=200)
    torch.testing.assert_close(code, torch.tensor([1.0, 2, 3, 0, 0, 0, 1, math.pi / 2, math.pi / 2]))
    decoded, centred = geometry.decode_cameras(code, 100, 200)
    torch.testing.assert_close(decoded, cam_from_world)
    # The code holds no principal point.
    torch.testing.assert_close(centred, torch.tensor([[100.0, 0, 100], [0, 50.0, 50], [0, 0, 1]]))


def test_unprojected_depth_projects_onto_its_pixels():
    depth = torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    intrinsics = torch.tensor([[6.0, 0, 3.2], [0, 5.0, 2.1], [0, 0, 1]], dtype=torch.float64).expand(2, 3, 3, 3)
    points = geometry.world_points_from_depth(depth, cameras(), intrinsics)
    pixels, in_camera = geometry.project(points.flatten(2, 3), cameras(), intrinsics)
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    expected = torch.stack([columns, rows], -1).flatten(0, 1).double().expand(2, 3, -1, -1)
    torch.testing.assert_close(pixels, expected)
    torch.testing.assert_close(in_camera[..., 2], depth.flatten(2))


def test_the_inverse_of_a_camera_undoes_it():
    points = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    back = geometry.transform(geometry.inverse(cameras()), geometry.transform(cameras(), points))
    torch.testing.assert_close(back, points)


@pytest.mark.parametrize(
    "depth, there", [(1.0, True), (1e-7, True), (0.0, False), (-1.0, False), (math.inf, False), (math.nan, False)]
)
def test_depth_is_known_where_it_is_positive_and_finite(depth, there):
    assert geometry.known(torch.tensor(depth)).item() is there


def scene(scale: float = 1.0, valid: torch.Tensor | None = None) -> geometry.Scene:
    generator = torch.Generator().manual_seed(0)
    depth = scale * (torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=generator) + 1)
    intrinsics = torch.tensor([[6.0, 0, 3.2], [0, 5.0, 2.1], [0, 0, 1]], dtype=torch.float64).expand(2, 3, 3, 3)
    poses = cameras()
    poses = torch.cat([poses[..., :3], scale * poses[..., 3:]], -1)
    valid = torch.rand(2, 3, 5, 7, generator=generator) < 0.5 if valid is None else valid
    cam_points = geometry.cam_points_from_depth(depth, intrinsics)
    world_points = geometry.world_points_from_depth(depth, poses, intrinsics)
    return geometry.normalise_scene(poses, world_points, cam_points, depth, valid)


def test_a_normalised_scene_starts_at_camera_zero_with_mean_distance_one():
    valid = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(3)) < 0.5
    found = scene(valid=valid)
    torch.testing.assert_close(found.cam_from_world[:, 0], torch.eye(3, 4, dtype=torch.float64).expand(2, 3, 4))
    for i in range(2):
        assert found.world_points[i][valid[i]].norm(dim=-1).mean().item() == pytest.approx(1)


def test_a_normalised_scene_does_not_depend_on_its_unit():
    one, other = scene(), scene(37.5)
    for name in ("cam_from_world", "world_points", "cam_points", "depths"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    torch.testing.assert_close(other.scale, 37.5 * one.scale)


def test_points_and_cameras_of_a_normalised_scene_agree():
    found = scene()
    in_camera = geometry.transform(found.cam_from_world, found.world_points.flatten(2, 3))
    torch.testing.assert_close(in_camera.view(found.cam_points.shape), found.cam_points)


@pytest.mark.parametrize("unit", [1e-7, 1e7])
def test_a_scene_in_any_unit_is_the_same_scene(unit):
    one, other = scene(), scene(unit)
    torch.testing.assert_close(other.depths, one.depths)
    torch.testing.assert_close(other.scale, unit * one.scale)


def test_a_scene_without_valid_points_keeps_its_scale_and_bad_numbers_outside_do_not_count():
    assert scene(valid=torch.zeros(2, 3, 5, 7, dtype=torch.bool)).scale.tolist() == [1, 1]
    points = torch.full((1, 1, 1, 2, 3), torch.nan)
    points[0, 0, 0, 0] = torch.tensor([0.0, 3.0, 4.0])
    valid = torch.tensor([[[[True, False]]]])
    found = geometry.normalise_scene(torch.eye(3, 4)[None, None], points, points, points[..., 2], valid)
    assert found.scale.item() == 5


@pytest.mark.parametrize("planar", [False, True])
def test_umeyama_recovers_a_similarity(planar):
    source = torch.randn(4, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if planar:
        source[..., 2] = 0
    rotation, shift = rotations(4), torch.randn(4, 3, dtype=torch.float64)
    scale = torch.tensor([0.1, 1.0, 2.0, 30.0], dtype=torch.float64)
    target = scale[:, None, None] * source @ rotation.mT + shift[:, None]
    for found, expected in zip(geometry.umeyama(source, target), (scale, rotation, shift), strict=True):
        torch.testing.assert_close(found, expected)


def test_umeyama_never_mirrors_and_refuses_a_single_point():
    source = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, rotation, _ = geometry.umeyama(source, source * torch.tensor([-1.0, 1, 1]))
    assert torch.linalg.det(rotation).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="coincide"):
        geometry.umeyama(torch.ones(5, 3), torch.rand(5, 3))
