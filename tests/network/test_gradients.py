"""Schedule, averaging and gradient arithmetic against formulas written out here."""

import math

import pytest
import torch

from lib.core.records import Group
from lib.network import gradients
from lib.network.gradients import FLOAT64_LIMIT, GradientSum, average_decay, clip, learning_rate, optimiser


def parameters(*shapes):
    torch.manual_seed(0)
    return {f"p{i}": torch.nn.Parameter(torch.randn(shape)) for i, shape in enumerate(shapes)}


def test_warm_up_is_linear_and_the_cosine_ends_at_the_floor():
    rates = [learning_rate(1e-3, 1e-2, step, 100, 0.1) for step in range(100)]
    assert rates[4] == pytest.approx(1e-5 + (1e-3 - 1e-5) * 5 / 10)
    assert rates[9] == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert max(rates) <= 1e-3 and 1e-5 < rates[99] < 1.1e-5 + 1e-6
    assert learning_rate(1e-3, 1e-2, 0, 1, 0.1) == pytest.approx(1e-3)  # a stage of one step has no warm-up


def test_the_floor_is_a_ratio_so_that_a_small_rate_still_has_a_schedule():
    rates = [learning_rate(1e-6, 0.01, step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(1e-8 + (1e-6 - 1e-8) / 10) and max(rates) == pytest.approx(1e-6)
    assert rates[99] < 2e-8
    assert {learning_rate(1e-4, 1.0, step, 100, 0.1) for step in range(100)} == {1e-4}


def test_the_average_warms_up():
    assert average_decay(0.999, 0) == pytest.approx(1 / 10)
    assert average_decay(0.999, 89) == pytest.approx(90 / 99)
    assert average_decay(0.999, 10**6) == 0.999


def test_clip_scales_to_the_limit_over_all_tensors_and_reports_the_norm_before():
    tensors = list(parameters((3,), (4, 2)).values())
    for p in tensors:
        p.grad = torch.ones_like(p) * 2
    assert clip(tensors, 1.0) == pytest.approx(math.sqrt(11 * 4))
    assert math.sqrt(sum(float(p.grad.square().sum()) for p in tensors)) == pytest.approx(1.0, rel=1e-5)
    assert clip(tensors, 0) == pytest.approx(1.0, rel=1e-5)  # 0 = measure only


def test_the_buffer_adds_micro_batches_and_gives_them_back():
    tensors = parameters((3,), (2, 2))
    sums = GradientSum(tensors)
    for factor in (1.0, 2.0):
        tensors["p0"].grad = torch.full((3,), factor)
        tensors["p1"].grad = None  # not used in this micro-batch
        sums.collect()
    sums.give_back()
    assert tensors["p0"].grad.tolist() == [3, 3, 3] and tensors["p1"].grad.tolist() == [[0, 0], [0, 0]]
    assert sums.finite()
    tensors["p1"].grad = torch.tensor([[1.0, float("inf")], [0, 0]])
    sums.collect()
    assert not sums.finite()
    sums.clear()
    assert sums.finite() and not sums.flat.any()


def test_adamw_decays_weights_and_adam_does_not_decouple():
    """One step from p with gradient g: AdamW takes p - lr*wd*p - lr*sign(g) (Loshchilov & Hutter 2019, at step 1)."""
    for kind, wanted in (("adamw", 1.0 - 0.1 * 0.5 * 1.0 - 0.1), ("adam", 1.0 - 0.1)):
        p = torch.nn.Parameter(torch.ones(1))
        p.grad = torch.full((1,), 3.0)
        chosen = optimiser(Group("g", "p", 0.1, 0.5 if kind == "adamw" else 0.0, kind), [p])
        chosen.step()
        assert p.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("limit", [FLOAT64_LIMIT, 0])  # all gradients in one copy, or one by one
def test_the_norm_is_summed_in_float64_in_the_order_of_the_tensors(limit, monkeypatch):
    monkeypatch.setattr(gradients, "FLOAT64_LIMIT", limit)
    tensors = list(parameters((300, 7), (5,), (1,), (2, 3, 4, 5)).values())
    total = 0.0
    for number, p in enumerate(tensors):
        p.grad = torch.randn_like(p) * 10.0**number
        total = total + float(p.grad.double().square().sum())
    assert clip(tensors, 0) == math.sqrt(total)


def test_gradients_come_back_in_the_precision_of_their_tensors():
    tensors = parameters((3,), (2, 2))
    tensors["p1"] = torch.nn.Parameter(tensors["p1"].detach().bfloat16())
    sums = GradientSum(tensors)
    for p in tensors.values():
        p.grad = torch.full_like(p, 1 + 2**-7)
    sums.collect()
    sums.give_back()
    for p in tensors.values():
        assert (
            p.grad.dtype == p.dtype and p.grad.shape == p.shape and torch.equal(p.grad, torch.full_like(p, 1 + 2**-7))
        )


def test_one_kernel_moves_tensors_as_many_operations_do(monkeypatch):
    made = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(gradients, "FUSED", devices)
        tensors = [torch.nn.Parameter(torch.linspace(-1, 1, size)) for size in (5, 7)]
        chosen = gradients.optimiser(Group("all", ".*", 1e-2, weight_decay=0.1), tensors)
        assert [bool(group.get("fused")) for group in chosen.param_groups] == [bool(devices)]
        for step in range(3):
            for tensor in tensors:
                tensor.grad = tensor.detach().sin() + step
            chosen.step()
        made.append(torch.cat([tensor.detach() for tensor in tensors]))
    torch.testing.assert_close(*made, rtol=1e-6, atol=1e-7)
