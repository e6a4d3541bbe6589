"""Permutation-equivalent matching and the losses of MapTR (Liao et al., ICLR 2023, eq. 2-6; its released weights).

Points are in [0, 1] over the region of interest here; directions are in metres. Every decoder layer has its own
matching. A frame's ground truth is `Truth`: labels and all orders of its points (polylines.orders).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHA, GAMMA = 0.25, 2.0  # focal loss (Lin et al. 2017)
SQUARED_EDGE_FLOOR = 1e-12  # keeps the gradient of a zero-length edge finite; 1e-6 m is far below any map's accuracy


@dataclass(frozen=True)
class Weights:
    """MapTR's scale: sums over points and edges, divided by the number of matched lines.

    Gradient clip and learning rates are tuned to it.
    """

    cls: float = 2.0
    pts: float = 5.0
    dir: float = 0.005


@dataclass
class Truth:
    labels: Tensor  # (lines,) int64
    orders: Tensor  # (lines, orders, points, 2) in [0, 1], padded with a far value


@dataclass
class Match:
    """One frame and layer: query[i] is matched with line truth[i] in its order variant[i]."""

    query: Tensor
    truth: Tensor
    variant: Tensor


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal cost of giving a query a line's class: logits (queries, classes), labels (lines,) -> (queries, lines)."""
    p = logits.sigmoid()[:, labels]
    positive = ALPHA * (1 - p) ** GAMMA * -(p + 1e-12).log()
    negative = (1 - ALPHA) * p**GAMMA * -(1 - p + 1e-12).log()
    return positive - negative


def point_cost(points: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest sum of |dx| + |dy| over the orders of each line, and which order that is: two (queries, lines).

    points (queries, points, 2), orders (lines, orders, points, 2), both in [0, 1].
    """
    lines, variants = orders.shape[:2]
    distances = torch.cdist(points.flatten(1), orders.flatten(2).flatten(0, 1), p=1)
    best = distances.view(len(points), lines, variants).min(-1)
    return best.values, best.indices


@torch.no_grad()
def match(logits: Tensor, points: Tensor, truth: Truth, weights: Weights) -> Match:
    """Hungarian assignment of lines to queries. logits (queries, classes), points (queries, points, 2) in [0, 1]."""
    from scipy.optimize import linear_sum_assignment

    points_cost, variants = point_cost(points.float(), truth.orders)
    cost = weights.cls * class_cost(logits.float(), truth.labels) + weights.pts * points_cost
    if not cost.isfinite().all():  # scipy refuses NaN with a sentence that names nothing
        cost = cost.nan_to_num(1e9)
    rows, columns = linear_sum_assignment(cost.double().cpu().numpy())
    query, line = torch.as_tensor(rows, device=logits.device), torch.as_tensor(columns, device=logits.device)
    return Match(query, line, variants[query, line])


def focal_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the sigmoid focal loss. logits and targets (0 or 1) have the same shape."""
    p = logits.sigmoid()
    miss = (1 - p) * targets + p * (1 - targets)
    weight = (ALPHA * targets + (1 - ALPHA) * (1 - targets)) * miss**GAMMA
    return (weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum()


def direction_sum(points: Tensor, targets: Tensor) -> Tensor:
    """Sum over edges of 1 - cosine; (lines, points, 2) in metres: the cosine depends on the ratio of the axes."""
    ours, theirs = points.diff(dim=1), targets.diff(dim=1)
    our_length, their_length = ((edge.square().sum(-1) + SQUARED_EDGE_FLOOR).sqrt() for edge in (ours, theirs))
    return (1 - (ours * theirs).sum(-1) / (our_length * their_length)).sum()


def layer_loss(
    logits: Tensor, points: Tensor, truths: Sequence[Truth], weights: Weights, extent_m: Tensor
) -> tuple[dict[str, Tensor], list[Match]]:
    """The three weighted terms of one decoder layer, each a scalar, and the matching of each frame.

    logits (batch, queries, classes), points (batch, queries, points, 2), extent_m (2,): the region's sides in metres.
    """
    frames = zip(logits, points, truths, strict=True)
    matches = [match(its_logits, its_points, truth, weights) for its_logits, its_points, truth in frames]
    positives = max(sum(len(m.query) for m in matches), 1)
    targets = torch.zeros_like(logits)
    for row, m, truth in zip(targets, matches, truths, strict=True):
        row[m.query, truth.labels[m.truth]] = 1
    chosen = torch.cat([frame[m.query] for frame, m in zip(points, matches, strict=True)])
    wanted = torch.cat([truth.orders[m.truth, m.variant] for truth, m in zip(truths, matches, strict=True)])
    terms = {
        "loss_cls": weights.cls * focal_sum(logits, targets),
        "loss_pts": weights.pts * (chosen - wanted).abs().sum(),
        "loss_dir": weights.dir * direction_sum(chosen * extent_m, wanted * extent_m),
    }
    return {name: term / positives for name, term in terms.items()}, matches


def map_loss(
    logits: Tensor, points: Tensor, truths: Sequence[Truth], weights: Weights, extent_m: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Sum over decoder layers, each with its own matching; and the terms as numbers, for the log.

    logits (layers, batch, queries, classes), points (layers, batch, queries, points, 2) in [0, 1].
    """
    layers = [
        layer_loss(*layer, truths, weights, extent_m)[0] for layer in zip(logits.float(), points.float(), strict=True)
    ]
    nothing = logits.new_zeros((), dtype=torch.float32)
    sums = {name: sum((layer[name] for layer in layers), nothing) for name in layers[0]}
    total = sum(sums.values(), nothing)
    return total, {name: value.item() for name, value in sums.items()} | {"loss_total": total.item()}
