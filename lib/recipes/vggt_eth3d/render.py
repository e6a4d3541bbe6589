"""A small ray caster: textured boxes on a ground plane under a sky, with sun and shadows, through any pycolmap camera.

It exists so that the demo has photographs with exact depth. Axes: x and y on the ground, z up, metres. Depth is z-depth.
"""
from dataclasses import dataclass
from typing import Any

import numpy

from lib.recipes.vggt_eth3d.textures import TEXTURES

SKY, GROUND = -2, -1  # what a ray hits besides box numbers
FAR_M = 80.0  # the ground ends here in haze: no laser reaches it
SHADOW_MAP_PX, SHADOW_REACH_M = 700, 32.0


@dataclass(frozen=True)
class Box:
    """`half` are half side lengths, `world_from_box` a rotation (3, 3). Unscanned things (cars) are in photographs but not in depth."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    texture: str
    colour: tuple[float, float, float]
    world_from_box: Any = None  # None: not turned
    scanned: bool = True


@dataclass(frozen=True)
class World:
    boxes: list[Box]
    ground: tuple[str, tuple[float, float, float]]  # texture and colour
    sun: Any  # (3,) unit vector towards the sun
    light: Any  # (3,) colour of the sunlight
    sky: tuple[Any, Any]  # colours at the horizon and overhead
    seed: int  # of the textures


@dataclass(frozen=True)
class Hits:
    depth: Any  # (h, w), inf in the sky
    number: Any  # (h, w) box number, GROUND or SKY


class Geometry:
    """The boxes of a world as arrays, and its shadow map, made once for all views."""

    def __init__(self, world: World):
        self.world = world
        self.centre = numpy.array([box.centre for box in world.boxes], float)
        self.half = numpy.array([box.half for box in world.boxes], float)
        self.rotation = numpy.array([numpy.eye(3) if box.world_from_box is None else box.world_from_box for box in world.boxes])
        corners = numpy.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        self.corners = numpy.einsum("bij,bkj->bki", self.rotation, corners * self.half[:, None]) + self.centre[:, None]  # (boxes, 8, 3)
        self.sun_axes = axes_towards(world.sun)
        self.shadow = self.shadow_map()

    def cast(self, origin: Any, directions: Any, screen: tuple[Any, Any], corners: Any) -> Hits:
        """The nearest hit of each ray. `screen` are coordinates (h, w) of the rays, `corners` those of the boxes' corners (boxes, 8, 2):
        a box is tried only on the rays that its outline can cover."""
        depth = numpy.full(directions.shape[:2], numpy.inf)
        number = numpy.full(directions.shape[:2], SKY)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            ground = -origin[..., 2] / directions[..., 2]
            hit = (ground > 0) & (ground < numpy.inf)
            depth[hit], number[hit] = ground[hit], GROUND
            edges = [(grid.min(axis), grid.max(axis)) for axis, grid in enumerate(screen)]  # per column, per row
            for i in range(len(self.centre)):
                low, high = corners[i].min(0), corners[i].max(0)
                columns, rows = (span(edges[axis], low[axis], high[axis]) for axis in (0, 1))
                window = (rows, columns)
                self.cast_box(i, origin if origin.ndim == 1 else origin[window], directions[window], depth[window], number[window])
        return Hits(depth, number)

    def cast_box(self, i: int, origin: Any, directions: Any, depth: Any, number: Any) -> None:
        """Slab test in the box's own axes, one axis after the other; `depth` and `number` are views that it updates."""
        start = (origin - self.centre[i]) @ self.rotation[i]
        enter, leave = 0.0, depth
        for axis in range(3):
            along = directions @ self.rotation[i][:, axis]
            first, second = (-self.half[i, axis] - start[..., axis]) / along, (self.half[i, axis] - start[..., axis]) / along
            enter, leave = numpy.maximum(enter, numpy.minimum(first, second)), numpy.minimum(leave, numpy.maximum(first, second))
        nearer = (enter < leave) & (enter > 0)
        numpy.copyto(depth, enter, where=nearer)
        numpy.copyto(number, i, where=nearer)

    def shadow_map(self) -> Any:
        """(px, px): how far the first surface lies from a plane across the sunlight."""
        grid = numpy.linspace(-SHADOW_REACH_M, SHADOW_REACH_M, SHADOW_MAP_PX)
        right, up = numpy.meshgrid(grid, grid)
        origin = 100 * self.world.sun + right[..., None] * self.sun_axes[0] + up[..., None] * self.sun_axes[1]
        directions = numpy.broadcast_to(-self.world.sun, origin.shape)
        return self.cast(origin, directions, (right, up), self.corners @ self.sun_axes[:2].T).depth

    def lit(self, points: Any) -> Any:
        """(n,) bool: which points see the sun; outside the map all do."""
        right, up = (points @ self.sun_axes[:2].T).T
        column, row = (numpy.rint((value / SHADOW_REACH_M + 1) / 2 * (SHADOW_MAP_PX - 1)).astype(int) for value in (right, up))
        inside = (column >= 0) & (column < SHADOW_MAP_PX) & (row >= 0) & (row < SHADOW_MAP_PX)
        lit = numpy.ones(len(points), bool)
        distance = 100 - points[inside] @ self.world.sun
        lit[inside] = distance < self.shadow[row[inside], column[inside]] + 0.15
        return lit

    def hits(self, camera: Any, cam_from_world: Any) -> Hits:
        """What each pixel of a pycolmap camera sees."""
        x, y = pixel_rays(camera)
        directions = numpy.stack([x, y, numpy.ones_like(x)], -1) @ cam_from_world[:, :3]
        origin = -cam_from_world[:, :3].T @ cam_from_world[:, 3]
        corners = self.corners @ cam_from_world[:, :3].T + cam_from_world[:, 3]
        behind = corners[..., 2] < 0.05
        outline = corners[..., :2] / numpy.where(behind, 1.0, corners[..., 2])[..., None]
        outline[behind.any(1)] = numpy.array([[-9.0, -9.0], [9.0, 9.0]] * 4)  # reaches behind the camera: tried on every ray
        outline[behind.all(1)] = 9.0  # beside every ray
        return self.cast(origin, directions, (x, y), outline)

    def photograph(self, camera: Any, cam_from_world: Any, hits: Hits) -> Any:
        """(h, w, 3) float colour in 0..1 of what the pixels see."""
        x, y = pixel_rays(camera)
        directions = numpy.stack([x, y, numpy.ones_like(x)], -1) @ cam_from_world[:, :3]
        origin = -cam_from_world[:, :3].T @ cam_from_world[:, 3]
        picture = self.sky_colour(directions)
        solid = hits.number != SKY
        points = origin + directions[solid] * hits.depth[solid][:, None]
        picture[solid] = self.shade(points, hits.number[solid])
        haze = numpy.clip(hits.depth[solid] / FAR_M, 0, 1)[:, None] ** 2
        picture[solid] = picture[solid] * (1 - haze) + self.world.sky[0] * haze
        return numpy.clip(picture, 0, 1)

    def sky_colour(self, directions: Any) -> Any:
        height = numpy.clip(directions[..., 2] / numpy.linalg.norm(directions, axis=-1), 0, 1)[..., None]
        return self.world.sky[0] * (1 - height) ** 2 + self.world.sky[1] * (1 - (1 - height) ** 2)

    def shade(self, points: Any, number: Any) -> Any:
        """(n, 3): texture times light. The side of a box is the axis along which the point lies farthest out."""
        index = numpy.maximum(number, 0)
        turn = self.rotation[index]
        local = numpy.einsum("nij,ni->nj", turn, points - self.centre[index])
        fraction = local / self.half[index]
        axis = numpy.abs(fraction).argmax(1)
        normal = turn[numpy.arange(len(points)), :, axis] * numpy.sign(fraction[numpy.arange(len(points)), axis])[:, None]
        normal[number == GROUND] = (0, 0, 1)
        axis[number == GROUND] = 2
        place = numpy.einsum("nij,ni->nj", turn, points)  # metres from the world's origin, so that patterns run on from box to box
        place[number == GROUND] = points[number == GROUND]
        across = numpy.array([[1, 2], [0, 2], [0, 1]])[axis]
        colour = self.paint(number, numpy.take_along_axis(place, across, 1), numpy.take_along_axis(fraction, across, 1))
        facing = numpy.clip(normal @ self.world.sun, 0, None) * self.lit(points + 0.03 * normal)
        return colour * (0.55 + 0.12 * normal[:, 2:] + 0.65 * facing[:, None] * self.world.light)

    def paint(self, number: Any, place: Any, fraction: Any) -> Any:
        """(n, 3): each texture is evaluated once, on all pixels that wear it."""
        names = list(TEXTURES)
        surfaces = [(box.texture, box.colour) for box in self.world.boxes] + [self.world.ground]  # GROUND is -1, the last
        wears = numpy.array([names.index(texture) for texture, _ in surfaces])[number]
        base = numpy.array([colour for _, colour in surfaces])[number]
        colour = numpy.empty_like(base)
        for kind in numpy.unique(wears):
            mine = numpy.flatnonzero(wears == kind)
            colour[mine] = TEXTURES[names[kind]](base[mine], place[mine], fraction[mine], self.world.seed + number[mine])
        return colour


