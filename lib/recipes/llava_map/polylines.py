"""Polylines as MapTR compares them: equal arc length, and all orders of points that mean the same curve.

A polyline is (n, 2) in metres in the `bev` frame. It is closed where its first point is repeated as its last.
"""

import numpy as np

FAR_M = -10000.0  # pads the list of orders: never the nearest


def is_closed(vertices: np.ndarray) -> bool:
    return len(vertices) > 2 and bool(np.array_equal(vertices[0], vertices[-1]))


def length_m(vertices: np.ndarray) -> float:
    """Length of a polyline (n, 2) in metres."""
    return float(np.hypot(*np.diff(vertices, axis=0).T).sum())


def resample(vertices: np.ndarray, points: int) -> np.ndarray:
    """Positions at equal arc length, both ends included: (n, 2) -> (points, 2) float64. Edges may have length 0."""
    vertices = np.asarray(vertices, np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(vertices, axis=0).T))])
    wanted = np.linspace(0.0, along[-1], points)
    return np.stack([np.interp(wanted, along, vertices[:, axis]) for axis in (0, 1)], axis=1)


def clamped(points: np.ndarray, half_extent_m: tuple[float, float]) -> np.ndarray:
    """Points (..., 2) moved to the nearest place inside the region of interest: rings are cut 0.2 m outside of it."""
    limit = np.asarray(half_extent_m)
    return np.asarray(np.clip(points, -limit, limit))


def sampled(vertices: np.ndarray, points: int, half_extent_m: tuple[float, float]) -> np.ndarray:
    """(n, 2) -> (points, 2) at equal arc length, inside the region of interest; metres."""
    return clamped(resample(vertices, points), half_extent_m)


def orders(vertices: np.ndarray, points: int, half_extent_m: tuple[float, float], pattern: str = "v4") -> np.ndarray:
    """Every order of the sampled points that is the same curve: (orders, points, 2).

    Open: forward and backward. Closed, "v4": the distinct samples rolled, in both directions (what the MapTR paper
    describes, 2 * (points - 1) orders). Closed, "v2" (what its released configurations use): the ring is started at
    each of its vertices and resampled, in one direction; rings of more vertices keep an even choice of points - 1.
    """
    if not is_closed(vertices):
        line = sampled(vertices, points, half_extent_m)
        return np.stack([line, line[::-1]])
    if pattern == "v2":
        return rotated_rings(vertices, points, half_extent_m)
    return rolled_rings(sampled(vertices, points, half_extent_m))


def rolled_rings(ring: np.ndarray) -> np.ndarray:
    """(points, 2) closed -> (2 * (points - 1), points, 2).

    The repeated point is dropped first and the ring closed again after the roll.
    """
    unique = ring[:-1]
    turns = (np.arange(len(unique))[:, None] + np.arange(len(ring))) % len(unique)
    return np.concatenate([unique[turns], unique[::-1][turns]])


def rotated_rings(vertices: np.ndarray, points: int, half_extent_m: tuple[float, float]) -> np.ndarray:
    """(n, 2) closed -> (starts, points, 2), at most points - 1 starts, in one direction."""
    unique = vertices[:-1]
    starts = np.unique(np.linspace(0, len(unique) - 1, min(len(unique), points - 1)).round().astype(int))
    rings = [np.concatenate([np.roll(unique, -start, axis=0), unique[start : start + 1]]) for start in starts]
    return np.stack([sampled(ring, points, half_extent_m) for ring in rings])


def padded(groups: list[np.ndarray], points: int) -> np.ndarray:
    """Orders of several polylines in one array (instances, most orders, points, 2), filled up with FAR_M."""
    most = max((len(group) for group in groups), default=1)
    array = np.full((len(groups), most, points, 2), FAR_M, np.float32)
    for row, group in zip(array, groups, strict=True):
        row[: len(group)] = group
    return array
