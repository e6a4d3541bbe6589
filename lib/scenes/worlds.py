"""Worlds for the demo: streets of buildings to adapt to, and generic worlds of boxes that its base network learns from.

Everything follows from a seed. A facade stands in the plane y = 0 of its own frame and looks towards -y.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.scenes.render import Box, World, look_at
from lib.scenes.textures import BUILDING, GENERIC

SKIES = (  # horizon, overhead, sunlight: noon, evening, overcast
    ((0.78, 0.85, 0.93), (0.35, 0.55, 0.85), (1.0, 0.97, 0.9)),
    ((0.95, 0.82, 0.68), (0.45, 0.55, 0.75), (1.15, 0.9, 0.65)),
    ((0.85, 0.86, 0.88), (0.68, 0.72, 0.78), (0.45, 0.45, 0.47)),
)
WALLS = (
    (0.83, 0.78, 0.66), (0.62, 0.34, 0.27), (0.78, 0.7, 0.6), (0.72, 0.62, 0.52), (0.86, 0.84, 0.8), (0.8, 0.62, 0.48),
)  # fmt: skip
GLASS = (0.2, 0.27, 0.34)
Range = tuple[float, float]
Colour = Sequence[float] | np.ndarray  # RGB in 0..1


@dataclass(frozen=True)
class Style:
    """What the floors of a facade have in common; lengths in metres, `window` is width and height."""

    width: float
    bays: int
    window: tuple[float, float]
    recess: float
    texture: str
    wall: np.ndarray  # colours
    trim: np.ndarray


class Block:
    """Boxes of a building that stands at `corner` on the ground, turned by `turn_deg` about the vertical."""

    def __init__(self, corner: tuple[float, float], turn_deg: float = 0.0):
        angle = np.deg2rad(turn_deg)
        self.turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        self.corner = np.array([*corner, 0.0])
        self.boxes: list[Box] = []

    def add(self, x: Range, y: Range, z: Range, texture: str, colour: Colour, scanned: bool = True) -> None:
        """A box between two values of each coordinate, in metres of the building's frame."""
        low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
        centre = self.turn @ ((low + high) / 2) + self.corner
        self.boxes.append(Box(three(centre), three((high - low) / 2), texture, three(colour), self.turn, scanned))


def three(values: Colour) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z


def facade(block: Block, generator: np.random.Generator, width: float) -> None:
    """A building with rows of recessed windows, sills, ledges, a door, a cornice and an attic."""
    floors = int(generator.integers(2, 5))
    storey, ground_floor = generator.uniform(2.9, 3.4), generator.uniform(3.4, 4.2)
    style = facade_style(generator, width)
    height = ground_floor + storey * (floors - 1) + 0.8
    block.add((0, width), (style.recess, 9), (0, height), style.texture, style.wall)
    door = int(generator.integers(style.bays))
    for floor in range(floors):
        base = 0 if floor == 0 else ground_floor + storey * (floor - 1)
        sill = base + (1.1 if floor == 0 else 0.9)
        top = height if floor == floors - 1 else ground_floor + storey * floor
        block.add((0, width), (0, style.recess), (sill + style.window[1], top), style.texture, style.wall)
        window_row(block, generator, style, base, sill, door if floor == 0 else -1)
        if floor < floors - 1 and (floor == 0 or generator.random() < 0.4):
            block.add((-0.1, width + 0.1), (-0.18, 0), (top - 0.15, top + 0.12), "trim", style.trim)
    block.add((-0.3, width + 0.3), (-0.45, 0.2), (height - 0.1, height + 0.35), "trim", style.trim)
    attic(block, generator, width, height + 0.35, style.bays)


def facade_style(generator: np.random.Generator, width: float) -> Style:
    bays = max(2, round(width / generator.uniform(2.2, 3.2)))
    window = (generator.uniform(0.42, 0.58) * width / bays, generator.uniform(1.5, 1.9))
    wall = np.array(WALLS[generator.integers(len(WALLS))]) * generator.uniform(0.9, 1.05)
    trim = np.clip(wall * 1.25, 0, 0.95) if generator.random() < 0.6 else wall * 0.65
    return Style(width, bays, window, generator.uniform(0.25, 0.45), str(generator.choice(BUILDING)), wall, trim)


