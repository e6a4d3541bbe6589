"""Codes, reference views, known cameras and cameras from rays."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lib.core.errors import Stop
from lib.recipes.da3_eth3d import codes, known_cameras, ray_pose, reference
from lib.scenes import geometry, similarity
from tests.recipes.da3_eth3d.networks import cameras

HEIGHT_PX, WIDTH_PX = 70, 98


# ---------------------------------------------------------------------------------------------- codes


def test_the_published_code_is_the_camera_in_the_world_with_x_y_z_w_and_the_vertical_view_first():
    cam_from_world, intrinsics = cameras()
    code = codes.published_code(cam_from_world, intrinsics, 42, 56)[0, 1].double().numpy()
    pose = geometry.inverse(cam_from_world)[0, 1].double().numpy()
    turn = Rotation.from_matrix(pose[:, :3]).as_quat(canonical=True)
    np.testing.assert_allclose(code[:3], pose[:, 3], atol=1e-6)
    np.testing.assert_allclose(code[3:7], turn, atol=1e-6)
    np.testing.assert_allclose(code[7:], [2 * np.arctan(21 / 45), 2 * np.arctan(28 / 50)], atol=1e-6)


def test_both_codes_are_the_same_cameras_and_a_quaternion_may_have_any_length():
    cam_from_world, intrinsics = cameras(precision=torch.float64)
    code = codes.published_code(cam_from_world, intrinsics, 42, 56)
    code[..., 3:7] *= 3
    found = geometry.decode_cameras(codes.scenes_code(code), 42, 56)
    torch.testing.assert_close(found[0], cam_from_world)
    assert (found[1][..., [0, 1], [0, 1]] - intrinsics[..., [0, 1], [0, 1]]).abs().max() < 1e-9


@pytest.mark.parametrize("field", [0.0, 3.5])
def test_a_field_of_view_of_nothing_or_beyond_180_degrees_has_the_published_focal_length(field):
    code = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, field, field], dtype=torch.float64)
    _, intrinsics = geometry.decode_cameras(codes.scenes_code(code), 42, 56)
    torch.testing.assert_close(intrinsics[[0, 1], [0, 1]], torch.tensor([28e6, 21e6], dtype=torch.float64))


def test_a_loss_on_the_scenes_code_reaches_every_number_of_the_published_one():
    code = torch.tensor([0.3, 0.2, 1.0, 0.1, 0.2, 0.3, 0.9, 1.0, 1.2], requires_grad=True)
    (codes.scenes_code(code) * torch.arange(1.0, 10)).sum().backward()
    assert (code.grad != 0).all()


# ---------------------------------------------------------------------------------------------- reference views


def test_the_first_the_middle_and_the_most_average_view():
    tokens = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    assert reference.chosen("first", tokens).tolist() == [0] and reference.chosen("middle", tokens).tolist() == [2]
    unit = tokens[0] / tokens[0].norm(dim=-1, keepdim=True)
    alike = (unit @ unit.T).fill_diagonal_(0).sum(-1) / 4
    numbers = [alike, tokens[0].norm(dim=-1), unit.var(-1)]
    score = sum(((one - one.min()) / (one.max() - one.min()) - 0.5).abs() for one in numbers)
    assert reference.chosen("saddle_balanced", tokens).tolist() == [int(score.argmin())]


def test_of_views_that_are_equally_alike_the_first_is_taken_whatever_rounding_says():
    tokens = torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1)
    noise = 1e-7 * torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1))
    assert reference.chosen("saddle_sim_range", tokens + noise).tolist() == [0] * 4


@pytest.mark.parametrize("strategy", reference.STRATEGIES)
def test_one_view_is_its_own_reference(strategy):
    assert reference.chosen(strategy, torch.ones(2, 1, 8)).tolist() == [0, 0]


def test_an_order_can_be_undone():
    order = reference.reference_first(torch.tensor([2, 0]), 4)
    assert order.tolist() == [[2, 0, 1, 3], [0, 1, 2, 3]]
    values = torch.randn(2, 4, 3, 5)
    assert torch.equal(reference.reordered(reference.reordered(values, order), order.argsort(-1)), values)


# ---------------------------------------------------------------------------------------------- known cameras


def known(views: int) -> torch.Tensor:
    """Cameras (s, 3, 4), from world."""
    return cameras(views, precision=torch.float64)[0][0]


def similar(given: torch.Tensor, scale: float, seed: int = 5) -> torch.Tensor:
    """The cameras (s, 3, 4) in a turned, moved world whose unit is 1 / scale."""
    turn = torch.tensor(Rotation.random(random_state=seed).as_matrix())
    poses = geometry.inverse(given)
    centres = scale * poses[..., 3] @ turn.mT + torch.tensor([1.0, -2, 3], dtype=torch.float64)
    return geometry.inverse(torch.cat([turn @ poses[..., :3], centres[..., None]], -1))


def on_line(views: int) -> torch.Tensor:
    given = known(views)
    centres = torch.arange(views, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    return torch.cat([given[..., :3], -(given[..., :3] @ centres[..., None])], -1)


@pytest.mark.parametrize("given", [known(6), known(12), on_line(2), on_line(5)])
def test_the_similarity_of_known_and_predicted_cameras_is_found_also_for_two_views(given):
    predicted = similar(given, 0.25)
    found = similarity.of_cameras(given, predicted)
    assert abs(float(found.scale) - 0.25) < 1e-9
    torch.testing.assert_close(similarity.moved(given, found), predicted, rtol=0, atol=1e-8)


def test_of_ten_views_or_more_a_bad_one_does_not_count():
    given = known(12)
    predicted = similar(given, 2.0)
    bad = predicted.clone()
    bad[3, :, 3] += 4
    assert abs(float(similarity.of_cameras(given, bad).scale) - 2) < 1e-6
    assert abs(float(similarity.of_cameras(given[:9], bad[:9]).scale) - 2) > 1e-3


@pytest.mark.parametrize("given", [on_line(3)[:1], on_line(3)[:1].expand(4, -1, -1)])
def test_one_view_or_one_place_has_no_unit(given):
    with pytest.raises(Stop, match="the unit of depth cannot be told"):
        similarity.of_cameras(given, given)


def test_known_cameras_are_seen_from_view_0_in_units_of_the_lower_median_distance():
    given = on_line(4)[None]
    found = known_cameras.normalised(given)
    torch.testing.assert_close(found[0, 0], torch.eye(3, 4, dtype=torch.float64))
    distances = geometry.inverse(found)[0, :, :, 3].norm(dim=-1)
    torch.testing.assert_close(distances, torch.tensor([0.0, 1, 2, 3], dtype=torch.float64))  # of 0, d, 2d, 3d: d
    near = on_line(4)[None].clone()
    near[..., 3] *= 1e-3
    assert geometry.inverse(known_cameras.normalised(near))[0, :, :, 3].norm(dim=-1).max() < 0.04


def test_cameras_of_some_views_only_are_refused():
    known_cameras.refuse_some(0, 4), known_cameras.refuse_some(4, 4)
    with pytest.raises(Stop, match="known for 3 of 4 views"):
        known_cameras.refuse_some(3, 4)


# ---------------------------------------------------------------------------------------------- rays


def rays(intrinsics: torch.Tensor, rows: int = 40, columns: int = 56) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays (1, 2, rows, columns, 6) of two cameras of these intrinsics, and their cameras from world."""
    poses = geometry.inverse(known(2))
    x, y = ((torch.arange(n).double() + 0.5) / n * side for n, side in ((columns, WIDTH_PX), (rows, HEIGHT_PX)))
    pixels = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(rows, columns)], -1)
    direction = pixels @ (poses[:, None, :, :3] @ torch.linalg.inv(intrinsics)).mT
    return torch.cat([direction, poses[:, None, None, :, 3].expand_as(direction)], -1)[None], geometry.inverse(poses)


