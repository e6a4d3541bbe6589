"""Which views see the same surface, from their depth and poses alone: for scenes without points that views share.

Where those two are not of one world (another unit, other axes), no number shows it before this comparison does.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.core.errors import Stop

AGREES = 0.1  # relative depth within which two views see the same surface
EVERY = 4  # pixels in each direction, of which one is compared
UNITS = 10 ** (np.arange(-16, 17) / 4)  # which poses may have beside depth, where they do not have its own
FEWEST_SEEN = 0.25  # of one view's surface in the next view's picture: else they say nothing of the unit
MOST_PAIRS = 16  # of neighbours, which tell the unit as well as hundreds
NOISE, BETTER = 0.02, 3  # other poses: views agree so many times better with them, and as they are worse than NOISE
TURNED: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of a map (h, w): other programs' first row is the lowest
    "mirrored from left to right": lambda depth: depth[:, ::-1],
    "mirrored from top to bottom": lambda depth: depth[::-1],
    "turned by half a circle": lambda depth: depth[::-1, ::-1],
}
NOTHING = 0.01  # share of a surface: less is chance


class Seen(NamedTuple):
    """What one view knows."""

    depth: np.ndarray  # (h, w), 0 where it is not known
    camera: np.ndarray  # (3, 3) intrinsics in px, pixel centres at integers
    cam_from_world: np.ndarray  # (3, 4)


Change = Callable[[list[Seen]], list[Seen]]


def shares(folder: Path, views: list[Seen]) -> np.ndarray:
    """(views, views) float32: the share of one view's surface that the other sees too, the smaller of the two ways.

    Stop: depth and poses do not fit, or no view sees what another one sees.
    """
    refuse_other_poses(folder, views)
    found = np.eye(len(views), dtype=np.float32)
    for i, view in enumerate(views):
        world = surface(view)
        for j, other in enumerate(views):
            found[i, j] = seen_share(world, other)
    found = np.minimum(found, found.T)
    refuse_strangers(folder, found)
    return found


def surface(view: Seen) -> np.ndarray:
    """Every fourth known pixel in each direction of a depth map, as points in the world (n, 3)."""
    row, column = np.nonzero(view.depth[::EVERY, ::EVERY])
    z = view.depth[::EVERY, ::EVERY][row, column].astype(np.float64)
    pixels = np.stack([column * EVERY * z, row * EVERY * z, z], 1)
    return (pixels @ np.linalg.inv(view.camera).T - view.cam_from_world[:, 3]) @ view.cam_from_world[:, :3]


def seen_share(world: np.ndarray, view: Seen) -> float:
    """The share of world points (n, 3) that lie on the surface which a view sees."""
    there, z = in_view(world, view)
    return float((np.abs(there / z - 1) < AGREES).sum() / max(len(world), 1))


def in_view(world: np.ndarray, view: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Of the points that fall into a view's picture: its depth there (n,), and their own (n,)."""
    cam = world @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
    cam = cam[cam[:, 2] > 0]
    column, row = np.rint((cam @ view.camera.T)[:, :2] / cam[:, 2:]).T
    height, width = view.depth.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return view.depth[row[inside].astype(int), column[inside].astype(int)], cam[inside, 2]


def refuse_other_poses(folder: Path, views: list[Seen]) -> None:
    """Stop: neighbours agree far better once poses or depth are taken for something else.

    Poses too small for their depth make all views look from one place, where every pair of them agrees a little.
    """
    seeing = (i for i in range(len(views) - 1) if np.isfinite(disagreement(views[i], views[i + 1])))
    pairs = list(itertools.islice(seeing, MOST_PAIRS))
    if not pairs or (as_is := disagreements(views, pairs)) <= NOISE:
        return
    errors = {words: disagreements(change(views), pairs) for words, change in others().items()}
    best = min(errors, key=lambda words: errors[words])
    if errors[best] < as_is / BETTER:
        cause = f"the depth of {folder} and its poses do not fit: views agree when {best}"
        poses, depth = (
            "poses with the axes that their format says",
            "depth as its photograph is stored and under its name",
        )
        raise Stop(cause, f"write both in one unit, {poses}, and {depth}")


def others() -> dict[str, Change]:
    """What a person may have to do with the poses or the depth -> what it makes of the views."""
    units = {f"depth is divided by {float(f'{unit:.3g}'):g}": posed(partial(larger, unit=unit)) for unit in UNITS}
    return (
        units
        | {
            "the cameras' y and z axes are turned round (OpenGL's and OpenCV's differ so)": posed(turned),
            "the poses are inverted": posed(inverse),
            "the poses are inverted, with OpenCV's axes": posed(lambda pose: inverse(turned(pose))),
            "the poses are inverted, with OpenGL's axes": posed(lambda pose: turned(inverse(turned(pose)))),
            "each depth is given to the photograph before": ordered(lambda views: [*views[1:], views[0]]),
            "each depth is given to the photograph after": ordered(lambda views: [views[-1], *views[:-1]]),
            "depths are given to the photographs from the last to the first": ordered(lambda views: views[::-1]),
        }
        | {f"depth is {words}": drawn(change) for words, change in TURNED.items()}
    )


def posed(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Of a camera from world (3, 4)."""
    return lambda views: [one._replace(cam_from_world=change(one.cam_from_world)) for one in views]


def drawn(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Of a depth map (h, w)."""
    return lambda views: [one._replace(depth=change(one.depth)) for one in views]


def ordered(change: Change) -> Change:
    """Of whose depth it is."""
    return lambda views: [one._replace(depth=other.depth) for one, other in zip(views, change(views), strict=True)]


def larger(pose: np.ndarray, unit: float) -> np.ndarray:
    return np.concatenate([pose[:, :3], unit * pose[:, 3:]], 1)


def turned(pose: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.array([[1], [-1], [-1]]) * pose
    return found


def inverse(pose: np.ndarray) -> np.ndarray:
    return np.concatenate([pose[:, :3].T, -pose[:, :3].T @ pose[:, 3:]], 1)


def disagreements(views: list[Seen], pairs: list[int]) -> float:
    """The median of some views with the next one each."""
    return float(np.median([disagreement(views[i], views[i + 1]) for i in pairs]))


def disagreement(view: Seen, other: Seen) -> float:
    """Median logarithm of the ratio of two depths where both views see; infinite where the other one sees little of the
    first one's surface.
    """
    world = surface(view)
    there, z = in_view(world, other)
    if (there > 0).sum() < max(FEWEST_SEEN * len(world), 1):
        return float("inf")
    return float(np.median(np.abs(np.log(there[there > 0] / z[there > 0]))))


def refuse_strangers(folder: Path, shares: np.ndarray) -> None:
    """Stop: no view sees what another one sees."""
    if len(shares) > 1 and (shares - np.eye(len(shares))).max() < NOTHING:
        cause = f"by the depth of {folder} and its poses no view sees what another one sees"
        raise Stop(cause, "see that both have one unit, that depth is along the axis, and which axes the poses have")