def window_row(block: Block, generator: np.random.Generator, style: Style, base: float, sill: float, door: int) -> None:
    """One floor's windows: piers between them, glass at the back of the recess, sills in front.

    Bay `door` has the door; -1: no bay has.
    """
    balcony = door < 0 and generator.random() < 0.3
    top, edge = sill + style.window[1], 0.0
    for bay in range(style.bays):
        left = (bay + 0.5) * style.width / style.bays - style.window[0] / 2
        right = left + style.window[0]
        block.add((edge, left), (0, style.recess), (base, top), style.texture, style.wall)
        edge = right
        if bay == door:
            entrance(block, style, left, right, base, top)
            continue
        block.add((left, right), (0, style.recess), (base, sill), style.texture, style.wall)
        block.add((left, right), (style.recess - 0.04, style.recess), (sill, top), "glass", GLASS)
        block.add((left - 0.15, right + 0.15), (-0.2, 0.05), (sill - 0.14, sill), "trim", style.trim)
        if balcony and bay % 2:
            block.add((left - 0.4, right + 0.4), (-1.0, 0), (sill - 0.9, sill - 0.75), "trim", style.trim)
            block.add((left - 0.4, right + 0.4), (-1.0, -0.92), (sill - 0.75, sill + 0.1), "metal", (0.2, 0.22, 0.24))
    block.add((edge, style.width), (0, style.recess), (base, top), style.texture, style.wall)


def entrance(block: Block, style: Style, left: float, right: float, base: float, top: float) -> None:
    """A door in the recess, a step before it and a ledge above it."""
    block.add((left, right), (style.recess - 0.04, style.recess), (base, top), "wood", (0.36, 0.24, 0.16))
    block.add((left - 0.3, right + 0.3), (-0.9, 0), (0, 0.16), "stone", (0.6, 0.58, 0.55))
    block.add((left - 0.25, right + 0.25), (-0.25, 0), (top, top + 0.3), "trim", style.trim)


def attic(block: Block, generator: np.random.Generator, width: float, base: float, bays: int) -> None:
    """A set-back roof storey, sometimes with dormers and a chimney."""
    colour = np.array([[0.45, 0.27, 0.22], [0.33, 0.34, 0.38], [0.5, 0.36, 0.28]][generator.integers(3)])
    rise = generator.uniform(1.2, 2.4)
    for step in range(4):  # a slope in steps, as boxes must have it
        inset, bottom, top = 0.3 + 0.45 * step, base + rise * step / 4, base + rise * (step + 1) / 4
        block.add((inset, width - inset), (inset, 9), (bottom, top), "roof", colour)
    for bay in range(0, bays, 2) if generator.random() < 0.6 else ():
        middle = (bay + 0.5) * width / bays
        block.add((middle - 0.7, middle + 0.7), (0.25, 3), (base, base + 1.3), "trim", colour * 1.3)
        block.add((middle - 0.5, middle + 0.5), (0.2, 0.25), (base + 0.2, base + 1.15), "glass", GLASS)
    chimney = generator.uniform(1, width - 2)
    block.add((chimney, chimney + 0.8), (3, 3.8), (base, base + rise + 1.3), "brick", (0.55, 0.33, 0.27))


