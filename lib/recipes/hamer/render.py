"""A small software rasteriser: no OpenGL, no window, the same picture on every machine."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Coverage:
    """What each pixel of a picture of h x w sees."""

    face: np.ndarray  # (h, w), -1 = background
    mix: np.ndarray  # (h, w, 3) weights of the face's corners
    depth: np.ndarray  # (h, w) m

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values of vertices (v, c) -> of the covered pixels (n, c), in the order of `self.face >= 0`."""
        seen = self.face >= 0
        return (values[faces[self.face[seen]]] * self.mix[seen][..., None]).sum(1)


def cover(points: np.ndarray, depth: np.ndarray, faces: np.ndarray, width: int, height: int) -> Coverage:
    """points (v, 2) px, depth (v,) m, faces (f, 3), size of the picture in px -> Coverage.

    Only faces that turn their outside to the camera are drawn. Depth is interpolated linearly in the picture: right for
    a hand, which is flat compared with its distance.
    """
    plane = planes(points[faces])
    faces_seen = np.flatnonzero(np.isfinite(plane).all((1, 2)))
    corners = points[faces[faces_seen]]  # (f, 3, 2)
    low = np.floor(corners.min(1)).astype(int).clip(0)
    size = (np.minimum(np.ceil(corners.max(1)).astype(int), [width - 1, height - 1]) - low + 1).clip(0)
    count = size.prod(1)
    which = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    x, y = low[which, 0] + place % size[which, 0], low[which, 1] + place // size[which, 0]
    face = faces_seen[which]
    mix = np.stack([p[0][face] * x + p[1][face] * y + p[2][face] for p in plane.transpose(1, 2, 0)], 1)
    inside = (mix >= 0).all(1)
    face, x, y, mix = face[inside], x[inside], y[inside], mix[inside]
    z = (depth[faces[face]] * mix).sum(1)
    order = np.argsort(-z, kind="stable")  # far to near: the last one written is what is seen
    out = Coverage(np.full((height, width), -1), np.zeros((height, width, 3)), np.full((height, width), np.inf))
    pixels = (y[order], x[order])
    out.face[pixels], out.mix[pixels], out.depth[pixels] = face[order], mix[order], z[order]
    return out


def planes(corners: np.ndarray) -> np.ndarray:
    """corners (f, 3, 2) px -> (f, 3, 3): the weight of corner k at pixel (x, y) is [k] . (x, y, 1).

    NaN for faces seen from behind.
    """
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = cross(b - a, c - a)
    area = np.where(area < -1e-9, area, np.nan)  # y points down, so an outside face runs clockwise
    rows = [np.stack([p[:, 1] - q[:, 1], q[:, 0] - p[:, 0], cross(p, q)], 1) for p, q in ((b, c), (c, a), (a, b))]
    return np.stack(rows, 1) / area[:, None, None]


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of plane vectors: (n, 2), (n, 2) -> (n,)."""
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """vertices (v, 3), faces (f, 3) -> outward unit normals (v, 3), weighted by the areas of the faces around."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    flat = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, faces[:, i], flat)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)


def closed(faces: np.ndarray) -> np.ndarray:
    """The faces (f, 3) and a fan over the wrist, found as the loop of edges that have one face only."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = {(a, b) for a, b in edges.tolist()}
    following = {b: a for a, b in there if (b, a) not in there}  # the hole runs against its faces
    if not following:
        return faces
    first = min(following)
    loop = [first]
    while following[loop[-1]] != first:
        loop.append(following[loop[-1]])
    fan = [(first, loop[i], loop[i + 1]) for i in range(1, len(loop) - 1)]
    return np.concatenate([faces, fan])


def shaded(normals: np.ndarray, albedo: np.ndarray, light: np.ndarray, ambient: float = 0.35) -> np.ndarray:
    """Lambert with a soft fill from the camera.

    normals (n, 3), albedo (n, 3) 0 … 1, light (3,) towards the lamp of any length -> (n, 3) 0 … 1.
    """
    lamp = (normals @ (light / np.linalg.norm(light))).clip(0)
    fill = (-normals[:, 2]).clip(0)
    return albedo * (ambient + (1 - ambient) * (0.75 * lamp + 0.25 * fill))[:, None]
