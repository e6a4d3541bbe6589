"""Which of many measurements a network pixel sees: splatting with a z-buffer that fills nothing from behind an edge.

Every measurement stands for a patch of surface around it, its reach, which is as wide as the measurements lie apart. A
pixel sees what covers its centre; where that could be either of two surfaces it stays unknown.
"""

from dataclasses import dataclass

import numpy as np

from lib.scenes.crop import Crop


@dataclass(frozen=True)
class Samples:
    """Measurements and the network pixels whose centres they may cover, one pair per element; all (n,)."""

    cell: np.ndarray  # row * width + column of the network pixel
    distance: np.ndarray  # from the measurement to the pixel's centre, in network pixels: the larger of across and down
    reach: np.ndarray  # how far the surface goes on around the measurement, in network pixels
    depth: np.ndarray  # in the unit of the scene
    slack: np.ndarray  # a measurement that is deeper than another one by less than this lies on the same surface


def splat(cam: np.ndarray, reach_px: np.ndarray, slack: np.ndarray, crop: Crop) -> Samples:
    """Points in front of the camera (n, 3), each with every pixel whose centre is within its reach (n,).

    reach_px is in network pixels, slack (n,) in the unit of the points.
    """
    k = crop.intrinsics
    column, row = cam[:, 0] / cam[:, 2] * k[0, 0] + k[0, 2], cam[:, 1] / cam[:, 2] * k[1, 1] + k[1, 2]
    left, top = (np.maximum(np.ceil(place - reach_px), 0) for place in (column, row))
    across = np.maximum(np.minimum(np.floor(column + reach_px), crop.width - 1) - left + 1, 0).astype(np.int64)
    down = np.maximum(np.minimum(np.floor(row + reach_px), crop.height - 1) - top + 1, 0).astype(np.int64)
    counts = across * down  # most points of a dense scan lie between the centres and cover none
    point = np.repeat(np.arange(len(cam)), counts)
    place = np.arange(len(point)) - np.repeat(np.cumsum(counts) - counts, counts)
    x, y = left[point].astype(np.int64) + place % across[point], top[point].astype(np.int64) + place // across[point]
    distance = np.maximum(np.abs(column[point] - x), np.abs(row[point] - y))
    return Samples(y * crop.width + x, distance, reach_px[point], cam[point, 2], slack[point])


def nearest_surface(samples: Samples, crop: Crop) -> np.ndarray:
    """(h, w) float32: per pixel the measurement of the front surface that is nearest to its centre, 0 without one.

    Where the front surface is covered from more than half its reach away and another lies behind, the centre is near an
    edge, and either could be what it sees: 0. So nothing behind an edge shines through, and no edge grows by more than
    half a reach.
    """
    rough, _ = in_front(samples, samples.slack, crop)
    steep = slope(rough).ravel()[samples.cell] * 2 * samples.reach  # ground at a flat angle is not an edge
    pooled, sure = in_front(samples, samples.slack + steep, crop)
    return np.where(sure, pooled, 0)


def in_front(samples: Samples, slack: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel (h, w) the depth of the front surface's nearest measurement, float32, and whether it is sure to be what
    the centre sees, bool.
    """
    cell, pixels = samples.cell, crop.height * crop.width
    front, closest = np.full(pixels, np.inf), np.full(pixels, np.inf)
    np.minimum.at(front, cell, samples.depth)
    on_front = samples.depth - slack <= front[cell]
    np.minimum.at(closest, cell[on_front], samples.distance[on_front])
    chosen = on_front & (samples.distance == closest[cell])
    pooled, sure = np.zeros(pixels, np.float32), np.ones(pixels, bool)
    sure[cell[~on_front]] = False
    sure[cell[chosen & (samples.distance <= samples.reach / 2)]] = True
    pooled[cell[chosen]] = samples.depth[chosen]
    return pooled.reshape(crop.height, crop.width), sure.reshape(crop.height, crop.width)


def slope(depth: np.ndarray) -> np.ndarray:
    """(h, w): how much depth (h, w) changes per pixel on the smoother side of each pixel, across plus down.

    The smoother side, because an edge is on one side only; 0 where a side is unknown, because the other one could be
    the edge.
    """
    known = np.pad(np.where(depth > 0, depth, np.nan), 1, constant_values=np.nan)
    sides = [np.abs(known - np.roll(known, step, axis))[1:-1, 1:-1] for axis in (0, 1) for step in (1, -1)]
    down, across = np.minimum(sides[0], sides[1]), np.minimum(sides[2], sides[3])
    return np.nan_to_num(down) + np.nan_to_num(across)
