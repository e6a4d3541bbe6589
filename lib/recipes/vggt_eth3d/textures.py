"""Procedural textures of the stand-in scenes: colours as functions of the place on a surface.

texture(base, place, fraction, seed) -> (n, 3). base: (n, 3) colour; place: (n, 2) metres; fraction: (n, 2) in -1..1 across the
side of the box; seed: (n,), the same all over a box.
"""
import numpy


def scatter(*integers):
    """(n,) in 0..1, unrelated for neighbouring integers (Wang's 32-bit hash)."""
    state = numpy.full(numpy.broadcast(*integers).shape, 0x9E3779B9, numpy.uint32)
    for values in integers:
        state = (state ^ numpy.asarray(values).astype(numpy.int64).astype(numpy.uint32)) * numpy.uint32(0x27D4EB2D)
        state ^= state >> numpy.uint32(15)
    return (state >> numpy.uint32(8)).astype(float) / (1 << 24)


def noise(place, cell_m, seed):
    """(n,) smooth value noise in -1..1 with bumps of the given size."""
    corner = numpy.floor(place / cell_m)
    weight = place / cell_m - corner
    weight = weight * weight * (3 - 2 * weight)
    x, y = corner.astype(numpy.int64).T
    low = scatter(x, y, seed) * (1 - weight[:, 0]) + scatter(x + 1, y, seed) * weight[:, 0]
    high = scatter(x, y + 1, seed) * (1 - weight[:, 0]) + scatter(x + 1, y + 1, seed) * weight[:, 0]
    return 2 * (low * (1 - weight[:, 1]) + high * weight[:, 1]) - 1


def courses(base, place, width_m, height_m, joint_m, variety, joint):
    """Bricks, blocks or slabs in running bond: each has its own tint, joints have the colour factor `joint`."""
    row = numpy.floor(place[:, 1] / height_m)
    along = place[:, 0] / width_m + 0.5 * (row % 2)
    tint = 1 + variety * (2 * scatter(numpy.floor(along), row) - 1)
    in_joint = (place[:, 1] % height_m < joint_m) | (along % 1 * width_m < joint_m)
    return base * numpy.where(in_joint, joint, tint)[:, None]


def plaster(base, place, fraction, seed):
    return base * (1 + 0.07 * noise(place, 0.35, 1) + 0.08 * noise(place, 2.2, 2))[:, None]


def brick(base, place, fraction, seed):
    return courses(base, place, 0.5, 0.22, 0.05, 0.22, 1.25) * (1 + 0.08 * noise(place, 1.7, 3))[:, None]


def stone(base, place, fraction, seed):
    return courses(base, place, 1.1, 0.55, 0.06, 0.12, 0.72) * (1 + 0.08 * noise(place, 0.3, 4))[:, None]


def trim(base, place, fraction, seed):
    return base * (1 + 0.05 * noise(place, 0.5, 5))[:, None]


def glass(base, place, fraction, seed):
    """Panes in a light frame, with the reflection of a bright sky in the upper part."""
    frame = (numpy.abs(fraction) > 0.86).any(1) | (numpy.abs(fraction[:, 0]) < 0.07) | (numpy.abs(fraction[:, 1] - 0.25) < 0.06)
    pane = base * (0.75 + 0.45 * scatter(seed, 7) + 0.5 * numpy.clip(fraction[:, 1] + 0.3 * fraction[:, 0], 0, 1))[:, None]
    return numpy.where(frame[:, None], numpy.array([0.86, 0.84, 0.8]), pane)


def wood(base, place, fraction, seed):
    """Planks, and the panels of a door."""
    plank = scatter(numpy.floor(place[:, 0] / 0.18), 11)
    panel = (numpy.abs(numpy.abs(fraction[:, 0]) - 0.5) < 0.36) & (numpy.abs(numpy.abs(fraction[:, 1]) - 0.48) < 0.34)
    return base * (0.85 + 0.2 * plank - 0.2 * panel)[:, None]


def roof(base, place, fraction, seed):
    return courses(base, place, 0.3, 0.28, 0.06, 0.2, 0.6)


def metal(base, place, fraction, seed):
    return base * (0.9 + 0.15 * fraction[:, 1:])


def leaves(base, place, fraction, seed):
    return base * (1 + 0.45 * noise(place, 0.18, 12) + 0.3 * noise(place, 0.6, 13))[:, None]


def paving(base, place, fraction, seed):
    return courses(base, place, 0.9, 0.9, 0.06, 0.12, 0.75) * (1 + 0.1 * noise(place, 3.0, 14))[:, None]


def asphalt(base, place, fraction, seed):
    return base * (1 + 0.1 * noise(place, 0.15, 15) + 0.12 * noise(place, 2.5, 16))[:, None]


def grass(base, place, fraction, seed):
    return base * (1 + 0.25 * noise(place, 0.2, 17) + 0.2 * noise(place, 1.5, 18))[:, None]


def checker(base, place, fraction, seed):
    size = 0.25 + 0.9 * scatter(seed, 20)
    odd = (numpy.floor(place / size[:, None]).sum(1) % 2)[:, None]
    return base * (1 - odd) + base[:, ::-1] * 0.6 * odd


def stripes(base, place, fraction, seed):
    angle, size = 6.28 * scatter(seed, 21), 0.2 + 0.8 * scatter(seed, 22)
    wave = numpy.sin((place[:, 0] * numpy.cos(angle) + place[:, 1] * numpy.sin(angle)) * 3.14 / size)
    return base * (0.75 + 0.3 * numpy.tanh(4 * wave))[:, None]


def dots(base, place, fraction, seed):
    size = 0.3 + 0.6 * scatter(seed, 23)
    off = place / size[:, None] % 1 - 0.5
    return numpy.where(((off**2).sum(1) < 0.09)[:, None], base[:, [1, 2, 0]], base)


def clouds(base, place, fraction, seed):
    return base * (1 + 0.35 * noise(place, 0.6, seed) + 0.25 * noise(place, 0.2, seed + 1))[:, None]


TEXTURES = {
    function.__name__: function
    for function in (
        plaster, brick, stone, trim, glass, wood, roof, metal, leaves, paving, asphalt, grass, checker, stripes, dots, clouds,
    )
}  # fmt: skip
BUILDING = ("plaster", "brick", "stone")
GENERIC = ("checker", "stripes", "dots", "clouds")  # of the worlds that the demo's base is trained on; no building wears them
