"""From moving scatterers to a micro-Doppler image: slow-time echo, spectrogram, colours.

One range bin only: s(t) = sum of A exp(-j 4 pi r / lambda), so an approaching walker has positive Doppler, 2 v / lambda.
"""

from dataclasses import dataclass

import numpy as np

from lib.errors import Stop
from lib.recipes.vavae_microdoppler.gait import Scatterer

JET = ((0, 0, 0.5), (0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0), (0.5, 0, 0))
JET_AT = (0, 0.125, 0.375, 0.625, 0.875, 1)


@dataclass(frozen=True)
class Spectrogram:
    """How an image is made of an echo. The defaults show a walker at 24 GHz: 2.4 s by [-1.5, 5] m/s."""

    prf_hz: float = 1600.0  # pulses per second
    wavelength_m: float = 0.01249
    window_s: float = 0.14  # Hann
    duration_s: float = 2.4  # of an image
    low_m_s: float = -1.5
    high_m_s: float = 5.0
    range_db: float = 38.0
    side_px: int = 256
    fft: int = 1024
    colours: str = "jet"

    def check(self) -> None:
        """Doppler shifts that differ by the PRF are one: the span of the image must be unambiguous."""
        limit_m_s = self.wavelength_m * self.prf_hz / 2
        if self.high_m_s - self.low_m_s > limit_m_s:
            raise Stop(
                f"the image spans {self.high_m_s - self.low_m_s:g} m/s, but velocities fold after {limit_m_s:.2f} m/s "
                f"at a PRF of {self.prf_hz:g} Hz"
            )
        if self.window_s * self.prf_hz > self.fft:
            raise Stop(
                f"a window of {self.window_s} s has {self.window_s * self.prf_hz:.0f} pulses, more than the {self.fft} of the transform"
            )


def echo(points: list[Scatterer], gains_db: dict[str, float], radar_m: np.ndarray, wavelength_m: float) -> np.ndarray:
    """Complex slow-time signal (t,) of the points, seen from `radar_m` (3,). Segments reflect as ellipsoids of two equal radii:

    sigma = pi a²b²c² / (a² sin² + c² cos²)² with the angle between line of sight and long axis; amplitude sqrt(sigma) / r².
    """
    signal = 0
    for point in points:
        sight = point.position_m - radar_m
        r = np.linalg.norm(sight, axis=1)
        cos2 = ((sight * point.axis).sum(1) / r) ** 2
        a, c = point.radius_m, point.half_length_m
        root_sigma = np.sqrt(np.pi) * a * a * c / (a * a * (1 - cos2) + c * c * cos2)
        amplitude = root_sigma * 10 ** (gains_db.get(point.group, 0.0) / 20) / r**2
        signal = signal + amplitude * np.exp(-4j * np.pi / wavelength_m * r)
    return signal


def add_noise(signal: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
    """White complex noise at a ratio to the signal's mean power."""
    power = np.mean(np.abs(signal) ** 2) / 10 ** (snr_db / 10)
    noise = generator.standard_normal((2, len(signal)))
    return signal + np.sqrt(power / 2) * (noise[0] + 1j * noise[1])


def power(signal: np.ndarray, how: Spectrogram) -> np.ndarray:
    """Power (side_px, columns) of a whole recording: rows from high to low velocity, `side_px` columns per `duration_s`."""
    hop = how.duration_s * how.prf_hz / how.side_px
    width = round(how.window_s * how.prf_hz)
    columns = int((len(signal) - width) / hop) + 1
    if columns < how.side_px:
        needed = (how.side_px - 1) * hop + width
        raise ValueError(f"{len(signal)} pulses are too few: an image of {how.duration_s} s needs {int(np.ceil(needed))}")
    starts = np.round(np.arange(columns) * hop).astype(int)
    frames = signal[starts[:, None] + np.arange(width)] * np.hanning(width)
    spectrum = np.abs(np.fft.fft(frames, how.fft, axis=1)) ** 2  # (columns, fft)
    velocity = np.linspace(how.high_m_s, how.low_m_s, how.side_px)
    position = 2 * velocity / how.wavelength_m / how.prf_hz * how.fft  # fractional bins, negative ones wrap
    low = np.floor(position).astype(int)
    share = position - low
    return ((1 - share) * spectrum[:, low % how.fft] + share * spectrum[:, (low + 1) % how.fft]).T


def levels(power_image: np.ndarray, range_db: float) -> np.ndarray:
    """Power -> [0, 1]: decibels below the image's own maximum, cut at `range_db`. Silence is 0 everywhere."""
    peak = power_image.max()
    if not peak > 0:
        return np.zeros_like(power_image)
    return np.clip(1 + 10 * np.log10(np.maximum(power_image / peak, 1e-12)) / range_db, 0, 1)


def colour(level: np.ndarray, colours: str = "jet") -> np.ndarray:
    """[0, 1] (h, w) -> uint8 (h, w, 3)."""
    if colours == "gray":
        return np.repeat(np.round(255 * level).astype(np.uint8)[..., None], 3, -1)
    table = np.stack([np.interp(np.linspace(0, 1, 256), JET_AT, [knot[c] for knot in JET]) for c in range(3)], 1)
    return np.round(255 * table).astype(np.uint8)[np.round(255 * level).astype(int)]


def windows(columns: int, how: Spectrogram, stride_s: float) -> list[int]:
    """First columns of the images cut from a recording; neighbours overlap where the stride is shorter than an image."""
    step = max(1, round(stride_s / how.duration_s * how.side_px))
    return list(range(0, columns - how.side_px + 1, step))
