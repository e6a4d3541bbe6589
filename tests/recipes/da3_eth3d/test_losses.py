"""The loss: perfect answers cost nothing, rays are those of the cameras, and a confidence has an end."""

import math

import torch

from lib.recipes.da3_eth3d import losses, ray_pose
from lib.recipes.da3_eth3d.codes import published_code
from lib.recipes.da3_eth3d.sections import LossConfig
from lib.scenes import geometry
from lib.scenes import losses as common

SIZE_PX = (28, 42)


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Two views of a wavy wall; the first camera is the world."""
    torch.manual_seed(seed)
    depths = 4 + torch.rand(1, 2, *SIZE_PX)
    poses = torch.eye(3, 4).repeat(1, 2, 1, 1)
    poses[0, 1, 0, 3] = 0.5
    turn = torch.tensor([[math.cos(0.2), 0, math.sin(0.2)], [0, 1, 0], [-math.sin(0.2), 0, math.cos(0.2)]])
    poses[0, 1, :, :3] = turn
    k = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]]).expand(1, 2, 3, 3)
    return {"depths": depths, "valid": torch.ones_like(depths, dtype=torch.bool), "extrinsics": poses, "intrinsics": k}


def perfect(given: dict[str, torch.Tensor], grid=(16, 24)) -> dict[str, torch.Tensor]:
    truth = common.scene(given)
    return {
        "depth": truth.depths[..., None], "depth_conf": torch.ones_like(truth.depths),
        "pose_code": published_code(truth.cam_from_world, given["intrinsics"], *SIZE_PX),
        "ray": losses.true_rays(truth.cam_from_world, given["intrinsics"], grid, SIZE_PX),
    }  # fmt: skip


def test_a_perfect_answer_costs_nothing():
    total, parts = losses.objective(perfect(batch()), batch(), LossConfig(ray_weight=1.0))
    assert total.abs() < 0.011 and parts["reg_depth"] == parts["grad_depth"] == 0  # the confidence's LEAST_ERROR
    assert parts["camera"] < 1e-6 and parts["l1_ray"] < 1e-6


def test_true_rays_give_the_cameras_back():
    given = batch()
    truth, rays = common.scene(given), perfect(given)["ray"]
    found = ray_pose.cameras(rays, torch.ones(rays.shape[:-1]), *SIZE_PX)
    torch.testing.assert_close(found.cam_from_world, truth.cam_from_world, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.intrinsics, given["intrinsics"], atol=0.05, rtol=1e-3)


def test_a_ray_goes_through_the_middle_of_its_cell_and_has_z_of_1_in_the_camera():
    given = batch()
    rays = losses.true_rays(given["extrinsics"], given["intrinsics"], SIZE_PX, SIZE_PX)
    in_camera = rays[0, 1, ..., :3] @ given["extrinsics"][0, 1, :, :3].mT
    torch.testing.assert_close(in_camera[..., 2], torch.ones(SIZE_PX))
    torch.testing.assert_close(in_camera[3, 5, :2], torch.tensor([(5.5 - 21) / 40, (3.5 - 14) / 40]))
    centre = geometry.inverse(given["extrinsics"])[0, 1, :, 3]
    torch.testing.assert_close(rays[0, 1, 7, 9, 3:], centre)


def test_without_depth_in_the_reference_the_ray_term_keeps_the_graph_and_counts_nothing():
    given = batch()
    given["valid"][:, 0] = False
    ray = perfect(given)["ray"].clone().requires_grad_()
    _, parts = losses.objective(perfect(given) | {"ray": ray}, given, LossConfig(ray_weight=1.0))
    assert parts["l1_ray"] == 0 and parts["l1_ray"].requires_grad


def learned_by_heart(confidence: str, steps: int = 200) -> tuple[float, float]:
    """One scene, whose depth and confidence are free numbers: the last loss, and the largest confidence.

    The rate falls to 0, so that the error does: at a fixed one it stays as large as a step.
    """
    given = batch()
    truth = perfect(given)
    raw = torch.zeros(2, 1, 2, *SIZE_PX, requires_grad=True)
    optimiser = torch.optim.Adam([raw], lr=0.1)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, steps)
    for _ in range(steps):
        depth, sure = raw[0].exp(), 1 + raw[1].exp()
        answer = truth | {"depth": depth[..., None], "depth_conf": sure}
        loss, parts = losses.objective(answer, given, LossConfig(confidence=confidence, camera_weight=0.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return parts["conf_depth"].item(), sure.max().item()


def test_one_scene_learned_by_heart_does_not_run_away():
    end = 0.2 / common.LEAST_ERROR
    floor = 0.2 - 0.2 * math.log(end)  # the term's smallest value where the error is LEAST_ERROR
    conf, sure = learned_by_heart("detached")
    assert conf >= floor - 1e-3 and sure <= 1.1 * end
    published, free = learned_by_heart("trained")
    assert published < floor and free > 1.5 * end  # what the published term does meanwhile


def test_a_frozen_confidence_has_no_term_and_no_gradient():
    answer = perfect(batch())
    answer["depth_conf"] = (answer["depth_conf"] + 1).requires_grad_()
    loss, parts = losses.objective(answer, batch(), LossConfig(confidence="frozen", ray_weight=1.0))
    assert parts["conf_depth"] == 0
    assert not loss.requires_grad or not torch.autograd.grad(loss, answer["depth_conf"], allow_unused=True)[0].any()


def test_a_detached_confidence_moves_no_depth():
    answer = perfect(batch())
    depth = (answer["depth"] + 0.3).requires_grad_()
    found = common.dense_loss(
        depth, 5 * torch.ones(1, 2, *SIZE_PX), answer["depth"].detach(), batch()["valid"], LossConfig(), ""
    )
    assert not found["conf"].requires_grad and found["reg"].requires_grad