CENTRED = torch.tensor([[90.0, 0, 49], [0, 80, 35], [0, 0, 1]], dtype=torch.float64)
OFF_CENTRE = torch.tensor([[90.0, 0, 57], [0, 80, 30], [0, 0, 1]], dtype=torch.float64)


@pytest.mark.parametrize("intrinsics", [CENTRED, OFF_CENTRE])
def test_perfect_rays_give_their_cameras_wherever_the_principal_point_is(intrinsics):
    given, truth = rays(intrinsics)
    found = ray_pose.cameras(given, torch.ones(given.shape[:-1]), HEIGHT_PX, WIDTH_PX)
    torch.testing.assert_close(found.cam_from_world[0], truth, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.intrinsics[0], intrinsics.expand(2, 3, 3), rtol=0, atol=1e-5)


def test_a_fifth_of_wild_rays_and_rays_beside_the_plane_do_not_count_and_nothing_given_is_changed():
    given, truth = rays(OFF_CENTRE)
    generator = torch.Generator().manual_seed(0)
    confidence = 1 + torch.rand(given.shape[:-1], generator=generator)
    wild = torch.rand(given.shape[:-1], generator=generator) < 0.2
    given[wild] = torch.randn(int(wild.sum()), 6, generator=generator).double()
    given[wild, 3:] = geometry.inverse(truth)[0, :, 3]
    given[0, 0, 0, 0, 2] = 0
    before = given.clone(), confidence.clone()
    found = ray_pose.cameras(given, confidence, HEIGHT_PX, WIDTH_PX)
    torch.testing.assert_close(found.cam_from_world[0, 0], truth[0], rtol=0, atol=1e-5)
    assert torch.equal(given, before[0]) and torch.equal(confidence, before[1])


