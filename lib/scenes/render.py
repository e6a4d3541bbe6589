"""A small ray caster: textured boxes on a ground plane under a sky, with sun and shadows, through any pycolmap camera.

It exists so that the demo has photographs with exact depth. Axes: x and y on the ground, z up, metres. Depth is
z-depth. Cameras are pycolmap.Camera, poses camera from world (3, 4).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.scenes.textures import TEXTURES

SKY, GROUND = -2, -1  # what a ray hits besides box numbers
FAR_M = 80.0  # the ground ends here in haze: no laser reaches it
SHADOW_MAP_PX, SHADOW_REACH_M = 700, 32.0


@dataclass(frozen=True)
class Box:
    """A textured box; `colour` is RGB in 0..1."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]  # half the lengths of the sides
    texture: str
    colour: tuple[float, float, float]
    world_from_box: np.ndarray | None = None  # rotation (3, 3); None: not turned
    scanned: bool = True  # False: in photographs and not in depth, like a parked car


@dataclass(frozen=True)
class World:
    boxes: list[Box]
    ground: tuple[str, tuple[float, float, float]]  # texture and colour
    sun: np.ndarray  # (3,) unit vector towards the sun
    light: np.ndarray  # (3,) colour of the sunlight
    sky: tuple[np.ndarray, np.ndarray]  # colours (3,) at the horizon and overhead
    seed: int  # of the textures


@dataclass(frozen=True)
class Hits:
    depth: np.ndarray  # (h, w), inf in the sky
    number: np.ndarray  # (h, w) box number, GROUND or SKY


