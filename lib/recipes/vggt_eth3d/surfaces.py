"""Which of many measurements a network pixel sees: splatting with a z-buffer that fills nothing from behind an edge.

Every measurement stands for a patch of surface around it, its reach, which is as wide as the measurements lie apart. A pixel sees
what covers its centre; where that could be either of two surfaces it stays unknown.
"""
from dataclasses import dataclass
from typing import Any

from lib.recipes.vggt_eth3d.crop import Crop


@dataclass(frozen=True)
class Samples:
    """Measurements and the network pixels whose centres they may cover, one pair per element; all (n,)."""

    cell: Any  # row * width + column of the network pixel
    distance: Any  # from the measurement to the pixel's centre, in network pixels: the larger one of across and down
    reach: Any  # how far the surface goes on around the measurement, in network pixels
    depth: Any
    slack: Any  # a measurement that is deeper than another one by less than this lies on the same surface


def splat(cam: Any, reach_px: Any, slack: Any, crop: Crop) -> Samples:
    """Points in front of the camera (n, 3), each with every pixel whose centre is within its reach (n,) in network pixels."""
    import numpy

    k = crop.intrinsics
    column, row = cam[:, 0] / cam[:, 2] * k[0, 0] + k[0, 2], cam[:, 1] / cam[:, 2] * k[1, 1] + k[1, 2]
    left, top = (numpy.maximum(numpy.ceil(place - reach_px), 0) for place in (column, row))
    across = numpy.maximum(numpy.minimum(numpy.floor(column + reach_px), crop.width - 1) - left + 1, 0).astype(numpy.int64)
    down = numpy.maximum(numpy.minimum(numpy.floor(row + reach_px), crop.height - 1) - top + 1, 0).astype(numpy.int64)
    counts = across * down  # most points of a dense scan lie between the centres and cover none
    point = numpy.repeat(numpy.arange(len(cam)), counts)
    place = numpy.arange(len(point)) - numpy.repeat(numpy.cumsum(counts) - counts, counts)
    x, y = left[point].astype(numpy.int64) + place % across[point], top[point].astype(numpy.int64) + place // across[point]
    distance = numpy.maximum(numpy.abs(column[point] - x), numpy.abs(row[point] - y))
    return Samples(y * crop.width + x, distance, reach_px[point], cam[point, 2], slack[point])


def nearest_surface(samples: Samples, crop: Crop) -> Any:
    """(h, w) float32: per pixel the measurement of the front surface that is nearest to its centre, 0 where nothing covers it.

    Where the front surface is covered from more than half its reach away and another lies behind, the centre is near an edge,
    and either could be what it sees: 0. So nothing behind an edge shines through, and no edge grows by more than half a reach.
    """
    import numpy

    rough, _ = in_front(samples, samples.slack, crop)
    steep = slope(rough).ravel()[samples.cell] * 2 * samples.reach  # ground at a flat angle is no edge
    pooled, sure = in_front(samples, samples.slack + steep, crop)
    return numpy.where(sure, pooled, 0)


def in_front(samples: Samples, slack: Any, crop: Crop) -> tuple[Any, Any]:
    """Per pixel (h, w) the depth of the front surface's nearest measurement, and whether it is sure to be what the centre sees."""
    import numpy

    cell, pixels = samples.cell, crop.height * crop.width
    front, closest = numpy.full(pixels, numpy.inf), numpy.full(pixels, numpy.inf)
    numpy.minimum.at(front, cell, samples.depth)
    on_front = samples.depth - slack <= front[cell]
    numpy.minimum.at(closest, cell[on_front], samples.distance[on_front])
    chosen = on_front & (samples.distance == closest[cell])
    pooled, sure = numpy.zeros(pixels, numpy.float32), numpy.ones(pixels, bool)
    sure[cell[~on_front]] = False
    sure[cell[chosen & (samples.distance <= samples.reach / 2)]] = True
    pooled[cell[chosen]] = samples.depth[chosen]
    return pooled.reshape(crop.height, crop.width), sure.reshape(crop.height, crop.width)


def slope(depth: Any) -> Any:
    """(h, w): how much depth changes per pixel on the smoother side of each pixel, across plus down: an edge is on one side only.

    0 where a side is unknown, because the other one could be the edge.
    """
    import numpy

    known = numpy.pad(numpy.where(depth > 0, depth, numpy.nan), 1, constant_values=numpy.nan)
    sides = [numpy.abs(known - numpy.roll(known, step, axis))[1:-1, 1:-1] for axis in (0, 1) for step in (1, -1)]
    down, across = numpy.minimum(sides[0], sides[1]), numpy.minimum(sides[2], sides[3])
    return numpy.nan_to_num(down) + numpy.nan_to_num(across)
