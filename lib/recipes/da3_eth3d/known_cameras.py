"""Known cameras: as the camera encoder wants them, and what brings a prediction to their world and unit.

A network that is given poses still answers in a unit of its own. The similarity between given and predicted cameras
tells it; from one view it cannot be told.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.scenes import geometry

LEAST_UNIT = 0.1  # of the scene's own: cameras that are nearer to one another are not blown up
RANSAC_VIEWS = 10  # from so many on, single bad poses are left out
RANSAC_ROUNDS, RANSAC_SEED = 10, 42
PLANE = 1e-9  # of the squared spread: centres that keep less off their line are on one


class Similarity(NamedTuple):
    """predicted = scale * rotation @ given + translation."""

    scale: Tensor  # ()
    rotation: Tensor  # (3, 3)
    translation: Tensor  # (3,)


def normalised(cam_from_world: Tensor) -> Tensor:
    """Cameras (b, s, 3, 4) with view 0 as the world, and the lower median of their distances from it as the unit.

    View 0's own distance, 0, counts; so does LEAST_UNIT as the smallest unit. As the published inference does it.
    """
    ones = torch.ones(len(cam_from_world), dtype=cam_from_world.dtype, device=cam_from_world.device)
    cameras = geometry.relative_cameras(cam_from_world, ones)
    distances = geometry.inverse(cameras)[..., 3].norm(dim=-1)
    return geometry.relative_cameras(cam_from_world, distances.median(-1).values.clamp(min=LEAST_UNIT))


def similarity(given: Tensor, predicted: Tensor) -> Similarity:
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


def moved(given: Tensor, found: Similarity) -> Tensor:
    """The given cameras (s, 3, 4) in the predicted world and unit."""
    poses = geometry.inverse(given.double())
    rotation = found.rotation @ poses[..., :3]
    return geometry.inverse(torch.cat([rotation, apply(found, poses[..., 3])[..., None]], -1)).to(given.dtype)


def refuse_some(known: int, views: int) -> None:
    """Stop: cameras are known for some of the views only; the encoder takes all or none."""
    if known not in (0, views):
        raise Stop(
            f"cameras are known for {known} of {views} views, and the network takes them for all or for none",
            "give the cameras of all views, or predict without them",
        )
