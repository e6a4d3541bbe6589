"""Points that several views agree on, with the pixels that see them: what splatting and bundle adjustment begin with.

A track begins at a confident pixel. Its point is looked up in the neighbouring views, and a view joins where its own
depth at the pixel it lands on says the same surface and leads back to the pixel that it came from. The track's point
is the mean of what its views say, so its reprojection error is what their depths and cameras disagree by.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from lib.scenes import geometry

STEP_PX = 4  # tracks begin on a grid
MOST_BEGINNINGS = 400_000  # of tracks; where there would be more, the grid is coarser
NEIGHBOURS = 8  # views, the nearest cameras, in which a point is looked for
HELD = 2 * NEIGHBOURS  # views that are in memory at once
# Two views see one surface within this relative depth, and when a point comes back this near to its pixel. True depth
# has 1 665 tracks in the tests' miniature; where each view's depth is 1.3 times the one before, there are 28.
SAME_SURFACE = 0.02
BACK_PX = 1.5
ERROR_PX = 2.0  # tracks with a larger mean reprojection error are left out


@dataclass(frozen=True)
class Surface:
    """What a view sees: depth (h, w), points (h, w, 3) in the world, sure (h, w) bool, image (h, w, 3) uint8."""

    depth: Tensor
    points: Tensor
    sure: Tensor
    image: Tensor


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


@dataclass(frozen=True)
class Seen:
    """Observations of the points of one view: track (m,), its view (m,) and pixel (m, 2), and what that view says of
    the point, where it is (m, 3) and its colour (m, 3) in 0..255.
    """

    track: Tensor
    view: Tensor
    pixel: Tensor
    points: Tensor
    colours: Tensor

    def only(self, which: Tensor, track: Tensor) -> "Seen":
        return Seen(track, self.view[which], self.pixel[which], self.points[which], self.colours[which])


def find(
    cam_from_world: Tensor, intrinsics: Tensor, sizes: list[tuple[int, int]], surface: Callable[[int], Surface]
) -> Tracks:
    """cam_from_world (s, 3, 4), intrinsics (s, 3, 3) and sizes (height, width) of the views, all in px; surface(view)
    is asked for when it is needed, and at most HELD of them are held.
    """
    held = lru_cache(HELD)(surface)
    step = grid_step(sizes)
    begun = [
        torch.zeros(len(range(0, height, step)), len(range(0, width, step)), dtype=torch.bool)
        for height, width in sizes
    ]
    found, total = [], 0
    for view in range(len(sizes)):
        pixel = beginnings(held(view).sure[::step, ::step] & ~begun[view], step)
        seen = observations(view, pixel, cam_from_world, intrinsics, held)
        mark(begun, step, seen)
        found.append(accepted(seen, total, cam_from_world, intrinsics))
        total += len(found[-1].points)
    return Tracks(*joined(found))


def grid_step(sizes: list[tuple[int, int]]) -> int:
    """In px: STEP_PX, or as many as keep the beginnings of all views below MOST_BEGINNINGS."""
    pixels = sum(height * width for height, width in sizes)
    return max(STEP_PX, math.ceil((pixels / MOST_BEGINNINGS) ** 0.5))


def beginnings(free: Tensor, step: int) -> Tensor:
    """The pixels (n, 2), x and y, of a grid that are free."""
    row, column = free.nonzero().mT
    return torch.stack([column, row], -1) * step


def observations(
    view: int, pixel: Tensor, cam_from_world: Tensor, intrinsics: Tensor, surface: Callable[[int], Surface]
) -> Seen:
    """Of the points of a view's pixels (n, 2) those that another view sees too, tracks numbered from 0."""
    here = surface(view)
    seen = [look(here, torch.arange(len(pixel)), view, pixel)]
    for other in nearest_cameras(cam_from_world, view):
        cameras = (cam_from_world[view], intrinsics[view], cam_from_world[other], intrinsics[other])
        landed, agrees = looked_up(here, surface(other), pixel, *cameras)
        seen.append(look(surface(other), agrees.nonzero()[:, 0], other, landed[agrees]))
    together = Seen(*joined(seen))
    kept = torch.bincount(together.track, minlength=len(pixel)) > 1
    stays = kept[together.track]
    return together.only(stays, (kept.cumsum(0) - 1)[together.track[stays]])


