"""Similarities (a scale, a turn and a shift) between two worlds: of the same cameras, or of the same points.

A network answers in a unit and a world of its own in every call, also where it is given poses.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.scenes import geometry

RANSAC_VIEWS = 10  # from so many on, single bad poses are left out
RANSAC_ROUNDS, RANSAC_SEED = 10, 42
PLANE = 1e-9  # of the squared spread: centres that keep less off their line are on one
TRIMMED_ROUNDS = 10  # fits of the better half of the points; they settle within three or four


class Similarity(NamedTuple):
    """target = scale * rotation @ source + translation."""

    scale: Tensor  # ()
    rotation: Tensor  # (3, 3)
    translation: Tensor  # (3,)


SAME = Similarity(torch.tensor(1.0).double(), torch.eye(3).double(), torch.zeros(3).double())


def of_cameras(given: Tensor, predicted: Tensor) -> Similarity:
    """What takes the given cameras (s, 3, 4) to the predicted ones, both from world, least squares of the centres.

    From RANSAC_VIEWS views on, of the centres that agree with the best half. Where the centres lie on one line, as
    those of two views do, the rotations decide how it is turned. Stop: fewer than two views, or all in one place.
    """
    poses, targets = geometry.inverse(given.double()), geometry.inverse(predicted.double())
    centres, aims = poses[..., 3], targets[..., 3]
    if len(given) < 2 or not spread(centres)[0] > 0 or not spread(aims)[0] > 0:
        raise Stop(
            f"the unit of depth cannot be told from {len(given)} known camera(s) in one place",
            "give two views or more that were taken from different places, or leave the known cameras out",
        )
    if on_a_line(centres) or on_a_line(aims):
        return of_rotations(poses, targets)
    if len(given) >= RANSAC_VIEWS:
        kept = agreeing(centres, aims)
        centres, aims = centres[kept], aims[kept]
    return Similarity(*geometry.umeyama(centres, aims))


def spread(points: Tensor) -> Tensor:
    """Squared singular values of points (n, 3) about their mean, falling."""
    return torch.linalg.svdvals(points - points.mean(0)).square()


def on_a_line(points: Tensor) -> bool:
    found = spread(points)
    return len(points) < 3 or bool(found[1] <= PLANE * found[0])


def of_rotations(poses: Tensor, targets: Tensor) -> Similarity:
    """The mean turn between the cameras' own rotations, and the ratio of the spreads of their centres."""
    u, _, vh = torch.linalg.svd((targets[..., :3] @ poses[..., :3].mT).sum(0))
    sign = torch.ones(3, dtype=u.dtype, device=u.device)
    sign[2] = torch.linalg.det(u @ vh)
    rotation = (u * sign) @ vh
    scale = (spread(targets[..., 3]).sum() / spread(poses[..., 3]).sum()).sqrt()
    return Similarity(scale, rotation, targets[..., 3].mean(0) - scale * rotation @ poses[..., 3].mean(0))


def agreeing(centres: Tensor, aims: Tensor) -> Tensor:
    """Which centres (n,) the best of RANSAC_ROUNDS fits of half of them leaves within the median distance, bool.

    That distance is from each centre to its nearest aim after a fit of all. All, where fewer than three agree.
    """
    chance, count = np.random.default_rng(RANSAC_SEED), len(centres)
    moved = apply(Similarity(*geometry.umeyama(centres, aims)), centres)
    limit = np.median(torch.cdist(moved, aims).amin(1).cpu().numpy())
    best, most = torch.ones(count, dtype=torch.bool, device=centres.device), (-1, 0.0)
    for _ in range(RANSAC_ROUNDS):
        drawn = torch.as_tensor(chance.choice(np.arange(count), size=max(3, (count + 1) // 2), replace=False))
        if on_a_line(centres[drawn]) or on_a_line(aims[drawn]):
            continue
        found = Similarity(*geometry.umeyama(centres[drawn], aims[drawn]))
        errors = (apply(found, centres) - aims).norm(dim=-1)
        near = errors <= limit
        rank = (int(near.sum()), -float(errors[near].mean()) if near.any() else -float("inf"))
        if rank > most:
            best, most = near, rank
    return best if best.sum() >= 3 else torch.ones_like(best)


def apply(found: Similarity, points: Tensor) -> Tensor:
    return found.scale * points @ found.rotation.mT + found.translation


def inverse(found: Similarity) -> Similarity:
    back = found.rotation.mT / found.scale
    return Similarity(1 / found.scale, found.rotation.mT, -back @ found.translation)


def moved(given: Tensor, found: Similarity) -> Tensor:
    """The given cameras (s, 3, 4) in the predicted world and unit."""
    poses = geometry.inverse(given.double())
    rotation = found.rotation @ poses[..., :3]
    return geometry.inverse(torch.cat([rotation, apply(found, poses[..., 3])[..., None]], -1)).to(given.dtype)


def of_points(groups: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Similarity, Tensor]:
    """What takes points (n, 3) to their targets (n, 3) of the same groups, and each point's error (all n,).

    An error is a distance over the third of a group's tensors (n,), the depth at which the point is seen. Each group by
    itself (a view, whose camera may be wrong in one of the worlds) and all of them are a beginning; from there on, the
    better half of all points is fitted again. The fit with the least median error counts.
    """
    source, target, depth = (torch.cat(part) for part in zip(*groups, strict=True))
    best, least = None, float("inf")
    for begun in [*groups, (source, target, depth)]:
        found = Similarity(*geometry.umeyama(begun[0], begun[1]))
        for _ in range(TRIMMED_ROUNDS):
            errors = (apply(found, source) - target).norm(dim=-1) / depth
            near = errors <= errors.median()
            found = Similarity(*geometry.umeyama(source[near], target[near]))
        errors = (apply(found, source) - target).norm(dim=-1) / depth
        if float(errors.median()) < least:
            best, least = (found, errors), float(errors.median())
    assert best is not None, "points are finite"
    return best
