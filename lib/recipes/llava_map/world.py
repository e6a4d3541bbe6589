"""Procedural roads for the stand-in data set: each scene drives through a site of its own.

A site is 200 m of gently curved road with one or two lanes a side, often a crossroad, pedestrian crossings and a kerbed
island. Lines that a camera could not see are not in the map, and what is painted is in the map; so a network that
learns here learns to see.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import shapely
import shapely.ops
from shapely import affinity

HALF_LENGTH_M = 100.0  # of a road through its site
SITE_SPACING_M = 300.0  # between sites: no two scenes see the same ground
KERB_RADIUS_M = 3.0
SHOULDER_M = 0.4  # between the outermost lane and the kerb
OVERLAP_M = 0.1  # road segments reach into the intersection, or rounding would leave slits between them


@dataclass
class Site:
    """Geometry in world metres. `path` is the lane that the car follows, in its direction."""

    path: shapely.LineString
    road: shapely.Geometry  # everything inside the kerbs
    segments: list[shapely.Geometry] = field(default_factory=list)
    intersections: list[shapely.Geometry] = field(default_factory=list)
    lanes: list[shapely.Geometry] = field(default_factory=list)
    middles: list[shapely.Geometry] = field(default_factory=list)  # of each lane a line in its direction, or nothing
    joints: list[tuple[int, int]] = field(default_factory=list)  # lanes that go on in one another, across a gap
    centre_lines: list[shapely.Geometry] = field(default_factory=list)
    lane_lines: list[shapely.Geometry] = field(default_factory=list)
    crossings: list[shapely.Geometry] = field(default_factory=list)
    yellow: bool = True  # colour of the centre line


@dataclass(frozen=True)
class Street:
    """A centre line with the same number of lanes on both sides."""

    line: shapely.LineString
    lanes: int
    lane_m: float

    @property
    def half_m(self) -> float:
        return self.lanes * self.lane_m + SHOULDER_M

    def area(self) -> shapely.Geometry:
        return self.line.buffer(self.half_m, cap_style="flat")

    def stretch(self, start_m: float, length_m: float) -> shapely.Geometry:
        """The full width of the street along a piece of it."""
        piece = shapely.ops.substring(self.line, start_m, start_m + length_m)
        return piece.buffer(self.half_m, cap_style="flat")


def build_site(rng: np.random.Generator, centre: tuple[float, float]) -> Site:
    """A random site around a world position; the same generator state gives the same site."""
    main = Street(curve(rng), int(rng.integers(1, 3)), rng.uniform(3.1, 3.7))
    middle_m = main.line.length / 2 + rng.uniform(-35, 35)
    streets = [main]
    if rng.random() < 0.6:
        streets.append(crossroad(rng, main, middle_m))
    core = shapely.union_all([a.area().intersection(b.area()) for a in streets[:1] for b in streets[1:]])
    road = shapely.union_all([street.area() for street in streets]).buffer(KERB_RADIUS_M).buffer(-KERB_RADIUS_M)
    intersection = core.buffer(5).intersection(road) if len(streets) > 1 else core
    island = median_island(rng, main, middle_m)
    road = road.difference(island)
    site = Site(lane_of(main), road, yellow=bool(rng.random() < 0.5))
    site.intersections = parts(intersection.difference(island))
    free = road.difference(intersection.buffer(-OVERLAP_M))
    site.segments = parts(free)
    for street in streets:
        add_markings(site, street, intersection.union(island))
    site.crossings = crossings(rng, main, middle_m, intersection, road)
    return placed(site, rng.uniform(0, 360), centre)


def curve(rng: np.random.Generator) -> shapely.LineString:
    """A road along y; its radius stays above 50 m."""
    along_m = np.linspace(-HALF_LENGTH_M, HALF_LENGTH_M, 81)
    period_m = rng.uniform(160, 320)
    sway_m = rng.uniform(0, 6) * np.sin(2 * np.pi * along_m / period_m + rng.uniform(0, 2 * np.pi))
    return shapely.LineString(np.stack([sway_m, along_m], axis=1))


def crossroad(rng: np.random.Generator, main: Street, middle_m: float) -> Street:
    at = np.array(main.line.interpolate(middle_m).coords[0])
    angle = rng.uniform(-0.25, 0.25)
    reach = HALF_LENGTH_M * np.array([np.cos(angle), np.sin(angle)])
    return Street(shapely.LineString([at - reach, at, at + reach]), 1, rng.uniform(3.1, 3.7))


def median_island(rng: np.random.Generator, main: Street, middle_m: float) -> shapely.Geometry:
    """A kerbed island on the centre line (a hole of the road), in one site of three."""
    if rng.random() > 0.33:
        return shapely.Polygon()
    start_m = middle_m + rng.choice([-1, 1]) * rng.uniform(22, 32)
    return shapely.ops.substring(main.line, start_m, start_m + rng.uniform(5, 10)).buffer(0.7)


def lane_of(street: Street) -> shapely.LineString:
    """The centre of the right lane."""
    return street.line.offset_curve(-0.5 * street.lane_m)


def add_markings(site: Site, street: Street, gaps: shapely.Geometry) -> None:
    """Dividers and lanes, interrupted where the street crosses another or passes an island."""
    site.centre_lines += parts(street.line.difference(gaps))
    for side in (-1, 1):
        for lane in range(street.lanes):
            middle = street.line.offset_curve(side * (lane + 0.5) * street.lane_m)
            strip = middle.buffer(street.lane_m / 2 - 0.05, cap_style="flat")  # inside the road: no slivers in unions
            add_lane(site, middle, side, parts(strip.difference(gaps).intersection(site.road.buffer(-0.02))))
            if lane:
                site.lane_lines += parts(street.line.offset_curve(side * lane * street.lane_m).difference(gaps))


def add_lane(site: Site, middle: shapely.LineString, side: int, areas: list[shapely.Geometry]) -> None:
    """The stretches of one lane; cars on the right side (-1) drive along the street, those on the left against it."""
    way, first = middle if side < 0 else middle.reverse(), len(site.lanes)
    stretches = [way.intersection(area) for area in areas]
    starts = [way.line_locate_point(shapely.Point(line.coords[0])) if is_line(line) else -1 for line in stretches]
    order = [i for i in sorted(range(len(areas)), key=starts.__getitem__) if is_line(stretches[i])]
    site.lanes += areas
    site.middles += [line if is_line(line) else shapely.LineString() for line in stretches]
    site.joints += [(first + one, first + other) for one, other in itertools.pairwise(order)]


def is_line(geometry: shapely.Geometry) -> bool:
    return geometry.geom_type == "LineString" and not geometry.is_empty


def crossings(
    rng: np.random.Generator, main: Street, middle_m: float, intersection: shapely.Geometry, road: shapely.Geometry
) -> list[shapely.Geometry]:
    """Across both arms of the main street at an intersection, else one in the middle of two blocks out of three."""
    width_m = rng.uniform(3, 4.5)
    if intersection.is_empty:
        places = [middle_m] if rng.random() < 0.67 else []
    else:
        inside = main.line.intersection(intersection)
        ends_m = sorted(main.line.line_locate_point(shapely.points(point)) for point in shapely.get_coordinates(inside))
        places = [ends_m[0] - width_m, ends_m[-1]]
    return [area for start_m in places for area in parts(main.stretch(start_m, width_m).intersection(road))]


def parts(geometry: shapely.Geometry) -> list[shapely.Geometry]:
    """Lines and areas of some size; cuts leave crumbs."""
    found = shapely.get_parts(geometry)
    return [part for part in found if part.length > 1.0]


def placed(site: Site, angle_deg: float, centre: tuple[float, float]) -> Site:
    """The site turned and moved to its place in the world."""

    def move(geometry: shapely.Geometry) -> shapely.Geometry:
        return affinity.translate(affinity.rotate(geometry, angle_deg, origin=(0, 0)), *centre)

    shapes = {name: value for name, value in vars(site).items() if isinstance(value, list) and name != "joints"}
    moved = {name: [move(part) for part in value] for name, value in shapes.items()}
    return Site(move(site.path), move(site.road), yellow=site.yellow, joints=site.joints, **moved)
