"""How far the surface around each measurement of a depth map goes on, and what it covers.

A map of 24 megapixels is worked through in parts that stay in the processor's cache.
"""

from collections.abc import Callable
from itertools import product

import numpy as np

MOST_REACH_PX = 6  # holes in a depth map wider than twice this stay holes
HALF_PX = 3  # of the side of a neighbourhood of seven by seven pixels, without the middle
BAND = 32  # rows of the map at once; with 128 it takes 1.5 times as long
PIECE = 1 << 14  # pixels of the network at once; with all of them it takes twice as long


def within_reach(pixels: np.ndarray, reach: np.ndarray) -> list[np.ndarray]:
    """Pairs of a point and a measurement that covers it, all (n,): the number of the point, the distance (the larger of
    across and down), the measurement's reach, and the place of the measurement in the map, row * w + column.

    pixels: (points, 2), x and y in pixels of the map, whose centres lie at + 0.5. reach: (h, w) of `reach_px`.
    """
    found, (height, width), farthest = [], reach.shape, int(reach.max() + 0.5)
    for first in range(0, len(pixels), PIECE):
        column, row = pixels[first : first + PIECE].T
        left, top = np.floor(column).astype(int), np.floor(row).astype(int)
        for down, across in product(range(-farthest, farthest + 1), repeat=2):
            place = (top + down) * width + left + across
            covers = reach.take(place, mode="clip")
            point = np.flatnonzero(covers >= max(abs(down), abs(across), 1) - 0.5)  # the centre is no nearer than that
            x, y = left[point] + across, top[point] + down
            distance = np.maximum(np.abs(column[point] - x - 0.5), np.abs(row[point] - y - 0.5))
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # beyond the end of a row lies the next one
            point, distance = (part[inside & (distance <= covers[point])] for part in (point, distance))
            found.append((first + point, distance, covers[point], place[point]))
    return [np.concatenate(part) for part in zip(*found, strict=True)]


def reach_px(known: np.ndarray) -> np.ndarray:
    """(h, w) float32: how far from a measurement its surface is taken to go on, in pixels of the map; 0 without one.

    known: (h, w) bool, where the map has measurements. The reach is 1.25 spacings, by the density near the measurement.
    With 1, a surface that covers the centre of a network pixel has a measurement within reach if the laser left no
    holes; the rest is for holes. The densest neighbourhood counts, so that surfaces do not grow at the border of what
    is known (the sky).
    """
    height, reach = len(known), np.empty(known.shape, np.float32)
    wide = np.pad(known, HALF_PX, mode="edge").view(np.uint8)
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        first, last = max(top - HALF_PX, 0), min(bottom + HALF_PX, height)
        share = density(wide[first : last + 2 * HALF_PX])
        share = np.pad(share, ((first - top + HALF_PX, bottom + HALF_PX - last), (HALF_PX, HALF_PX)))
        densest = over_seven(over_seven(share, np.maximum).T, np.maximum).T
        spacings = 1.25 / np.sqrt(np.maximum(densest, 1e-3))
        reach[top:bottom] = np.where(known[top:bottom], np.minimum(spacings, MOST_REACH_PX), 0)
    return reach


def density(known: np.ndarray) -> np.ndarray:
    """(h + 6, w + 6) uint8, 1 where there is a measurement -> (h, w) float32: the share around each pixel."""
    down = over_seven(known, np.add) / np.float32(7)
    across = over_seven(down.astype(np.float64).T, np.add).T  # sums that float64 does not round
    return (across / 7).astype(np.float32)


def over_seven(values: np.ndarray, combine: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """(n, m) -> (n - 6, m): what `combine` makes of each seven values that follow one another in a column."""
    two = combine(values[:-1], values[1:])
    four = combine(two[:-2], two[2:])
    return combine(combine(four[:-3], two[4:-1]), values[6:])