def joined(parts: list[Tracks] | list[Seen]) -> Iterator[Tensor]:
    """Field by field."""
    return (torch.cat([getattr(one, part.name) for one in parts]) for part in fields(parts[0]))


def look(surface: Surface, track: Tensor, view: int, pixel: Tensor) -> Seen:
    column, row = pixel.mT
    colours = surface.image[row, column].double()
    return Seen(track, torch.full((len(pixel),), view), pixel, surface.points[row, column].double(), colours)


def mark(begun: list[Tensor], step: int, seen: Seen) -> None:
    """No second track begins at a pixel that is seen by one."""
    on_grid = (seen.pixel % step == 0).all(-1)
    for view in seen.view.unique().tolist():
        column, row = (seen.pixel[on_grid & (seen.view == view)] // step).mT
        begun[view][row, column] = True


def nearest_cameras(cam_from_world: Tensor, view: int) -> list[int]:
    """The other views, nearest camera first, at most NEIGHBOURS of them."""
    centres = geometry.inverse(cam_from_world)[..., 3]
    order = (centres - centres[view]).norm(dim=-1).argsort(stable=True).tolist()
    return [other for other in order if other != view][:NEIGHBOURS]


def looked_up(
    here: Surface,
    there: Surface,
    pixel: Tensor,
    camera: Tensor,
    intrinsics: Tensor,
    other_camera: Tensor,
    other_intrinsics: Tensor,
) -> tuple[Tensor, Tensor]:
    """Where the points of a view's pixels (n, 2) land in another one, (n, 2) in whole px, and if it agrees (n,)."""
    height_px, width_px = there.depth.shape
    points = here.points[pixel[:, 1], pixel[:, 0]]
    place, in_camera = geometry.project(points, other_camera, other_intrinsics)
    limits = place.new_tensor([width_px - 1, height_px - 1])
    inside = (in_camera[:, 2] > 0) & ((place >= 0) & (place <= limits)).all(-1)
    landed = torch.where(inside[:, None], place, 0).round().long()
    column, row = landed.mT
    alike = (in_camera[:, 2] / there.depth[row, column] - 1).abs() < SAME_SURFACE
    back, _ = geometry.project(there.points[row, column], camera, intrinsics)
    return landed, inside & there.sure[row, column] & alike & ((back - pixel).norm(dim=-1) < BACK_PX)


def accepted(seen: Seen, first: int, cam_from_world: Tensor, intrinsics: Tensor) -> Tracks:
    """The tracks whose mean reprojection error is at most ERROR_PX, numbered from `first` on."""
    count = int(seen.track.max()) + 1 if len(seen.track) else 0
    middle, colour = mean(count, seen.track, seen.points), mean(count, seen.track, seen.colours)
    cameras, own = cam_from_world[seen.view].double(), intrinsics[seen.view].double()
    place, _ = geometry.project(middle[seen.track][:, None], cameras, own)
    error_px = mean(count, seen.track, (place[:, 0] - seen.pixel).norm(dim=-1, keepdim=True))[:, 0]
    good = error_px <= ERROR_PX
    stays = good[seen.track]
    order = seen.track[stays].argsort(stable=True)
    renumbered = first + (good.cumsum(0) - 1)[seen.track[stays]][order]
    view, pixel = seen.view[stays][order], seen.pixel[stays][order]
    return Tracks(middle[good], colour[good].round().to(torch.uint8), error_px[good], renumbered, view, pixel)


def mean(count: int, track: Tensor, values: Tensor) -> Tensor:
    """(count, k): the mean over each track of values (observations, k)."""
    total = values.new_zeros(count, values.shape[1]).index_add_(0, track, values)
    return total / torch.bincount(track, minlength=count).clamp(min=1)[:, None]
