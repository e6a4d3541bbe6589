"""Pictures of a site: the ground is painted once from above, and each camera looks its pixels up on it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
import shapely.ops
from PIL import Image, ImageDraw, ImageFilter

from lib.recipes.llava_map.world import HALF_LENGTH_M, Site

CELL_M = 0.1  # of the painted ground
MARGIN_M = 5.0
FARTHEST_M = 70.0  # then the sky begins
SUBROWS = 3  # samples above one another in a pixel: far rows cover metres of road
LEVELS = 6  # of the picture pyramid

KERB_M, CENTRE_M, LANE_M, STRIPE_M = 0.3, 0.2, 0.15, 0.5
DASH_M, GAP_M = 3.0, 4.5
KERB, WHITE, YELLOW = (196, 192, 186), (235, 235, 230), (232, 182, 40)
PAVEMENT, SKY_TOP, SKY_LOW = (150, 142, 132), (96, 140, 196), (206, 216, 226)


@dataclass
class Ground:
    """A painted square seen from above: `levels` halve in size, row 0 is the largest y."""

    left_m: float
    top_m: float
    levels: list[np.ndarray]


def paint(site: Site, centre: tuple[float, float], rng: np.random.Generator) -> Ground:
    """The ground of a site as pictures of falling size."""
    side_px = int(2 * (HALF_LENGTH_M + MARGIN_M) / CELL_M)
    left_m, top_m = centre[0] - HALF_LENGTH_M - MARGIN_M, centre[1] + HALF_LENGTH_M + MARGIN_M
    canvas = Image.new("RGB", (side_px, side_px), tuple(int(c) for c in rng.uniform((70, 95, 40), (120, 135, 70))))
    draw = ImageDraw.Draw(canvas)

    def pixels(coordinates: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [((x - left_m) / CELL_M, (top_m - y) / CELL_M) for x, y in coordinates]

    def fill(area: shapely.Geometry, colour: tuple[int, int, int]) -> None:
        for part in shapely.get_parts(area):
            draw.polygon(pixels(part.exterior.coords), fill=colour)

    grey = int(rng.uniform(60, 100))
    asphalt = (grey, grey, grey + 4)
    fill(site.road.buffer(2.5), PAVEMENT)
    fill(site.road.buffer(KERB_M / 2), KERB)
    fill(site.road.buffer(-KERB_M / 2), asphalt)
    for hole in (ring for part in shapely.get_parts(site.road) for ring in part.interiors):
        fill(shapely.Polygon(hole).buffer(KERB_M / 2), KERB)
        fill(shapely.Polygon(hole).buffer(-KERB_M / 2), PAVEMENT)
    for area in site.crossings:
        for stripe in zebra(area):
            fill(stripe, WHITE)
    for line in site.lane_lines:
        for dash in dashes(line):
            fill(dash.buffer(LANE_M / 2, cap_style="flat"), WHITE)
    for line in site.centre_lines:
        fill(line.buffer(CENTRE_M / 2, cap_style="flat"), YELLOW if site.yellow else WHITE)
    return Ground(left_m, top_m, pyramid(weathered(canvas, rng)))


def zebra(area: shapely.Geometry) -> list[shapely.Geometry]:
    """Stripes along the driving direction, half of the crossing's surface."""
    box = shapely.minimum_rotated_rectangle(area)
    corners = shapely.get_coordinates(box)[:4]
    across, along = corners[1] - corners[0], corners[3] - corners[0]
    if np.hypot(*across) < np.hypot(*along):
        across, along = along, across
    steps = np.arange(0, np.hypot(*across), 2 * STRIPE_M) / np.hypot(*across)
    width = across / np.hypot(*across) * STRIPE_M
    return [
        shapely.Polygon([at, at + width, at + width + along, at + along]) for at in corners[0] + steps[:, None] * across
    ]


def dashes(line: shapely.LineString) -> list[shapely.Geometry]:
    starts_m = np.arange(0, line.length, DASH_M + GAP_M)
    return [shapely.ops.substring(line, start_m, min(start_m + DASH_M, line.length)) for start_m in starts_m]


