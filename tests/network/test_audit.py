"""The first-step audit: each fault is put in, and each must stop the run."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib.core.errors import Stop
from lib.core.records import Group, LoraSpec, Objective, Parts, Row
from lib.network import adapters, audit
from lib.network.gradients import GradientSum

OBJECTIVE = Objective("fit", lambda *a: None, (Group("all", r".*", 1e-3),))


class Blocks(nn.Module):
    def __init__(self, reentrant=None):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 4), reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.second(self.first(x))
        return self.second(checkpoint(self.first, x, use_reentrant=self.reentrant))


def adapted(module, *targets, **peft):
    torch.manual_seed(3)
    parts = Parts({"net": module}, {"net": LoraSpec(targets, 2, 4.0, peft=peft)})
    adapters.attach(parts)
    return parts


def after_backward(parts, loss):
    sums = GradientSum(adapters.trainable(parts))
    loss.backward()
    sums.collect()
    audit.after_backward(OBJECTIVE, sums, parts)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_reentrant_checkpointing_over_a_frozen_input_is_caught():
    """The classic: activations are recomputed without gradients because the block's input needs none."""
    x = torch.randn(5, 4)
    for reentrant in (None, False):
        parts = adapted(Blocks(reentrant), "first", "second")
        after_backward(parts, parts.modules["net"](x).sum())
    parts = adapted(Blocks(reentrant=True), "first", "second")
    with pytest.raises(Stop, match=r"net\.first\.lora_B\.weight gets no gradient"):
        after_backward(parts, parts.modules["net"](x).sum())


def test_an_adapter_behind_the_loss_is_caught():
    parts = adapted(Blocks(), "first", "second")
    with pytest.raises(Stop, match=r"net\.second\.lora_B\.weight gets no gradient"):
        after_backward(parts, parts.modules["net"].first(torch.randn(5, 4)).sum())


def test_an_adapter_that_is_no_identity_at_the_start_is_caught():
    parts = adapted(Blocks(), "first")
    sums = GradientSum(adapters.trainable(parts))
    parts.modules["net"](torch.randn(5, 4)).sum().backward()
    for name, tensor in sums.tensors.items():
        if ".lora_A." in name:
            tensor.grad = torch.ones_like(tensor)
    sums.collect()
    with pytest.raises(Stop, match="has a gradient although its B is zero"):
        audit.after_backward(OBJECTIVE, sums, parts)


def test_a_first_gradient_that_is_not_finite_names_its_tensor():
    parts = adapted(Blocks(), "second")
    with pytest.raises(Stop, match=r"the first gradient of net\.second\.lora_[AB]\.weight is not finite"):
        after_backward(parts, parts.modules["net"](torch.randn(5, 4)).sum() * float("inf"))


def test_other_starts_of_peft_are_not_held_to_a_zero_gradient_of_a():
    parts = adapted(Blocks(), "first", init_lora_weights="gaussian")
    assert not audit.default_start(parts) and audit.default_start(adapted(Blocks(), "first"))


@pytest.mark.parametrize("groups, said", [
    (["nothing"], "the group fit/g0 matches no trained tensor"),
    ([r"net\..*", r"net\.first\..*"], r"net\.first\.lora_A\.weight is in the groups fit/g0 and fit/g1"),
    ([r"net\.first\..*"], r"2 trained tensors in no optimiser group, e\.g\. net\.second\.lora_A\.weight"),
])  # fmt: skip
def test_every_trained_tensor_is_in_exactly_one_group(groups, said):
    import re

    tensors, taken = adapters.trainable(adapted(Blocks(), "first", "second")), {}
    with pytest.raises(Stop, match=said):
        for i, pattern in enumerate(groups):
            names = [name for name in tensors if re.fullmatch(pattern, name)]
            audit.refuse_bad_group(OBJECTIVE, Group(f"g{i}", pattern, 1e-3), names, taken)
            taken |= dict.fromkeys(names, f"fit/g{i}")
        audit.refuse_orphans(tensors, taken)


def test_running_statistics_that_move_are_caught_unless_declared():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    parts = adapted(module, "0")
    before = audit.frozen_checksums(parts)
    adapters.set_mode(parts, training=True)
    module(torch.randn(8, 4))
    audit.refuse_moved(before, audit.frozen_checksums(parts))  # set_mode kept the frozen norm in evaluation mode
    module.train()
    module(torch.randn(8, 4))
    moved = r"the first step moved 3 frozen tensors \(or running statistics\), e\.g\. net\.1\.running_mean"
    with pytest.raises(Stop, match=moved):
        audit.refuse_moved(before, audit.frozen_checksums(parts))
    parts.buffers = (r"net\.1\..*",)
    before = audit.frozen_checksums(parts)
    module(torch.randn(8, 4))
    audit.refuse_moved(before, audit.frozen_checksums(parts))


def test_a_frozen_weight_that_moves_by_one_bit_is_caught():
    parts = adapted(Blocks(), "first")
    before = audit.frozen_checksums(parts)
    with torch.no_grad():
        weight = parts.modules["net"].second.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    with pytest.raises(Stop, match=r"1 frozen tensor .* net\.second\.weight"):
        audit.refuse_moved(before, audit.frozen_checksums(parts))


def test_an_output_that_moved_by_attaching_is_caught():
    rows = [Row("s1", "g", {"error": 1.0})]
    audit.refuse_other_output(rows, [Row("s1", "g", {"error": 1.0 + 1e-6})])
    with pytest.raises(Stop, match=r"adapters moved error of s1 from 1 to 1\.001: the base was changed"):
        audit.refuse_other_output(rows, [Row("s1", "g", {"error": 1.001})])
    for before, after in ((1.0, float("nan")), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(Stop, match="the base was changed"):
            audit.refuse_other_output([Row("s1", "g", {"error": before})], [Row("s1", "g", {"error": after})])
    undefined = [Row("s1", "g", {"error": float("nan"), "distance": float("inf")})]
    audit.refuse_other_output(undefined, undefined)
