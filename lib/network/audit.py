"""Is it really learning? Checks around the attaching of adapters and the first optimiser step.

Each of these faults has been published as a result somewhere: adapters that change the base before training, tensors
without a gradient behind reentrant checkpointing, a tensor in two optimisers or in none, a frozen norm that drifts.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from lib.core.errors import FAILED, Stop
from lib.core.records import Group, Objective, Parts, Row
from lib.core.words import counted
from lib.network import adapters, running, sharding
from lib.network.gradients import GradientSum

SAME = 1e-5  # relative; fp32 round-off of an added zero is 1e-7
NO_DERIVATIVE = r"[\s\S]*an autograd kernel was not registered"  # torch's words


def refuse_other_output(before: list[Row], after: list[Row]) -> None:
    """With untrained adapters the network must still be the base. A number that means nothing is NaN on both sides."""
    for one, other in zip(before, after, strict=True):
        for name, value in one.numbers.items():
            now = other.numbers[name]
            same = now == value or abs(now - value) <= SAME * max(1.0, abs(value)) or (now != now and value != value)
            if not same:
                change = f"{name} of {one.sample_id} from {value:.6g} to {now:.6g}"
                raise Stop(f"attaching the adapters moved {change}: the base was changed", code=FAILED)


def refuse_other_base(limits: dict[str, float], scores: dict[str, float]) -> None:
    """Published weights are known to be good; weights that are half loaded, or another network's, load as silently.

    limits: metric -> what the published base stays below; scores: metric -> what this base has.
    """
    for name, limit in limits.items():
        if not scores[name] < limit:  # also where it is not a number
            raise Stop(
                f"the base is not the published one: its {name} on the held-out samples is {scores[name]:.3g}, "
                f"the published weights stay below {limit:g}",
                "bring weights and ground truth again: python step2_download.py --force",
                FAILED,
            )


def watch_derivatives() -> None:
    """An operator without a derivative gives nothing to what comes before it, and torch warns of that once."""
    warnings.filterwarnings("error", NO_DERIVATIVE, UserWarning)


def backward(accelerator: Any, loss: torch.Tensor) -> None:
    """Stop: an operator between the loss and a trained tensor has no derivative (seen since `watch_derivatives`)."""
    try:
        accelerator.backward(loss)
    except UserWarning as warning:
        if not re.match(NO_DERIVATIVE, str(warning)):
            raise
        operator = str(warning).split(": ")[0]
        cause = f"the operator {operator} has no derivative: what is trained before it would get a part of its gradient"
        raise Stop(f"{cause}, or none", code=FAILED) from warning


def refuse_bad_group(objective: Objective, group: Group, names: list[str], taken: dict[str, str]) -> None:
    if not names:
        raise Stop(f"the group {objective.name}/{group.name} matches no trained tensor ({group.tensors})", code=FAILED)
    twice = [name for name in names if name in taken]
    if twice:
        raise Stop(f"{twice[0]} is in the groups {taken[twice[0]]} and {objective.name}/{group.name}", code=FAILED)


def refuse_orphans(tensors: dict[str, Any], taken: dict[str, str]) -> None:
    lost = [name for name in tensors if name not in taken]
    if lost:
        raise Stop(f"{counted(len(lost), 'trained tensor')} in no optimiser group, e.g. {lost[0]}", code=FAILED)


def after_backward(objective: Objective, sums: GradientSum, parts: Parts) -> None:
    """Every trained tensor has a finite gradient. While LoRA's B is zero, A's gradient is exactly 0 and B's is not."""
    untouched = all(not p.any() for name, p in adapters.trainable(parts).items() if ".lora_B." in name)
    if names := sums.not_finite():
        raise Stop(
            f"the first gradient of {names[0]} is not finite", "lower train.lr or set train.precision=fp32", FAILED
        )
    for name, _, gradient in sums.slices():
        moves = bool(gradient.any())
        if ".lora_B." in name and untouched and not moves:
            raise Stop(
                f"{name} gets no gradient: nothing after it depends on it (objective {objective.name})",
                "correct lora.targets",
                FAILED,
            )
        if ".lora_A." in name and untouched and moves and default_start(parts):
            raise Stop(
                f"{name} has a gradient although its B is zero: the adapter does not start as the identity", code=FAILED
            )
    if not sums.any():
        raise Stop(f"no trained tensor of {objective.name} gets a gradient", code=FAILED)


def default_start(parts: Parts) -> bool:
    """PEFT's other starts (PiSSA, OLoRA, DoRA) do not begin with B = 0 and no gradient in A."""
    return not any(spec.peft.get("use_dora") or "init_lora_weights" in spec.peft for spec in parts.lora.values())


@torch.no_grad()
def frozen_checksums(parts: Parts) -> dict[str, int]:
    """The sum of the bit patterns of every frozen tensor and of every buffer that training may not move."""
    found, moved = {}, running.buffers(parts)
    for module, network in parts.modules.items():
        named = [(name, p) for name, p in network.named_parameters() if not p.requires_grad]
        for name, tensor in named + list(network.named_buffers()):
            key = f"{module}.{adapters.plain_name(name)}"
            if key not in moved:
                found[key] = bit_sum(tensor)
    return found


def bit_sum(tensor: torch.Tensor) -> int:
    """Of any shape and dtype, on any device, and of this process's rows; a changed bit changes it."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    tensor = sharding.local(tensor)
    if not tensor.numel():
        return 0
    return int(tensor.detach().contiguous().view(kinds[tensor.element_size()]).sum(dtype=torch.int64))


def refuse_moved(before: dict[str, int], after: dict[str, int]) -> None:
    moved = [name for name, value in before.items() if after.get(name) != value]
    if moved:
        tensors = counted(len(moved), "frozen tensor")
        raise Stop(f"the first step moved {tensors} (or running statistics), e.g. {moved[0]}", code=FAILED)


WATCHED = 4096  # parameters of a tensor, evenly spread over it
MOVED_SHARE = 0.99
SETTLED_STEPS = 20  # after the warm-up, until every rate has been at its peak for a while


class Movement:
    """Do trained parameters move? A rate of 1e-6 added to a parameter in half precision is rounded away: an audit that
    only sees gradients called 68 % trained where 0.43 % had moved."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self.watched = {name: self.part(tensor).clone() for name, tensor in tensors.items()}
        self.pulled = {name: torch.zeros_like(values, dtype=torch.bool) for name, values in self.watched.items()}

    @staticmethod
    def part(tensor: torch.Tensor) -> torch.Tensor:
        flat = sharding.local(tensor).detach().reshape(-1)
        return flat[:: max(1, len(flat) // WATCHED)]

    def note(self, sums: GradientSum) -> None:
        """Which of the watched parameters have had a gradient so far."""
        for name, _, gradient in sums.slices():
            self.pulled[name] |= self.part(gradient).to(self.pulled[name].device) != 0

    def refuse_standing_still(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Stop: in some tensor fewer than 99 % of the parameters that ever had a gradient have moved."""
        found = []
        for name, before in self.watched.items():
            pulled = self.pulled[name]
            moved = (self.part(tensors[name]) != before)[pulled]
            if len(moved) and moved.float().mean() < MOVED_SHARE:
                share = f"{100 * moved.float().mean():.2f} % of the parameters of {name} that had a gradient have moved"
                found.append(f"only {share}")
        if found := sharding.everywhere(found, tensors.values()):
            raise Stop(found[0], "raise train.lr, or train in fp32 (train.precision=fp32)", FAILED)
