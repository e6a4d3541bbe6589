"""Is a scene's depth what its model says? Wrong numbers read as well as right ones.

The points of a COLMAP model come from the photographs alone, and so tell what the depth beside them is: in another
unit, along rays instead of the axis, inverted, or of another photograph. Each view's depth may look right for itself.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.core.errors import Stop
from lib.scenes.colmap import Scene, View
from lib.scenes.crop import Crop, rays
from lib.scenes.depth import from_points
from lib.scenes.overlap import TURNED

MATCHES = 20  # pixels with a depth from both sources, at least, before they are believed
FACTOR, SPREAD = 1.25, 1.15  # another unit: the median ratio is beyond FACTOR, its quartiles within SPREAD of it
NOISE, BETTER = 0.01, 3  # another meaning or photograph fits so many times better, and what is said worse than NOISE
MUCH, UNUSUAL = 0.05, 10  # a view that is off by so much and by so many times the others' median has a wrong depth
TURNED_BETTER = 10  # depth that is turned fits so many times better than as it is
NEIGHBOURS = 16  # by name on either side, of which a depth may be: of thousands all would take minutes
# What depth may be instead of z, and the logarithm of what would then be constant; arguments as `Pairs` has them.
OTHER_MEANINGS = {
    "the distance along the ray": lambda known, point, ray: known - point - ray,
    "inverse depth": lambda known, point, ray: known + point,
}
Pairs = np.ndarray  # (n, 3): depth, z of the model's point in the same pixel, length of the pixel's ray (x, y, 1)


class Measured(NamedTuple):
    """A view's depth, and what the model says of it."""

    depth: Callable[[], np.ndarray]  # (h, w), 0 where it is not known; read when it is asked for
    cells: np.ndarray  # (n,) row * width + column of the pixels with a point
    points: np.ndarray  # (n,) its z
    rays: np.ndarray  # (n,)

    def pairs(self, depth: np.ndarray) -> Pairs:
        """Of this view's points and any view's depth (h, w); none where they are fewer than MATCHES."""
        known = np.asarray(depth.reshape(-1)[self.cells], np.float64)
        found = np.stack([known, self.points, self.rays], 1)[known > 0]
        return found if len(found) >= MATCHES else found[:0]


def measured(depth: Callable[[], np.ndarray], scene: Scene, view: View, crop: Crop) -> Measured:
    points = from_points(scene.points[view.seen], view.cam_from_world, crop).reshape(-1).astype(np.float64)
    cells = np.flatnonzero(points)
    return Measured(depth, cells, points[cells], np.linalg.norm(rays(crop), axis=-1).reshape(-1)[cells])


def refuse_other_depth(folder: Path, views: Mapping[str, Measured]) -> None:
    """views: by name. Stop as the four below."""
    pairs = {name: view.pairs(view.depth()) for name, view in views.items()}
    known = {name: found for name, found in pairs.items() if len(found)}
    if known:
        refuse_turned(folder, views, known)
        refuse_other_meaning(folder, np.concatenate([*known.values()]))
        refuse_two_units(folder, known)
        refuse_other_photographs(folder, views, known)


def refuse_turned(folder: Path, views: Mapping[str, Measured], known: Mapping[str, Pairs]) -> None:
    """Stop: the depth fits far better once it is mirrored or turned; its unit does not matter here."""
    if (as_is := scattered(known.values())) <= NOISE:
        return
    others = {
        words: scattered(views[name].pairs(change(views[name].depth())) for name in known)
        for words, change in TURNED.items()
    }
    best = min(others, key=lambda words: others[words])
    if others[best] < as_is / TURNED_BETTER:
        cause = f"the depth of {folder} is as its COLMAP model tells once it is {best}"
        raise Stop(cause, "write depth files as their photographs are stored, the uppermost row first")


def scattered(pairs: Iterable[Pairs]) -> float:
    """The median of views of how much depth over points scatters in each; infinite where none has enough points."""
    found = [scatter(np.log(each[:, 0] / each[:, 1])) for each in pairs if len(each)]
    return float(np.median(found)) if found else float("inf")


def refuse_other_meaning(folder: Path, pairs: Pairs) -> None:
    """Stop: the depth is no z-depth."""
    logs = np.log(pairs).T
    as_is = scatter(logs[0] - logs[1])
    for meaning, constant in OTHER_MEANINGS.items():
        if as_is > NOISE and scatter(constant(*logs)) < as_is / BETTER:
            cause = f"the depth of {folder} is {meaning}, as its COLMAP model tells, and z-depth is due"
            raise Stop(cause, "write the distance along the camera's axis into the depth files")


def scatter(values: np.ndarray) -> float:
    """Median distance from the median."""
    return float(np.median(np.abs(values - np.median(values))))


def refuse_two_units(folder: Path, views: Mapping[str, Pairs]) -> None:
    """Stop: the depth is in another unit than the poses."""
    if (factor := float(np.median([factor_to_points(pairs) for pairs in views.values()]))) != 1:
        raise Stop(
            f"the depth of {folder} is {factor:.4g} times what its COLMAP model says, but both need one unit",
            "scale the model, or divide the values of the depth files (data.depth_scale does that for whole numbers)",
        )


def factor_to_points(pairs: Pairs) -> float:
    """How many times the depth is what the points say, where it is clearly another unit; else 1."""
    low, middle, high = np.percentile(pairs[:, 0] / pairs[:, 1], (25, 50, 75))
    alike = high < middle * SPREAD and low > middle / SPREAD
    return float(middle) if alike and not 1 / FACTOR < middle < FACTOR else 1.0


def refuse_other_photographs(folder: Path, views: Mapping[str, Measured], known: Mapping[str, Pairs]) -> None:
    """Stop: the depth of a view fits another view's far better, or none: it is of another photograph, or no depth."""
    errors = {name: off_by(pairs) for name, pairs in known.items()}
    off = {name: error for name, error in errors.items() if error > NOISE}
    most = min(np.log(FACTOR), max(MUCH, UNUSUAL * float(np.median([*errors.values()]))))
    names = list(views)
    for name, error in off.items():
        near = names[max(names.index(name) - NEIGHBOURS, 0) : names.index(name) + NEIGHBOURS + 1]
        others = {other: off_by(views[name].pairs(views[other].depth())) for other in near if other != name}
        best = min(others, key=lambda one: others[one], default=name)
        said = f"the depth of {name} in {folder} is off by {np.expm1(error):.0%} of what the model says"
        if others and others[best] < error / BETTER:
            cause = f"{said}, and that of {best} by {np.expm1(others[best]):.1%}"
            raise Stop(cause, "give each depth file the name of its photograph")
        if error > most:
            raise Stop(said, "see that the file is the depth of this photograph, or remove it")


def off_by(pairs: Pairs) -> float:
    """The median of the logarithm of the ratio of depth and points; infinite where there are none."""
    return float(np.median(np.abs(np.log(pairs[:, 0] / pairs[:, 1])))) if len(pairs) else float("inf")
