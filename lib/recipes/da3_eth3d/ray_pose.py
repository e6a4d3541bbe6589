"""Cameras from predicted rays: the matrix from the plane of pixels to the rays' directions, taken apart by QR.

The published code takes it apart as rotation x lower triangular, which is right for a centred principal point alone:
with one that lies 8 % of the width off the middle it errs by 5 to 7 degrees on perfect rays. Rotation x upper
triangular is what a camera is, and errs by less than 0.01 degrees there.

As published, RANSAC looks at where rays point. The last fit is ours: it takes their lengths too (a direction has z = 1
in its camera), which makes it linear, and leaves out what lies far from the others. On rays with noise of 0.4 % and
15 % outliers it errs by 0.03 degrees, where a last homography errs by 0.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lib.core.errors import Stop

ROUNDS, DRAWN = 100, 8  # samples of RANSAC, and rays in each of them
CANDIDATES = 0.3  # the share of the rays, the most confident ones, that samples are drawn from
AGREES = 0.2  # distance on the plane at depth 1 within which a ray supports a sample
LEAST_Z = 1e-4  # of a direction that meets the plane at depth 1
NEAR = 3.0  # times the median distance: rays of the last fit
FLAT = 1e-9  # of a matrix's norm cubed: one of a smaller determinant sends the picture to a line
FEWEST = 4  # rays that a homography needs


class Cameras(NamedTuple):
    cam_from_world: Tensor  # (b, s, 3, 4)
    intrinsics: Tensor  # (b, s, 3, 3) in px of the picture, without skew


def cameras(
    ray: Tensor, confidence: Tensor, height_px: int, width_px: int, seed: int = 0, sample: Tensor | None = None
) -> Cameras:
    """Rays (b, s, h, w, 6), direction then origin, and their confidence (b, s, h, w) -> cameras of pictures in px.

    sample: (rounds, rays), positions among the candidates in falling order of confidence; without it they are drawn
    with the seed, so that a prediction comes out the same again. Stop: no camera fits the rays of a view.
    """
    plane = plane_points(*ray.shape[2:4]).to(ray.device)
    candidates = max(DRAWN, int(len(plane) * CANDIDATES))
    sample = drawn(candidates, seed) if sample is None else sample
    flat, sure = ray.double().flatten(0, 1).flatten(1, 2), confidence.double().flatten(0, 1).flatten(1)
    found = [camera(plane, *one, candidates, sample, number) for number, one in enumerate(zip(flat, sure, strict=True))]
    cam_from_world, intrinsics = (torch.stack(parts).unflatten(0, ray.shape[:2]) for parts in zip(*found, strict=True))
    pixels = intrinsics.new_tensor([[width_px / 2, 0, width_px / 2], [0, height_px / 2, height_px / 2], [0, 0, 1]])
    return Cameras(cam_from_world.to(ray.dtype), (pixels @ intrinsics).to(ray.dtype))


def plane_points(rows: int, columns: int) -> Tensor:
    """The centres of the cells of a picture that reaches from -1 to 1 in both directions, (rows * columns, 2)."""
    y, x = ((2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1 for count in (rows, columns))
    return torch.cartesian_prod(y, x).flip(-1)


def drawn(candidates: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(candidates, generator=generator)[:DRAWN] for _ in range(ROUNDS)])


def camera(
    plane: Tensor, ray: Tensor, confidence: Tensor, candidates: int, sample: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """One view's rays (n, 6) and confidence (n,) -> camera from world (3, 4), intrinsics (3, 3) on the plane of -1..1.

    A direction that does not meet the plane at depth 1 has no weight, for the origin neither.
    """
    direction, origin = ray[:, :3], ray[:, 3:]
    meets = direction[:, 2].abs() > LEAST_Z
    weight = torch.where(meets, confidence, 0)
    target = direction[:, :2] / torch.where(meets, direction[:, 2], 1)[:, None]
    if int((weight > 0).sum()) < FEWEST or not target.isfinite().all():
        raise no_camera(number)
    centre = (weight[:, None] * origin).sum(0) / weight.sum()
    best = weight.argsort(descending=True, stable=True)[:candidates]
    near = supported(plane, target, weight, best[sample.to(best.device)])
    if int(near.sum()) < FEWEST:
        raise no_camera(number)
    root = weight[near, None].sqrt()
    matrix = torch.linalg.lstsq(root * homogeneous(plane[near]), root * direction[near]).solution.mT
    rotation, intrinsics = taken_apart(matrix, number)
    return torch.cat([rotation.mT, -(rotation.mT @ centre)[:, None]], -1), intrinsics


def no_camera(number: int) -> Stop:
    return Stop(f"no camera fits the rays of view {number}", "predict with the camera decoder instead of the rays")


def supported(plane: Tensor, target: Tensor, weight: Tensor, sample: Tensor) -> Tensor:
    """The rays (n,) that most of the weight agrees with and that lie near it, bool.

    RANSAC over homographies of the samples (rounds, rays), and a homography of all that agree with the best one.
    """
    tried = homographies(plane[sample], target[sample], weight[sample])  # (rounds, 3, 3)
    agree = [(distances(one[None], plane, target)[0] < AGREES) & (weight > 0) for one in tried]
    kept = agree[int(torch.stack([weight[rays].sum() for rays in agree]).argmax())]
    off = distances(homographies(plane[kept][None], target[kept][None], weight[kept][None]), plane, target)[0]
    return kept & (off <= NEAR * off[kept].nanmedian())


def distances(homography: Tensor, plane: Tensor, target: Tensor) -> Tensor:
    """How far homographies (k, 3, 3) miss the targets (n, 2), as (k, n)."""
    seen = homogeneous(plane) @ homography.mT
    return (seen[..., :2] / seen[..., 2:] - target).norm(dim=-1)


def homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], -1)


def homographies(source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted direct linear transforms from points (k, n, 2) to points (k, n, 2): (k, 3, 3), of any scale.

    The smallest eigenvector of a 9 x 9 matrix, in fp64; the published code decomposes one of 2n x 9 in full.
    """
    one = homogeneous(source)
    zero = torch.zeros_like(one)
    rows = torch.cat([
        torch.cat([-one, zero, one * target[..., :1]], -1), torch.cat([zero, -one, one * target[..., 1:]], -1),
    ], 1)  # fmt: skip
    weights = torch.cat([weight, weight], 1)[..., None]
    return torch.linalg.eigh(rows.mT @ (weights * rows))[1][..., 0].unflatten(-1, (3, 3))


def taken_apart(matrix: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Rotation (3, 3), camera to world, and intrinsics (3, 3), whose inverse is the upper triangle without the skew."""
    if not matrix.isfinite().all() or not torch.linalg.det(matrix) > FLAT * matrix.norm() ** 3:
        raise no_camera(number)
    rotation, upper = torch.linalg.qr(matrix)
    signs = upper.diagonal().sign()
    rotation, upper = rotation * signs, signs[:, None] * upper
    focal_x, focal_y = upper[2, 2] / upper[0, 0], upper[2, 2] / upper[1, 1]
    intrinsics = torch.eye(3, dtype=upper.dtype, device=upper.device)
    intrinsics[0, 0], intrinsics[1, 1] = focal_x, focal_y
    intrinsics[0, 2] = -upper[0, 2] / upper[2, 2] * focal_x
    intrinsics[1, 2] = -upper[1, 2] / upper[2, 2] * focal_y
    return rotation, intrinsics
