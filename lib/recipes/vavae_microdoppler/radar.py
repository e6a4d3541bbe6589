"""From a slow-time echo to a micro-Doppler image: spectrogram, levels, colours. An approaching walker has positive
Doppler, 2 v / wavelength.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.config import DataConfig

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
    notch_m_s: float = 0.0  # slower than this is left out: walls and furniture

    @property
    def hop_pulses(self) -> float:
        return self.duration_s * self.prf_hz / self.side_px

    def check(self) -> None:
        """Stop: velocities fold (Doppler shifts that differ by the PRF are one), or a window exceeds the transform."""
        limit_m_s = self.wavelength_m * self.prf_hz / 2
        if self.high_m_s - self.low_m_s > limit_m_s:
            raise Stop(
                f"the image spans {self.high_m_s - self.low_m_s:g} m/s, but velocities fold after {limit_m_s:.2f} m/s "
                f"at a PRF of {self.prf_hz:g} Hz"
            )
        if self.window_s * self.prf_hz > self.fft:
            pulses = f"a window of {self.window_s} s has {self.window_s * self.prf_hz:.0f} pulses"
            raise Stop(f"{pulses}, more than the {self.fft} of the transform")


def of_settings(data: DataConfig, side_px: int) -> Spectrogram:
    """What the section `data` of the settings says."""
    return Spectrogram(
        data.prf_hz, data.wavelength_m, data.window_s, data.hop_s * side_px or data.duration_s, data.low_m_s,
        data.high_m_s, data.range_db, side_px, colours=data.colours, notch_m_s=data.notch_m_s,
    )  # fmt: skip


def axes(how: Spectrogram) -> str:
    """What a person reads of an image's axes."""
    step_m_s, hop_ms = (how.high_m_s - how.low_m_s) / (how.side_px - 1), 1000 * how.hop_pulses / how.prf_hz
    notch = f", slower than {how.notch_m_s:g} m/s left out" if how.notch_m_s else ""
    return (
        f"velocity {how.high_m_s:g} to {how.low_m_s:g} m/s, {step_m_s:.3g} m/s a row{notch}; "
        f"time {how.duration_s:g} s, {hop_ms:.3g} ms a column; Hann window of {how.window_s:g} s; "
        f"{how.range_db:g} dB in {how.colours}; of {how.prf_hz:g} pulses a second at {1000 * how.wavelength_m:g} mm"
    )


def power(signal: np.ndarray, how: Spectrogram) -> np.ndarray:
    """Complex pulses (t,) -> power (side_px, columns) of the whole recording: rows from high to low velocity, `side_px`
    columns per `duration_s`. ValueError: too few pulses for one image.
    """
    columns = columns_of(len(signal), how)
    return power_of(lambda start, stop: signal[None, start:stop], 0, columns, how)


def columns_of(pulses: int, how: Spectrogram) -> int:
    """ValueError: too few pulses for one image."""
    hop, width = how.hop_pulses, round(how.window_s * how.prf_hz)
    columns = int((pulses - width) / hop) + 1
    if columns < how.side_px:
        needed = (how.side_px - 1) * hop + width
        raise ValueError(f"{pulses} pulses are too few: an image of {how.duration_s} s needs {int(np.ceil(needed))}")
    return columns


def power_of(part: Callable[[int, int], np.ndarray], first: int, columns: int, how: Spectrogram) -> np.ndarray:
    """Power (side_px, columns) from column `first` on. part(start, stop): these pulses (rows, t), whose powers are
    added.
    """
    width = round(how.window_s * how.prf_hz)
    starts = np.round(np.arange(first, first + columns) * how.hop_pulses).astype(int)
    velocity = np.linspace(how.high_m_s, how.low_m_s, how.side_px)
    position = 2 * velocity / how.wavelength_m / how.prf_hz * how.fft  # fractional bins, negative ones wrap
    low = np.floor(position).astype(int)
    share = position - low
    found = np.zeros((how.side_px, columns))
    for signal in part(int(starts[0]), int(starts[-1]) + width):
        frames = signal[(starts - starts[0])[:, None] + np.arange(width)] * np.hanning(width)
        spectrum = np.abs(np.fft.fft(frames, how.fft, axis=1)) ** 2  # (columns, fft)
        found += ((1 - share) * spectrum[:, low % how.fft] + share * spectrum[:, (low + 1) % how.fft]).T
    found[np.abs(velocity) < how.notch_m_s] = 0
    return found


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
    """First columns of the images cut from a recording; neighbours overlap where an image is longer than the stride."""
    step = max(1, round(stride_s / how.duration_s * how.side_px))
    return list(range(0, columns - how.side_px + 1, step))
