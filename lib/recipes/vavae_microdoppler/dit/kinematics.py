"""Do generated walkers move like real ones? Torso speed, cadence and envelope of each picture, its colours inverted.

    torso      velocity at which most energy lies
    cadence    the strongest period of the upper envelope: steps, as the feet swing
    envelope   highest velocity with energy: the feet at their fastest

Sets are compared by the Wasserstein distance, in the units of the picture's axes where somebody stated them (raw
echoes, stand-in data) and else in pictures: shares of its height, periods within its width.
"""

from functools import cache

import numpy as np
from scipy.stats import wasserstein_distance

from lib.core.records import Row
from lib.recipes.vavae_microdoppler import radar
from lib.recipes.vavae_microdoppler.config import Config

NUMBERS = ("torso", "cadence", "envelope")
FOREGROUND = 0.5  # of the levels: half of the dB range below the picture's maximum
STEPS = (2, 12)  # periods of a picture among which the cadence is looked for


def measured(config: Config, image: np.ndarray) -> dict[str, float]:
    """Of a picture (3, h, w) in [-1, 1]."""
    level = levels(config.data.colours, image)
    seconds, low, high = axes(config)
    velocity = np.linspace(high, low, len(level))
    bright = np.where(level > FOREGROUND, level, 0)
    top = np.where(bright.any(0), velocity[(bright > 0).argmax(0)], low)
    spectrum = np.abs(np.fft.rfft(top - top.mean(), 8 * len(top)))  # a finer grid than whole periods
    first, last = (8 * periods for periods in STEPS)
    periods = (first + spectrum[first : last + 1].argmax()) / 8
    torso = float(velocity[bright.sum(1).argmax()])
    return {"torso": torso, "cadence": float(periods / seconds), "envelope": float(np.quantile(top, 0.95))}


def axes(config: Config) -> tuple[float, float, float]:
    """(duration, lowest, highest velocity) of a picture; 1, 0 and 1 where nobody stated them."""
    data = config.data
    if data.kind != "iq" and not (data.stand_in and not data.root):
        return 1.0, 0.0, 1.0
    how = radar.of_settings(data, config.model.image_px)
    return how.duration_s, how.low_m_s, how.high_m_s


def levels(colours: str, image: np.ndarray) -> np.ndarray:
    """(3, h, w) in [-1, 1] -> (h, w) in [0, 1]: the nearest colour of the map."""
    pixels = np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1)
    if colours == "gray":
        return np.asarray(pixels.mean(-1))
    table = colour_table(colours)
    nearest = (pixels @ table.T * 2 - (table**2).sum(1)).argmax(-1)
    return np.asarray(nearest / (len(table) - 1))


@cache
def colour_table(colours: str) -> np.ndarray:
    """(256, 3) in [0, 1]."""
    return radar.colour(np.linspace(0, 1, 256)[None], colours)[0].astype(np.float64) / 255


def gaps(rows: list[Row]) -> dict[str, float]:
    """Wasserstein distance of generated to reconstructed held-out pictures: {torso_gap, cadence_gap, envelope_gap}."""
    found = {}
    for name in NUMBERS:
        if f"fake_{name}" in rows[0].numbers:
            fake, real = ([row.numbers[f"{kind}_{name}"] for row in rows] for kind in ("fake", "seen"))
            found[f"{name}_gap"] = float(wasserstein_distance(fake, real))
    return found
