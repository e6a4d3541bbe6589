"""The loss by its formulas, written out; its golden cases are in tests/golden_vggt.py."""

import pytest
import torch

from lib.recipes.vggt_eth3d.losses import objective
from lib.recipes.vggt_eth3d.sections import LossConfig
from lib.scenes import geometry, losses


def maps(seed: int, channels: int = 1, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.rand(1, 2, height, width, channels, generator=torch.Generator().manual_seed(seed)) + 1


ALL = torch.ones(1, 2, 8, 8, dtype=torch.bool)
PLAIN = LossConfig(min_valid_px=1, valid_range=-1)


def test_without_error_only_the_confidence_is_rewarded():
    truth, confidence = maps(0), maps(1)[..., 0]
    found = losses.dense_loss(truth.clone(), confidence, truth, ALL, PLAIN, "grad")
    assert found["reg"] == 0 and found["grad"] == 0
    torch.testing.assert_close(found["conf"], -0.2 * confidence.log().mean())


def test_the_confidence_weighs_the_error():
    predicted, truth, confidence = maps(0), maps(1), maps(2)[..., 0]
    error = (predicted - truth).abs()[..., 0]
    found = losses.dense_loss(predicted, confidence, truth, ALL, PLAIN, "")
    torch.testing.assert_close(found["reg"], error.mean())
    torch.testing.assert_close(found["conf"], (error * confidence - 0.2 * confidence.log()).mean())
    assert found["grad"] == 0


def test_a_constant_offset_has_no_gradient_term_and_a_ramp_has():
    truth, confidence = maps(0), maps(1)[..., 0]
    assert losses.dense_loss(truth + 3, confidence, truth, ALL, PLAIN, "grad")["grad"] < 1e-6
    ramp = torch.arange(8.0)[None, None, None, :, None].expand(1, 2, 8, 8, 1)
    # Horizontal steps of s pixels: size s, h/s rows of w/s - 1 pairs, over (h/s)(w/s) pixels; at s = 8 one pixel is
    # left.
    expected = sum(step * (8 / step - 1) / (8 / step) for step in (1, 2, 4, 8)) / 4
    found = losses.dense_loss(truth + ramp, confidence, truth, ALL, PLAIN, "grad")["grad"]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_normals_ignore_scale_and_see_a_turn():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = torch.stack([columns, rows, torch.zeros_like(rows)], -1).expand(1, 2, 8, 8, 3)
    turned = torch.stack([columns, rows, columns], -1).expand(1, 2, 8, 8, 3)  # by 45 degrees
    confidence = maps(1)[..., 0]
    assert losses.dense_loss(2 * plane, confidence, plane, ALL, PLAIN, "normal")["grad"] < 1e-6
    found = losses.dense_loss(turned, confidence, plane, ALL, PLAIN, "normal")["grad"]
    # Two of the three scales have 10 valid corners and more in 2 frames of 8 x 8 and 4 x 4, the third (2 x 2) has 8.
    torch.testing.assert_close(found, torch.tensor((1 - 0.5**0.5) * 2 / 3))


def test_invalid_pixels_have_no_part_in_value_or_gradient():
    predicted, truth, confidence = maps(0).requires_grad_(), maps(1), maps(2)[..., 0]
    valid = ALL.clone()
    valid[:, :, 2:5] = False
    spoiled = torch.where(valid[..., None], truth, torch.tensor(torch.nan))
    found = losses.dense_loss(predicted, confidence, spoiled, valid, PLAIN, "grad")
    expected = losses.dense_loss(predicted, confidence, truth, valid, PLAIN, "grad")
    assert all(found[part] == expected[part] for part in found)
    sum(found.values()).backward()
    assert (predicted.grad[~valid] == 0).all() and (predicted.grad[valid] != 0).any()


@pytest.mark.parametrize("count, counted", [(9, False), (10, True)])
def test_too_few_valid_pixels_give_zero_that_keeps_the_graph(count, counted):
    predicted, confidence = maps(0).requires_grad_(), maps(2)[..., 0].requires_grad_()
    valid = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    valid.view(-1)[:count] = True
    found = losses.dense_loss(predicted, confidence, maps(1), valid, LossConfig(min_valid_px=10), "grad")
    sum(found.values()).backward()
    assert bool(found["reg"] > 0) is counted and bool((predicted.grad != 0).any()) is counted


def test_errors_are_limited_and_broken_numbers_count_zero():
    found = losses.tamed(torch.tensor([1.0, 500.0, -500.0, torch.nan, torch.inf, -torch.inf]))
    assert found.tolist() == [1, 100, -100, 0, 0, 0]


def test_the_quantile_filter_drops_the_largest_of_many_and_keeps_few_whole():
    many, few = torch.arange(2001.0), torch.arange(1000.0)
    # Rank 1801 is 1800, and only what lies below stays.
    assert losses.filtered_mean(many, 0.9) == torch.arange(1800.0).mean()
    assert losses.filtered_mean(few, 0.9) == few.mean()
    assert losses.filtered_mean(many, 0.4) == many.mean()  # 800 would be left, fewer than 1000
    assert losses.filtered_mean(many, -1) == many.mean()
    assert losses.filtered_mean(torch.ones(2001), 0.9) == 1


def codes(*errors: float) -> list[torch.Tensor]:
    return [torch.full((2, 3, 9), error) for error in errors]


def test_camera_iterations_weigh_by_their_decay_and_parts_by_their_weights():
    truth, everyone = torch.zeros(2, 3, 9), torch.tensor([True, True])
    found = losses.camera_loss(codes(1, 1, 1, 1), truth, everyone, PLAIN, 0.6)
    stages = (0.6**3 + 0.6**2 + 0.6 + 1) / 4  # 0.544
    for part in ("T", "R", "FL"):
        torch.testing.assert_close(found[part], torch.tensor(stages))
    torch.testing.assert_close(found["camera"], torch.tensor(stages * (1 + 1 + 0.5)))
    lengths = losses.camera_loss(codes(1), truth, everyone, LossConfig(camera_norm="l2"), 0.6)
    found = torch.stack([lengths["T"], lengths["R"], lengths["FL"]])
    torch.testing.assert_close(found, torch.tensor([3.0, 4.0, 2.0]).sqrt())


def test_samples_without_depth_in_the_reference_frame_do_not_count():
    code = codes(1.0)[0].clone()
    code[1] = 50
    code.requires_grad_()
    truth = torch.zeros(2, 3, 9)
    assert losses.camera_loss([code], truth, torch.tensor([True, False]), PLAIN, 0.6)["T"] == 1
    nothing = losses.camera_loss([code], truth, torch.tensor([False, False]), PLAIN, 0.6)["camera"]
    nothing.backward()
    assert nothing == 0 and (code.grad == 0).all()


def batch(scale: float = 1.0) -> dict[str, torch.Tensor]:
    depths = scale * (torch.rand(2, 3, 14, 28, generator=torch.Generator().manual_seed(0)) + 1)
    cameras = torch.eye(3, 4).repeat(2, 3, 1, 1)
    cameras[:, 1:, 0, 3] = 0.2 * scale
    intrinsics = torch.tensor([[20.0, 0, 14], [0, 20, 7], [0, 0, 1]]).expand(2, 3, 3, 3)
    return {
        "depths": depths,
        "valid": torch.ones(2, 3, 14, 28, dtype=torch.bool),
        "extrinsics": cameras,
        "intrinsics": intrinsics,
    }


def perfect(batch: dict[str, torch.Tensor]) -> dict[str, object]:
    truth = losses.scene(batch)
    code = geometry.encode_cameras(truth.cam_from_world, batch["intrinsics"], 14, 28)
    ones = torch.ones_like(truth.depths)
    dense = {
        "depth": truth.depths[..., None],
        "depth_conf": ones,
        "world_points": truth.world_points,
        "world_points_conf": ones,
    }
    return {"pose_enc_list": [code] * 4} | dense


def test_the_truth_scores_zero_in_whatever_unit_the_scene_is():
    for scale in (1.0, 40.0):
        total, parts = objective(perfect(batch(1.0)), batch(scale), LossConfig(point_weight=1.0))
        dense = {f"{part}_{name}" for part in ("conf", "reg", "grad") for name in ("depth", "point")}
        assert total < 1e-5 and set(parts) == {"objective", "camera", "T", "R", "FL"} | dense


def test_the_objective_is_the_weighted_sum_of_its_parts():
    predicted = perfect(batch())
    predicted["depth"] = predicted["depth"] * 1.3
    predicted["pose_enc_list"] = [code + 0.1 for code in predicted["pose_enc_list"]]
    total, parts = objective(predicted, batch(), LossConfig(camera_weight=2, depth_weight=5))
    dense = parts["conf_depth"] + parts["reg_depth"] + parts["grad_depth"]
    torch.testing.assert_close(total, 2 * parts["camera"] + 5 * dense)
    mean_depth = losses.filtered_mean(losses.scene(batch()).depths.flatten(), 0.99)
    torch.testing.assert_close(parts["reg_depth"], 0.3 * mean_depth)
    assert "camera" not in objective(predicted, batch(), LossConfig(camera_weight=0))[1]


def test_ground_truth_stays_exact_under_autocast():
    predicted = perfect(batch())
    with torch.autocast("cpu", torch.bfloat16):
        assert objective(predicted, batch(), LossConfig())[0] < 1e-6


def test_pixels_of_the_region_count_by_their_weight():
    batch_, predicted = batch(), perfect(batch())
    region = torch.zeros_like(batch_["valid"])
    region[:, :, :, :7] = True  # a quarter of the pixels
    truth = predicted["depth"]
    predicted["depth"] = truth + torch.where(region[..., None], 0.1, 0.02)
    keep_all = {"valid_range": -1, "depth_gradient": ""}
    for weight, expected in ((1.0, (0.1 + 3 * 0.02) / 4), (3.0, (3 * 0.1 + 3 * 0.02) / 6), (0.0, 0.02)):
        loss = LossConfig(region_weight=weight, **keep_all)
        _, parts = objective(predicted, batch_ | {"region": region}, loss)
        torch.testing.assert_close(parts["reg_depth"], torch.tensor(expected), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(parts["conf_depth"], parts["reg_depth"])  # the confidence is 1
    _, without = objective(predicted, batch_, LossConfig(region_weight=3.0, **keep_all))
    torch.testing.assert_close(without["reg_depth"], torch.tensor((0.1 + 3 * 0.02) / 4), rtol=1e-4, atol=1e-6)


def test_a_batch_that_is_all_region_of_weight_zero_gives_zero_that_keeps_the_graph():
    predicted, batch_ = perfect(batch()), batch()
    predicted["depth"] = (predicted["depth"] + 1).requires_grad_()
    loss = LossConfig(region_weight=0.0, depth_gradient="")
    total, parts = objective(predicted, batch_ | {"region": batch_["valid"]}, loss)
    total.backward()
    assert parts["reg_depth"] == 0 and (predicted["depth"].grad == 0).all()


def test_the_filter_drops_weighted_values_with_their_weights():
    many = torch.arange(2001.0)
    counts = torch.where(many < 900, 2.0, 1.0)
    kept, times = many[:1800], counts[:1800]
    torch.testing.assert_close(losses.filtered_mean(many, 0.9, counts), (kept * times).sum() / times.sum())
