"""Points that several views agree on, with the pixels that see them: what splatting and bundle adjustment begin with.

A track begins at a confident pixel. Its point is looked up in the neighbouring views, and a view joins where its own
depth at the pixel it lands on says the same surface and leads back to the pixel that it came from. The track's point
is the mean of what its views say, so its reprojection error is what their depths and cameras disagree by.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.scenes import geometry

STEP_PX = 4  # tracks begin on a grid
NEIGHBOURS = 8  # views, the nearest cameras, in which a point is looked for
# Two views see one surface within this relative depth, and when a point comes back this near to its pixel. True depth
# has 1 665 tracks in the tests' miniature; where each view's depth is 1.3 times the one before, there are 28.
SAME_SURFACE = 0.02
BACK_PX = 1.5
ERROR_PX = 2.0  # tracks with a larger mean reprojection error are left out


@dataclass(frozen=True)
class Tracks:
    """points (n, 3) in the world, colours (n, 3) uint8, errors_px (n,); observation k says that view[k] sees the point
    track[k] at pixel[k] (x, y), pixel centres at whole numbers. Observations are sorted by track.
    """

    points: Tensor
    colours: Tensor
    errors_px: Tensor
    track: Tensor
    view: Tensor
    pixel: Tensor


def find(
    images: Tensor, points: Tensor, cam_from_world: Tensor, intrinsics: Tensor, confident: Tensor, depth: Tensor
) -> Tracks:
    """images (s, 3, h, w) in 0..1; points (s, h, w, 3), each pixel's in the world; cameras (s, 3, 4), intrinsics
    (s, 3, 3) in px; confident (s, h, w) bool; depth (s, h, w).
    """
    taken, found, total = torch.zeros_like(confident), [], 0
    for view in range(len(images)):
        pixel = beginnings(confident[view] & ~taken[view])
        seen = [(torch.arange(len(pixel)), torch.full((len(pixel),), view), pixel)]
        for other in nearest_cameras(cam_from_world, view):
            landed, agrees = looked_up(view, other, pixel, points, cam_from_world, intrinsics, confident, depth)
            seen.append((agrees.nonzero()[:, 0], torch.full((int(agrees.sum()),), other), landed[agrees]))
        track, views, pixels = (torch.cat(part) for part in zip(*seen, strict=True))
        kept = torch.bincount(track, minlength=len(pixel)) > 1
        stays = kept[track]
        track, views, pixels = (kept.cumsum(0) - 1)[track[stays]], views[stays], pixels[stays]
        taken[views, pixels[:, 1], pixels[:, 0]] = True
        found.append((track + total, views, pixels))
        total += int(kept.sum())
    track, views, pixels = (torch.cat(part) for part in zip(*found, strict=True))
    return accepted(total, track, views, pixels, images, points, cam_from_world, intrinsics)


def beginnings(free: Tensor) -> Tensor:
    """The pixels (n, 2), x and y, of a grid that are free (h, w)."""
    row, column = free[::STEP_PX, ::STEP_PX].nonzero().mT
    return torch.stack([column, row], -1) * STEP_PX


def nearest_cameras(cam_from_world: Tensor, view: int) -> list[int]:
    """The other views, nearest camera first, at most NEIGHBOURS of them."""
    centres = geometry.inverse(cam_from_world)[..., 3]
    order = (centres - centres[view]).norm(dim=-1).argsort(stable=True).tolist()
    return [other for other in order if other != view][:NEIGHBOURS]


def looked_up(
    view: int,
    other: int,
    pixel: Tensor,
    points: Tensor,
    cam_from_world: Tensor,
    intrinsics: Tensor,
    confident: Tensor,
    depth: Tensor,
) -> tuple[Tensor, Tensor]:
    """Where the points of a view's pixels (n, 2) land in another one, (n, 2) in whole px, and if it agrees (n,)."""
    height_px, width_px = depth.shape[1:]
    here = points[view, pixel[:, 1], pixel[:, 0]]
    place, in_camera = geometry.project(here, cam_from_world[other], intrinsics[other])
    limits = place.new_tensor([width_px - 1, height_px - 1])
    inside = (in_camera[:, 2] > 0) & ((place >= 0) & (place <= limits)).all(-1)
    landed = torch.where(inside[:, None], place, 0).round().long()
    there = depth[other, landed[:, 1], landed[:, 0]]
    agrees = (
        inside & confident[other, landed[:, 1], landed[:, 0]] & ((in_camera[:, 2] / there - 1).abs() < SAME_SURFACE)
    )
    back, _ = geometry.project(points[other, landed[:, 1], landed[:, 0]], cam_from_world[view], intrinsics[view])
    return landed, agrees & ((back - pixel).norm(dim=-1) < BACK_PX)


def accepted(
    count: int,
    track: Tensor,
    view: Tensor,
    pixel: Tensor,
    images: Tensor,
    points: Tensor,
    cam_from_world: Tensor,
    intrinsics: Tensor,
) -> Tracks:
    """The tracks whose mean reprojection error is at most ERROR_PX, numbered anew."""
    row, column = pixel[:, 1], pixel[:, 0]
    middle = mean(count, track, points[view, row, column].double())
    colour = mean(count, track, images[view, :, row, column].double())
    place, _ = geometry.project(middle[track][:, None], cam_from_world[view].double(), intrinsics[view].double())
    error_px = mean(count, track, (place[:, 0] - pixel).norm(dim=-1, keepdim=True))[:, 0]
    good = error_px <= ERROR_PX
    stays = good[track]
    order = track[stays].argsort(stable=True)
    renumbered = (good.cumsum(0) - 1)[track[stays]][order]
    colours = (colour[good] * 255).round().to(torch.uint8)
    return Tracks(middle[good], colours, error_px[good], renumbered, view[stays][order], pixel[stays][order])


def mean(count: int, track: Tensor, values: Tensor) -> Tensor:
    """(count, k): the mean over each track of values (observations, k)."""
    total = values.new_zeros(count, values.shape[1]).index_add_(0, track, values)
    return total / torch.bincount(track, minlength=count).clamp(min=1)[:, None]
