"""Procedural textures of the stand-in scenes: colours as functions of the place on a surface.

texture(base, place, fraction, seed) -> (n, 3). base: (n, 3) colour; place: (n, 2) metres; fraction: (n, 2) in -1..1
across the side of the box; seed: (n,), the same all over a box.
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def scatter(*integers: Array | int) -> Array:
    """(n,) in 0..1, unrelated for neighbouring integers (Wang's 32-bit hash)."""
    state = np.full(np.broadcast(*integers).shape, 0x9E3779B9, np.uint32)
    for values in integers:
        state = (state ^ np.asarray(values).astype(np.int64).astype(np.uint32)) * np.uint32(0x27D4EB2D)
        state ^= state >> np.uint32(15)
    return (state >> np.uint32(8)).astype(float) / (1 << 24)


def noise(place: Array, cell_m: float, seed: Array | int) -> Array:
    """(n,) smooth value noise in -1..1 with bumps of the given size, at places (n, 2) in metres."""
    corner = np.floor(place / cell_m)
    weight = place / cell_m - corner
    weight = weight * weight * (3 - 2 * weight)
    x, y = corner.astype(np.int64).T
    low = scatter(x, y, seed) * (1 - weight[:, 0]) + scatter(x + 1, y, seed) * weight[:, 0]
    high = scatter(x, y + 1, seed) * (1 - weight[:, 0]) + scatter(x + 1, y + 1, seed) * weight[:, 0]
    return 2 * (low * (1 - weight[:, 1]) + high * weight[:, 1]) - 1


def courses(
    base: Array, place: Array, width_m: float, height_m: float, joint_m: float, variety: float, joint: float
) -> Array:
    """Bricks, blocks or slabs in running bond: each has its own tint, joints have the colour factor `joint`."""
    row = np.floor(place[:, 1] / height_m)
    along = place[:, 0] / width_m + 0.5 * (row % 2)
    tint = 1 + variety * (2 * scatter(np.floor(along), row) - 1)
    in_joint = (place[:, 1] % height_m < joint_m) | (along % 1 * width_m < joint_m)
    return base * np.where(in_joint, joint, tint)[:, None]


def plaster(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return base * (1 + 0.07 * noise(place, 0.35, 1) + 0.08 * noise(place, 2.2, 2))[:, None]


def brick(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return courses(base, place, 0.5, 0.22, 0.05, 0.22, 1.25) * (1 + 0.08 * noise(place, 1.7, 3))[:, None]


def stone(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return courses(base, place, 1.1, 0.55, 0.06, 0.12, 0.72) * (1 + 0.08 * noise(place, 0.3, 4))[:, None]


def trim(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return base * (1 + 0.05 * noise(place, 0.5, 5))[:, None]


def glass(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    """Panes in a light frame, with the reflection of a bright sky in the upper part."""
    frame = (np.abs(fraction) > 0.86).any(1) | (np.abs(fraction[:, 0]) < 0.07) | (np.abs(fraction[:, 1] - 0.25) < 0.06)
    pane = base * (0.75 + 0.45 * scatter(seed, 7) + 0.5 * np.clip(fraction[:, 1] + 0.3 * fraction[:, 0], 0, 1))[:, None]
    return np.where(frame[:, None], np.array([0.86, 0.84, 0.8]), pane)


def wood(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    """Planks, and the panels of a door."""
    plank = scatter(np.floor(place[:, 0] / 0.18), 11)
    panel = (np.abs(np.abs(fraction[:, 0]) - 0.5) < 0.36) & (np.abs(np.abs(fraction[:, 1]) - 0.48) < 0.34)
    return base * (0.85 + 0.2 * plank - 0.2 * panel)[:, None]


def roof(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return courses(base, place, 0.3, 0.28, 0.06, 0.2, 0.6)


def metal(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return base * (0.9 + 0.15 * fraction[:, 1:])


def leaves(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return base * (1 + 0.45 * noise(place, 0.18, 12) + 0.3 * noise(place, 0.6, 13))[:, None]


def paving(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return courses(base, place, 0.9, 0.9, 0.06, 0.12, 0.75) * (1 + 0.1 * noise(place, 3.0, 14))[:, None]


def asphalt(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return base * (1 + 0.1 * noise(place, 0.15, 15) + 0.12 * noise(place, 2.5, 16))[:, None]


def grass(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return base * (1 + 0.25 * noise(place, 0.2, 17) + 0.2 * noise(place, 1.5, 18))[:, None]


def checker(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    size = 0.25 + 0.9 * scatter(seed, 20)
    odd = (np.floor(place / size[:, None]).sum(1) % 2)[:, None]
    return base * (1 - odd) + base[:, ::-1] * 0.6 * odd


def stripes(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    angle, size = 6.28 * scatter(seed, 21), 0.2 + 0.8 * scatter(seed, 22)
    wave = np.sin((place[:, 0] * np.cos(angle) + place[:, 1] * np.sin(angle)) * 3.14 / size)
    return base * (0.75 + 0.3 * np.tanh(4 * wave))[:, None]


def dots(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    size = 0.3 + 0.6 * scatter(seed, 23)
    off = place / size[:, None] % 1 - 0.5
    return np.where(((off**2).sum(1) < 0.09)[:, None], base[:, [1, 2, 0]], base)


def clouds(base: Array, place: Array, fraction: Array, seed: Array) -> Array:
    return base * (1 + 0.35 * noise(place, 0.6, seed) + 0.25 * noise(place, 0.2, seed + 1))[:, None]


FUNCTIONS = (
    plaster, brick, stone, trim, glass, wood, roof, metal, leaves, paving, asphalt, grass, checker, stripes, dots,
    clouds,
)  # fmt: skip
TEXTURES: dict[str, Callable[[Array, Array, Array, Array], Array]] = {one.__name__: one for one in FUNCTIONS}
BUILDING = ("plaster", "brick", "stone")
GENERIC = ("checker", "stripes", "dots", "clouds")  # of the demo base's training worlds; no building wears them
