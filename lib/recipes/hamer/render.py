"""A small software rasteriser: no OpenGL, no window, the same picture on every machine."""
from dataclasses import dataclass

import numpy


@dataclass(frozen=True)
class Coverage:
    """What each pixel sees: `face` (h, w), -1 = background; `mix` (h, w, 3) weights of the face's corners; `depth` (h, w) m."""

    face: numpy.ndarray
    mix: numpy.ndarray
    depth: numpy.ndarray

    def interpolate(self, faces: numpy.ndarray, values: numpy.ndarray) -> numpy.ndarray:
        """Values of vertices (v, c) -> of the covered pixels (n, c), in the order of `self.face >= 0`."""
        seen = self.face >= 0
        return (values[faces[self.face[seen]]] * self.mix[seen][..., None]).sum(1)


def cover(points: numpy.ndarray, depth: numpy.ndarray, faces: numpy.ndarray, width: int, height: int) -> Coverage:
    """points (v, 2) px, depth (v,) m, faces (f, 3) -> Coverage. Only faces that turn their outside to the camera are drawn.

    Depth is interpolated linearly in the picture: right for a hand, which is flat compared with its distance.
    """
    plane = planes(points[faces])
    faces_seen = numpy.flatnonzero(numpy.isfinite(plane).all((1, 2)))
    corners = points[faces[faces_seen]]  # (f, 3, 2)
    low = numpy.floor(corners.min(1)).astype(int).clip(0)
    size = (numpy.minimum(numpy.ceil(corners.max(1)).astype(int), [width - 1, height - 1]) - low + 1).clip(0)
    count = size.prod(1)
    which = numpy.repeat(numpy.arange(len(count)), count)
    place = numpy.arange(len(which)) - numpy.repeat(numpy.cumsum(count) - count, count)
    x, y = low[which, 0] + place % size[which, 0], low[which, 1] + place // size[which, 0]
    face = faces_seen[which]
    mix = [p[0][face] * x + p[1][face] * y + p[2][face] for p in plane.transpose(1, 2, 0)]
    inside = (mix[0] >= 0) & (mix[1] >= 0) & (mix[2] >= 0)
    face, x, y, mix = face[inside], x[inside], y[inside], numpy.stack([m[inside] for m in mix], 1)
    z = (depth[faces[face]] * mix).sum(1)
    order = numpy.argsort(-z, kind="stable")  # far to near: the last one written is what is seen
    out = Coverage(numpy.full((height, width), -1), numpy.zeros((height, width, 3)), numpy.full((height, width), numpy.inf))
    where = (y[order], x[order])
    out.face[where], out.mix[where], out.depth[where] = face[order], mix[order], z[order]
    return out


def planes(corners: numpy.ndarray) -> numpy.ndarray:
    """corners (f, 3, 2) -> (f, 3, 3): weight of corner k at pixel (x, y) is [k] . (x, y, 1). Infinite for faces seen from behind."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = cross(b - a, c - a)
    area = numpy.where(area < -1e-9, area, numpy.nan)  # y points down, so an outside face runs clockwise
    rows = [numpy.stack([p[:, 1] - q[:, 1], q[:, 0] - p[:, 0], cross(p, q)], 1) for p, q in ((b, c), (c, a), (a, b))]
    return numpy.stack(rows, 1) / area[:, None, None]


def cross(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def vertex_normals(vertices: numpy.ndarray, faces: numpy.ndarray) -> numpy.ndarray:
    """Outward unit normals (v, 3), weighted by the areas of the faces around."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    flat = numpy.cross(b - a, c - a)
    normals = numpy.zeros_like(vertices)
    for i in range(3):
        numpy.add.at(normals, faces[:, i], flat)
    return normals / numpy.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)


def closed(faces: numpy.ndarray) -> numpy.ndarray:
    """The faces and a fan over the wrist, found as the loop of edges that have one face only."""
    edges = numpy.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there = {(a, b) for a, b in edges.tolist()}
    following = {b: a for a, b in there if (b, a) not in there}  # the hole runs against its faces
    if not following:
        return faces
    first = min(following)
    loop = [first]
    while following[loop[-1]] != first:
        loop.append(following[loop[-1]])
    fan = [(first, loop[i], loop[i + 1]) for i in range(1, len(loop) - 1)]
    return numpy.concatenate([faces, fan])


def shaded(normals: numpy.ndarray, albedo: numpy.ndarray, light: numpy.ndarray, ambient: float = 0.35) -> numpy.ndarray:
    """Lambert with a soft fill from the camera: normals (n, 3), albedo (n, 3) 0 ... 1, light (3,) towards the lamp -> (n, 3)."""
    lamp = (normals @ (light / numpy.linalg.norm(light))).clip(0)
    fill = (-normals[:, 2]).clip(0)
    return albedo * (ambient + (1 - ambient) * (0.75 * lamp + 0.25 * fill))[:, None]