def street(seed: int) -> World:
    """A facade between two neighbours, a wing or a free corner, and things in front of it.

    The front lies about x = 0, y = 0.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    width = generator.uniform(11, 16)
    blocks = [Block((-width / 2, 0.0))]
    facade(blocks[0], generator, width)
    for side in (-1, 1):
        beside = generator.uniform(8, 12)
        if generator.random() < 0.45:  # a wing towards the street, which ends before the cameras
            beside = generator.uniform(5, 7.5)
            corner, turn = ((width / 2, 0.0), -90) if side > 0 else ((-width / 2, -beside), 90)
            blocks.append(Block(corner, turn))
        else:
            gap, back = generator.choice([0.0, 3.0]), generator.uniform(-1, 2.5)
            blocks.append(Block((width / 2 + gap if side > 0 else -width / 2 - gap - beside, back)))
        facade(blocks[-1], generator, beside)
    blocks.append(street_things(generator, width))
    grounds = (("paving", (0.55, 0.53, 0.5)), ("asphalt", (0.42, 0.42, 0.44)), ("grass", (0.32, 0.42, 0.2)))
    ground = grounds[generator.integers(3)]
    return world([box for block in blocks for box in block.boxes], ground, generator, seed, front=(0.0, -1.0))


def street_things(generator: np.random.Generator, width: float) -> Block:
    """A parked car (in photographs, not in the scan), lamps, hedges and trees in front of the facade."""
    things = Block((0.0, 0.0))
    x = generator.uniform(-width / 2, width / 2 - 4)
    paint = generator.uniform(0.2, 0.75) + generator.uniform(-0.12, 0.12, 3)
    things.add((x, x + 4.2), (-4.2, -2.5), (0.3, 0.95), "metal", paint, scanned=False)
    things.add((x + 0.8, x + 3.2), (-4.1, -2.6), (0.95, 1.45), "metal", (0.15, 0.18, 0.2), scanned=False)
    for wheel in (x + 0.6, x + 3.2):
        things.add((wheel, wheel + 0.55), (-4.25, -2.45), (0.0, 0.55), "metal", (0.08, 0.08, 0.08), scanned=False)
    for _ in range(generator.integers(1, 4)):
        x, y = generator.uniform(-width / 2, width / 2), generator.uniform(-2.4, -1.0)
        right, top = x + generator.uniform(1.2, 2.6), generator.uniform(0.5, 1.0)
        things.add((x, right), (y - 0.5, y), (0, top), "leaves", (0.24, 0.4, 0.17))
    for _ in range(generator.integers(1, 3)):
        x = generator.uniform(-width / 2, width / 2)
        things.add((x, x + 0.14), (-3.0, -2.86), (0, 4.4), "metal", (0.25, 0.27, 0.28))
        things.add((x - 0.25, x + 0.4), (-3.1, -2.76), (4.4, 4.8), "metal", (0.8, 0.78, 0.7))
    if generator.random() < 0.7:
        x = generator.choice([-1, 1]) * generator.uniform(0.3, 0.55) * width
        tree(things, generator, x, generator.uniform(-5, -3.5))
    return things


def tree(things: Block, generator: np.random.Generator, x: float, y: float) -> None:
    """A trunk under a crown of turned boxes."""
    things.add((x - 0.16, x + 0.16), (y - 0.16, y + 0.16), (0, 2.4), "wood", (0.32, 0.25, 0.19))
    for _ in range(9):
        centre = np.array([x, y, 3.3]) + generator.normal(0, (0.55, 0.55, 0.5))
        half = generator.uniform(0.3, 0.6, 3)
        green = np.array([0.25, 0.4, 0.15]) * generator.uniform(0.8, 1.25)
        things.boxes.append(Box(three(centre), three(half), "leaves", three(green), rotation(generator)))


def box_world(seed: int) -> World:
    """Boxes of any size, turn and pattern on patterned ground.

    Nothing in it is upright, in rows, or looks like a building.
    """
    generator = np.random.Generator(np.random.Philox(key=seed + (1 << 32)))  # no street has such a key
    boxes = []
    for _ in range(generator.integers(10, 28)):
        radius, angle = 9 * np.sqrt(generator.random()), generator.uniform(0, 2 * np.pi)
        centre = (radius * np.cos(angle), radius * np.sin(angle), generator.uniform(0, 3.5))
        half = np.exp(generator.uniform(np.log(0.25), np.log(2.6), 3))
        texture, colour = str(generator.choice(GENERIC)), generator.uniform(0.15, 0.9, 3)
        boxes.append(Box(centre, three(half), texture, three(colour), rotation(generator)))
    ground = (str(generator.choice(GENERIC)), three(generator.uniform(0.25, 0.7, 3)))
    return world(boxes, ground, generator, seed)


def world(
    boxes: list[Box],
    ground: tuple[str, tuple[float, float, float]],
    generator: np.random.Generator,
    seed: int,
    front: tuple[float, float] | None = None,
) -> World:
    """Adds sky and sun.

    In a street the sun stands before the facade (`front` is its direction), at a slant, so that recesses and ledges
    throw shadows.
    """
    horizon, overhead, light = SKIES[generator.integers(len(SKIES))]
    ahead = np.arctan2(front[1], front[0]) + generator.uniform(-1.1, 1.1) if front else generator.uniform(0, 2 * np.pi)
    height = generator.uniform(0.45, 1.05)
    sun = np.array([np.cos(height) * np.cos(ahead), np.cos(height) * np.sin(ahead), np.sin(height)])
    return World(boxes, ground, sun, np.array(light), (np.array(horizon), np.array(overhead)), seed)


def rotation(generator: np.random.Generator) -> np.ndarray:
    """(3, 3): a uniformly random rotation."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(generator.normal(size=4)).as_matrix()


def street_views(seed: int, count: int) -> list[np.ndarray]:
    """Poses (3, 4) of a walk along the facade and back, nearer and farther, as a person with a camera takes it."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    views = []
    for i in range(count):
        along = 2 * abs((i / count * 2) % 2 - 1) - 1  # 1 .. -1 .. 1
        x = 4.8 * along + generator.uniform(-0.6, 0.6)
        y = -generator.uniform(9, 12.5) if i < count / 2 else -generator.uniform(12.5, 17)
        target = (generator.uniform(-6, 6) - 0.2 * x, 0.0, generator.uniform(3.4, 5.0))
        views.append(look_at((x, y, generator.uniform(1.5, 2.3)), target, generator.uniform(-1.5, 1.5)))
    return views


def box_views(seed: int, count: int) -> list[np.ndarray]:
    """Poses (3, 4) on part of a circle around a box world, at different heights, outside of its boxes."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    start, arc = generator.uniform(0, 2 * np.pi), generator.uniform(0.5, 1.6)
    views = []
    for _ in range(count):
        angle, radius = start + arc * generator.random(), generator.uniform(12.5, 17)
        position = np.array([radius * np.cos(angle), radius * np.sin(angle), generator.uniform(0.8, 6.5)])
        target = np.array([generator.uniform(-2.5, 2.5), generator.uniform(-2.5, 2.5), generator.uniform(0.5, 2.5)])
        views.append(look_at(position, target, generator.uniform(-6, 6)))
    return views