def weathered(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """The canvas as (rows, columns, 3) uint8, with stains and grain: colour alone must not tell the surfaces apart."""
    size = canvas.size[0]
    stains = Image.fromarray(rng.integers(0, 255, (size // 60, size // 60), dtype=np.uint8)).resize(
        canvas.size, Image.Resampling.BICUBIC
    )
    stain = np.asarray(stains.filter(ImageFilter.BoxBlur(4)), np.int16)[..., None] - 128
    grain = np.tile(rng.integers(-10, 11, (256, 256, 1), dtype=np.int16), (size // 256 + 1, size // 256 + 1, 1))[
        :size, :size
    ]
    worn: np.ndarray = np.clip(np.asarray(canvas, np.int16) + stain // 6 + grain, 0, 255)
    return worn.astype(np.uint8)


def pyramid(picture: np.ndarray) -> list[np.ndarray]:
    """LEVELS pictures, each half the size of the one before: means of four pixels."""
    levels = [picture]
    for _ in range(LEVELS - 1):
        even = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2].astype(np.uint16)
        levels.append(((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) // 4).astype(np.uint8))
    return levels


@dataclass
class View:
    """What a camera's pixels hit on the ground, in the car's frame; it does not change while the car drives.

    Samples are sorted by their level of the pyramid, so that a level's samples are a slice.
    """

    hits_m: np.ndarray  # (samples, 2) ego x, y
    slices: list[slice]  # of each level
    pixel: np.ndarray  # (samples,) flat index into the picture
    sky: np.ndarray  # (height, width, 3) what is above, as far as a pixel is not ground


def view_of(ego_from_cam: np.ndarray, intrinsics: np.ndarray, width_px: int, height_px: int) -> View:
    """Ground hits of every pixel, SUBROWS samples each, nearer than FARTHEST_M.

    ego_from_cam (4, 4) in metres, intrinsics (3, 3) in pixels.
    """
    rows = (np.arange(height_px * SUBROWS) + 0.5) / SUBROWS
    u, v = np.meshgrid(np.arange(width_px) + 0.5, rows)
    rays_cam = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(intrinsics).T
    rays = rays_cam @ ego_from_cam[:3, :3].T
    depth_m = -ego_from_cam[2, 3] / np.minimum(rays[..., 2], -1e-6)
    seen = (rays[..., 2] < -1e-3) & (depth_m < FARTHEST_M)
    footprint_m = depth_m**2 / (intrinsics[1, 1] * ego_from_cam[2, 3] * SUBROWS)
    level = np.clip(np.log2(np.maximum(footprint_m / CELL_M, 1)), 0, LEVELS - 1).round().astype(int)
    hits_m = ego_from_cam[:2, 3] + depth_m[..., None] * rays[..., :2]
    pixel = np.broadcast_to(
        (np.arange(height_px * SUBROWS) // SUBROWS * width_px)[:, None] + np.arange(width_px), u.shape
    )
    shade = np.linspace(0, 1, height_px)[:, None, None]
    ground = np.bincount(pixel[seen], minlength=height_px * width_px).reshape(height_px, width_px, 1) / SUBROWS
    sky = ((1 - shade) * SKY_TOP + shade * SKY_LOW) * (1 - ground)
    order = np.argsort(level[seen], kind="stable")
    starts = np.searchsorted(level[seen][order], np.arange(LEVELS + 1)).tolist()
    return View(hits_m[seen][order], list(map(slice, starts, starts[1:])), pixel[seen][order], sky)


def photograph(ground: Ground, view: View, world_from_ego: np.ndarray, gain: float) -> np.ndarray:
    """The picture (height, width, 3) uint8 of a camera whose car is at `world_from_ego` (4, 4); `gain` is the light."""
    world_m = view.hits_m @ world_from_ego[:2, :2].T + world_from_ego[:2, 3]
    colours = np.empty((len(world_m), 3), np.float32)
    for number, (level, chosen) in enumerate(zip(ground.levels, view.slices, strict=True)):
        cell_m = CELL_M * 2**number
        column = ((world_m[chosen, 0] - ground.left_m) / cell_m).astype(int).clip(0, level.shape[1] - 1)
        row = ((ground.top_m - world_m[chosen, 1]) / cell_m).astype(int).clip(0, level.shape[0] - 1)
        colours[chosen] = level[row, column]
    height_px, width_px, _ = view.sky.shape
    sums = np.stack([np.bincount(view.pixel, colours[:, c], height_px * width_px) for c in range(3)], axis=1)
    picture = sums.reshape(height_px, width_px, 3) / SUBROWS + view.sky
    lit: np.ndarray = np.clip(picture * gain, 0, 255)
    return lit.astype(np.uint8)