def test_a_seed_gives_the_same_cameras_again():
    given, _ = rays(CENTRED)
    given = given + 0.05 * torch.randn(given.shape, generator=torch.Generator().manual_seed(0))
    sure = torch.ones(given.shape[:-1])
    one, again = (ray_pose.cameras(given, sure, HEIGHT_PX, WIDTH_PX, seed=3) for _ in range(2))
    assert torch.equal(ray_pose.drawn(600, 3), ray_pose.drawn(600, 3))
    # LAPACK's last bits depend on where its memory lies, so the cameras are not compared bit by bit.
    torch.testing.assert_close(one.cam_from_world, again.cam_from_world, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.intrinsics, again.intrinsics, rtol=1e-6, atol=0)
    assert not torch.equal(ray_pose.drawn(600, 3), ray_pose.drawn(600, 4))


@pytest.mark.parametrize("harm", ["nan", "one direction", "no confidence"])
def test_rays_that_no_camera_fits_are_refused(harm):
    given, _ = rays(CENTRED)
    confidence = torch.ones(given.shape[:-1])
    if harm == "nan":
        given[0, 1] = torch.nan
    elif harm == "one direction":
        given[0, 1, ..., :3] = given[0, 1, 0, 0, :3].clone()
    else:
        confidence[0, 1] = 0
    with pytest.raises(Stop, match="no camera fits the rays of view 1"):
        ray_pose.cameras(given, confidence, HEIGHT_PX, WIDTH_PX)


def test_three_rays_that_agree_are_no_camera(monkeypatch):
    """Any three have a homography that fits them exactly."""
    given, _ = rays(CENTRED)
    agree = torch.zeros(given[0, 0, ..., 0].numel(), dtype=torch.bool)
    agree[[0, 7, -1]] = True
    monkeypatch.setattr(ray_pose, "supported", lambda *given: agree)
    with pytest.raises(Stop, match="no camera fits the rays of view 0"):
        ray_pose.cameras(given, torch.ones(given.shape[:-1]), HEIGHT_PX, WIDTH_PX)
