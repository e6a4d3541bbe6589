"""Generic pictures that the demo's small base is trained on: textures and tones, nothing that looks like a walking person.

A picture is a mosaic of one to four regions with blurred borders, each filled by one of `KINDS` in two random colours.
Cells of 16 x 16 pixels are labelled with what fills them, which the small vision network learns to tell.
"""

import numpy as np

KINDS = ("ramp", "grating", "checker", "cloud", "dots", "stripes", "chirp", "speckle")
CELL_PX = 16


def picture(generator: np.random.Generator, side_px: int, periods: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """(image (3, side, side) in [-1, 1], kind of each cell (cells, cells) as an index into KINDS).

    periods: of the finest pattern over the whole picture.
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
        colours = generator.uniform(-1, 1, (2, 3)).astype(np.float32)
        painted = colours[0][:, None, None] * (1 - level) + colours[1][:, None, None] * level
        image = np.where(region == number, painted, image)
    centre = region[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    return np.clip(image, -1, 1), kinds[centre]


def fill(kind: str, generator: np.random.Generator, x: np.ndarray, y: np.ndarray, angle: float, frequency: float) -> np.ndarray:
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
