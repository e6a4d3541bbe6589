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
    """points (v, 2) px, depth (v,) m, faces (f, 3) -> Coverage. Depth is interpolated linearly in the picture: right for flat hands."""
    corners = points[faces]  # (f, 3, 2)
    low = numpy.floor(corners.min(1)).astype(int).clip(0)
    high = numpy.minimum(numpy.ceil(corners.max(1)).astype(int), [width - 1, height - 1])
    size = (high - low + 1).clip(0)
    count = size.prod(1)
    face = numpy.repeat(numpy.arange(len(faces)), count)
    place = numpy.arange(count.sum()) - numpy.repeat(numpy.cumsum(count) - count, count)
    x, y = low[face, 0] + place % size[face, 0], low[face, 1] + place // size[face, 0]
    mix = barycentric(numpy.stack([x, y], 1), corners[face])
    inside = (mix >= 0).all(1)
    face, x, y, mix = face[inside], x[inside], y[inside], mix[inside]
    z = (depth[faces[face]] * mix).sum(1)
    order = numpy.argsort(-z, kind="stable")  # far to near: the last one written is what is seen
    out = Coverage(numpy.full((height, width), -1), numpy.zeros((height, width, 3)), numpy.full((height, width), numpy.inf))
    where = (y[order], x[order])
    out.face[where], out.mix[where], out.depth[where] = face[order], mix[order], z[order]
    return out


def barycentric(points: numpy.ndarray, corners: numpy.ndarray) -> numpy.ndarray:
    """points (n, 2) in triangles (n, 3, 2) -> weights of the corners (n, 3), negative outside; NaN-free for degenerate triangles."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = cross(b - a, c - a)
    area = numpy.where(numpy.abs(area) < 1e-12, numpy.inf, area)
    second, third = cross(points - a, c - a) / area, cross(b - a, points - a) / area
    return numpy.where(numpy.isinf(area)[:, None], -1.0, numpy.stack([1 - second - third, second, third], 1))


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
