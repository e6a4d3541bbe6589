"""Generic pictures that the demo's small base is trained on: textures and tones, nothing that looks like a walking
person.

A picture is a mosaic of one to four regions with blurred borders, each filled by one of `KINDS` in two random colours.
Cells of 16 x 16 pixels are labelled with what fills them, which the small vision network learns to tell.
"""

import numpy as np

KINDS = ("ramp", "grating", "checker", "cloud", "dots", "stripes", "chirp", "speckle")
CELL_PX = 16


def picture(
    generator: np.random.Generator, side_px: int, periods: int = 24, vivid: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(image (3, side, side) in [-1, 1], kind of each cell (cells, cells) as an index into KINDS).

    periods: of the finest pattern over the whole picture. vivid: up to five colours a region, pure ones among them, and
    grain.
    """
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32) / side_px
    count = int(generator.integers(1, 5))
    seeds = generator.uniform(size=(count, 2))
    distance = np.stack([(x - sx) ** 2 + (y - sy) ** 2 for sx, sy in seeds]) + 0.02 * cloud(generator, side_px, 1.5)
    region = distance.argmin(0)  # (side, side)
    image = np.zeros((3, side_px, side_px), np.float32)
    kinds = generator.integers(len(KINDS), size=count)
    for number in range(count):
        angle, frequency = generator.uniform(0, np.pi), np.exp(generator.uniform(np.log(2), np.log(periods)))
        level = fill(KINDS[kinds[number]], generator, x, y, angle, frequency)
        if vivid:
            level = roughened(generator, level)
        colours = palette(generator) if vivid else generator.uniform(-1, 1, (2, 3))
        image = np.where(region == number, paint(level, colours), image)
    centre = region[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    return np.clip(image, -1, 1), kinds[centre]


def palette(generator: np.random.Generator) -> np.ndarray:
    """Two to five colours (n, 3); about half of them pure, as a colour scale's are: each channel off, half or full."""
    colours = generator.uniform(-1, 1, (int(generator.integers(2, 6)), 3))
    return np.where(generator.uniform(size=(len(colours), 1)) < 0.5, np.round(colours), colours)


def roughened(generator: np.random.Generator, level: np.ndarray) -> np.ndarray:
    """Darker or brighter as a whole, which leaves figures on an even ground, and with grain that is drawn out along one
    axis.
    """
    level = level ** np.exp(generator.uniform(-0.7, 1.5))
    if generator.uniform() < 0.5:
        return level
    axis, long, grain = (
        int(generator.integers(2)),
        int(generator.integers(1, 7)),
        generator.standard_normal(level.shape),
    )
    grain = np.stack([np.roll(grain, shift, axis) for shift in range(long)]).mean(0) * long**0.5
    return np.clip(level * (1 + generator.uniform(0.1, 0.5) * grain), 0, 1)


def paint(level: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Levels in [0, 1] (side, side) through a scale of colours (n, 3) -> (3, side, side)."""
    at = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(level, at, channel) for channel in colours.T]).astype(np.float32)


def fill(
    kind: str, generator: np.random.Generator, x: np.ndarray, y: np.ndarray, angle: float, frequency: float
) -> np.ndarray:
    """A texture in [0, 1] (side, side); `frequency` counts periods over the picture."""
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    phase = generator.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * frequency * u + phase)
    if kind == "ramp":
        return (u - u.min()) / (u.max() - u.min())
    if kind == "grating":
        return 0.5 + 0.5 * wave
    if kind == "checker":
        return ((wave > 0) ^ (np.sin(2 * np.pi * frequency * v + phase) > 0)).astype(np.float32)
    if kind == "cloud":
        return np.clip(0.5 + 0.25 * cloud(generator, len(x), generator.uniform(0.8, 2.0)), 0, 1)
    if kind == "dots":
        radius = np.hypot((u * frequency / 2) % 1 - 0.5, (v * frequency / 2) % 1 - 0.5)
        return np.clip((0.3 - radius) * 64 / frequency + 0.5, 0, 1)
    if kind == "stripes":
        return (wave > generator.uniform(-0.7, 0.7)).astype(np.float32)
    if kind == "chirp":  # a tone whose pitch bends, drawn as a line
        line = 0.5 + 0.3 * np.sin(2 * np.pi * frequency / 4 * u + phase)
        return np.exp(-(((v % 1.0) - line) ** 2) / (2 * generator.uniform(0.01, 0.06) ** 2))
    return generator.uniform(size=x.shape).astype(np.float32) ** generator.uniform(1, 6)


def cloud(generator: np.random.Generator, side_px: int, slope: float) -> np.ndarray:
    """Noise of spectrum 1/f^slope, standardised (side, side)."""
    f = np.hypot(np.fft.fftfreq(side_px)[:, None], np.fft.rfftfreq(side_px)[None])
    f[0, 0] = 1
    noise = generator.standard_normal((2, *f.shape))
    field = np.fft.irfft2((noise[0] + 1j * noise[1]) / f**slope, (side_px, side_px))
    return ((field - field.mean()) / field.std()).astype(np.float32)