class Geometry:
    """The boxes of a world as arrays, and its shadow map, made once for all views."""

    def __init__(self, world: World):
        self.world = world
        self.centre = np.array([box.centre for box in world.boxes], float)
        self.half = np.array([box.half for box in world.boxes], float)
        self.rotation = np.array(
            [np.eye(3) if box.world_from_box is None else box.world_from_box for box in world.boxes]
        )
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        turned = np.einsum("bij,bkj->bki", self.rotation, signs * self.half[:, None])
        self.corners = turned + self.centre[:, None]  # (boxes, 8, 3)
        self.sun_axes = axes_towards(world.sun)
        self.shadow = self.shadow_map()

    def cast(
        self,
        origin: np.ndarray,
        directions: np.ndarray,
        screen: tuple[np.ndarray, np.ndarray],
        corners: np.ndarray,
    ) -> Hits:
        """The nearest hit of each ray from `origin`, (3,) or (h, w, 3), along `directions` (h, w, 3).

        `screen` are coordinates (h, w) of the rays, `corners` those of the boxes' corners (boxes, 8, 2): a box is tried
        only on the rays that its outline can cover.
        """
        depth = np.full(directions.shape[:2], np.inf)
        number = np.full(directions.shape[:2], SKY)
        with np.errstate(divide="ignore", invalid="ignore"):
            ground = -origin[..., 2] / directions[..., 2]
            hit = (ground > 0) & (ground < np.inf)
            depth[hit], number[hit] = ground[hit], GROUND
            edges = [(grid.min(axis), grid.max(axis)) for axis, grid in enumerate(screen)]  # per column, per row
            for i in range(len(self.centre)):
                low, high = corners[i].min(0), corners[i].max(0)
                columns, rows = (span(edges[axis], low[axis], high[axis]) for axis in (0, 1))
                window = (rows, columns)
                start = origin if origin.ndim == 1 else origin[window]
                self.cast_box(i, start, directions[window], depth[window], number[window])
        return Hits(depth, number)

    def cast_box(
        self, i: int, origin: np.ndarray, directions: np.ndarray, depth: np.ndarray, number: np.ndarray
    ) -> None:
        """Slab test in the box's own axes, one axis after the other; `depth` and `number` are views that it updates."""
        start = (origin - self.centre[i]) @ self.rotation[i]
        enter, leave = np.zeros(()), depth
        for axis in range(3):
            along = directions @ self.rotation[i][:, axis]
            first, second = ((side * self.half[i, axis] - start[..., axis]) / along for side in (-1, 1))
            enter, leave = np.maximum(enter, np.minimum(first, second)), np.minimum(leave, np.maximum(first, second))
        nearer = (enter < leave) & (enter > 0)
        np.copyto(depth, enter, where=nearer)
        np.copyto(number, i, where=nearer)

    def shadow_map(self) -> np.ndarray:
        """(px, px): how far the first surface lies from a plane across the sunlight."""
        grid = np.linspace(-SHADOW_REACH_M, SHADOW_REACH_M, SHADOW_MAP_PX)
        right, up = np.meshgrid(grid, grid)
        origin = 100 * self.world.sun + right[..., None] * self.sun_axes[0] + up[..., None] * self.sun_axes[1]
        directions = np.broadcast_to(-self.world.sun, origin.shape)
        return self.cast(origin, directions, (right, up), self.corners @ self.sun_axes[:2].T).depth

    def lit(self, points: np.ndarray) -> np.ndarray:
        """(n,) bool: which points (n, 3) see the sun; outside the map all do."""
        across_sun = (points @ self.sun_axes[:2].T).T
        column, row = np.rint((across_sun / SHADOW_REACH_M + 1) / 2 * (SHADOW_MAP_PX - 1)).astype(int)
        inside = (column >= 0) & (column < SHADOW_MAP_PX) & (row >= 0) & (row < SHADOW_MAP_PX)
        lit = np.ones(len(points), bool)
        distance = 100 - points[inside] @ self.world.sun
        lit[inside] = distance < self.shadow[row[inside], column[inside]] + 0.15
        return lit

    def hits(self, camera: Any, cam_from_world: np.ndarray) -> Hits:
        """What each pixel of a camera sees."""
        x, y = pixel_rays(camera)
        directions = np.stack([x, y, np.ones_like(x)], -1) @ cam_from_world[:, :3]
        origin = -cam_from_world[:, :3].T @ cam_from_world[:, 3]
        corners = self.corners @ cam_from_world[:, :3].T + cam_from_world[:, 3]
        behind = corners[..., 2] < 0.05
        outline = corners[..., :2] / np.where(behind, 1.0, corners[..., 2])[..., None]
        outline[behind.any(1)] = [[-9.0, -9.0], [9.0, 9.0]] * 4  # reaches behind the camera: tried on every ray
        outline[behind.all(1)] = 9.0  # beside every ray
        return self.cast(origin, directions, (x, y), outline)

    def photograph(self, camera: Any, cam_from_world: np.ndarray, hits: Hits) -> np.ndarray:
        """(h, w, 3) float colour in 0..1 of what the pixels see."""
        x, y = pixel_rays(camera)
        directions = np.stack([x, y, np.ones_like(x)], -1) @ cam_from_world[:, :3]
        origin = -cam_from_world[:, :3].T @ cam_from_world[:, 3]
        picture = self.sky_colour(directions)
        solid = hits.number != SKY
        points = origin + directions[solid] * hits.depth[solid][:, None]
        picture[solid] = self.shade(points, hits.number[solid])
        haze = np.clip(hits.depth[solid] / FAR_M, 0, 1)[:, None] ** 2
        picture[solid] = picture[solid] * (1 - haze) + self.world.sky[0] * haze
        return np.clip(picture, 0, 1)

    def sky_colour(self, directions: np.ndarray) -> np.ndarray:
        """(h, w, 3): from the horizon's colour to that overhead."""
        height = np.clip(directions[..., 2] / np.linalg.norm(directions, axis=-1), 0, 1)[..., None]
        return self.world.sky[0] * (1 - height) ** 2 + self.world.sky[1] * (1 - (1 - height) ** 2)

    def shade(self, points: np.ndarray, number: np.ndarray) -> np.ndarray:
        """(n, 3): texture times light at points (n, 3) of the boxes `number` (n,).

        The side of a box is the axis along which the point lies farthest out.
        """
        index = np.maximum(number, 0)
        turn = self.rotation[index]
        local = np.einsum("nij,ni->nj", turn, points - self.centre[index])
        fraction = local / self.half[index]
        axis = np.abs(fraction).argmax(1)
        normal = turn[np.arange(len(points)), :, axis] * np.sign(fraction[np.arange(len(points)), axis])[:, None]
        normal[number == GROUND] = (0, 0, 1)
        axis[number == GROUND] = 2
        # Metres from the world's origin, so that patterns run on from box to box.
        place = np.einsum("nij,ni->nj", turn, points)
        place[number == GROUND] = points[number == GROUND]
        across = np.array([[1, 2], [0, 2], [0, 1]])[axis]
        colour = self.paint(number, np.take_along_axis(place, across, 1), np.take_along_axis(fraction, across, 1))
        facing = np.clip(normal @ self.world.sun, 0, None) * self.lit(points + 0.03 * normal)
        return colour * (0.55 + 0.12 * normal[:, 2:] + 0.65 * facing[:, None] * self.world.light)

    def paint(self, number: np.ndarray, place: np.ndarray, fraction: np.ndarray) -> np.ndarray:
        """(n, 3): each texture is evaluated once, on all pixels that wear it (arguments: textures.py)."""
        names = list(TEXTURES)
        surfaces = [*((box.texture, box.colour) for box in self.world.boxes), self.world.ground]  # GROUND is the last
        wears = np.array([names.index(texture) for texture, _ in surfaces])[number]
        base = np.array([colour for _, colour in surfaces])[number]
        colour = np.empty_like(base)
        for kind in np.unique(wears):
            mine = np.flatnonzero(wears == kind)
            seed = self.world.seed + number[mine]
            colour[mine] = TEXTURES[names[kind]](base[mine], place[mine], fraction[mine], seed)
        return colour


def span(edges: tuple[np.ndarray, np.ndarray], low: float, high: float) -> slice:
    """The columns (or rows) that hold rays between two screen coordinates."""
    inside = np.flatnonzero((edges[1] >= low) & (edges[0] <= high))
    return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)


def pixel_rays(camera: Any) -> tuple[np.ndarray, np.ndarray]:
    """x and y (h, w) of the rays through the pixel centres, at depth 1."""
    column, row = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    seen = camera.cam_from_img(np.stack([column.ravel(), row.ravel()], 1)).reshape(camera.height, camera.width, 2)
    return seen[..., 0], seen[..., 1]


def axes_towards(direction: np.ndarray) -> np.ndarray:
    """(3, 3): two unit vectors across a direction (3,), and the direction."""
    right = np.cross((0.0, 0.0, 1.0), direction)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(direction, right), direction])


def look_at(position: Any, target: Any, roll_deg: float = 0.0) -> np.ndarray:
    """(3, 4) camera-from-world of a camera at `position` that looks at `target`: x right, y down, z forward."""
    forward = np.asarray(target, float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    angle = np.deg2rad(roll_deg)
    down = np.cross(forward, right)
    right, down = np.cos(angle) * right + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * right
    rotation = np.stack([right, down, forward])
    return np.concatenate([rotation, (-rotation @ np.asarray(position, float))[:, None]], 1)