def span(edges: tuple[Any, Any], low: float, high: float) -> slice:
    """The columns (or rows) that hold rays between two screen coordinates."""
    inside = numpy.flatnonzero((edges[1] >= low) & (edges[0] <= high))
    return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)


def pixel_rays(camera: Any) -> tuple[Any, Any]:
    """x and y (h, w) of the rays through the pixel centres, at depth 1."""
    column, row = numpy.meshgrid(numpy.arange(camera.width) + 0.5, numpy.arange(camera.height) + 0.5)
    seen = camera.cam_from_img(numpy.stack([column.ravel(), row.ravel()], 1)).reshape(camera.height, camera.width, 2)
    return seen[..., 0], seen[..., 1]


def axes_towards(direction: Any) -> Any:
    """(3, 3): two unit vectors across a direction, and the direction."""
    right = numpy.cross((0.0, 0.0, 1.0), direction)
    right /= numpy.linalg.norm(right)
    return numpy.stack([right, numpy.cross(direction, right), direction])


def look_at(position: Any, target: Any, roll_deg: float = 0.0) -> Any:
    """(3, 4) camera-from-world of a camera at `position` that looks at `target`: x right, y down, z forward."""
    forward = numpy.asarray(target, float) - position
    forward /= numpy.linalg.norm(forward)
    right = numpy.cross(forward, (0.0, 0.0, 1.0))
    right /= numpy.linalg.norm(right)
    angle = numpy.deg2rad(roll_deg)
    down = numpy.cross(forward, right)
    right, down = numpy.cos(angle) * right + numpy.sin(angle) * down, numpy.cos(angle) * down - numpy.sin(angle) * right
    rotation = numpy.stack([right, down, forward])
    return numpy.concatenate([rotation, (-rotation @ numpy.asarray(position, float))[:, None]], 1)
