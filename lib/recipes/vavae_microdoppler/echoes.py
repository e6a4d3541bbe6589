"""Raw echoes -> rows of complex numbers along slow time -> spectrograms.

(t,) complex                     one receiver, one range bin
(range, t), (t, range) complex   range bins; powers of their spectrograms are added, as those of receivers are
(receiver, range, t)             and (t, range, receiver)
real numbers with an axis of 2   I and Q
(2 t,) real                      I, Q, I, Q, ... (data.iq_layout=interleaved)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.recipes.vavae_microdoppler import radar
from lib.recipes.vavae_microdoppler.config import Config, DataConfig
from lib.recipes.vavae_microdoppler.echo_files import COUNTER, Unusable, counts, is_plain, opened, stated

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

PLAIN_RATIO = 4  # the axis of time is taken for clear where it is so many times as long as any other
LARGEST = 1e100  # squares of larger numbers are no longer finite
LOOKED_AT = 4096  # pulses, in which the axis of time is tested
PLACES = 4  # of a recording, in which directions are compared: people turn round
ONE_SIGNAL, EQUAL_STEPS = 1e-6, 1e-3  # of what is largest: rounding, and no noise of a receiver
SLOW, WHITE = 0.7, 0.6  # shares of the power in the slower half of the band: a walk, and what has no slow time


@dataclass(frozen=True)
class Echo:
    """An opened echo. `array` is sliced along `time`; `pair` is the axis of I and Q (-1: complex, or interleaved)."""

    array: Any
    time: int
    pair: int = -1
    interleaved: bool = False
    bins: tuple[int, ...] = ()  # first and last of the range axis, which is the one beside `time`

    def __len__(self) -> int:
        return int(self.array.shape[self.time]) // (2 if self.interleaved else 1)

    def part(self, start: int, stop: int) -> "np.ndarray":
        """Pulses start to stop: complex128 (rows, t). Unusable: NaN, infinity, or numbers that no receiver measures."""
        import numpy as np

        step = 2 if self.interleaved else 1
        where: list[slice] = [slice(None)] * len(self.array.shape)
        where[self.time] = slice(step * start, step * stop)
        if self.bins:
            where[self.range_axis()] = slice(self.bins[0], self.bins[1] + 1)
        rows = complex_rows(np.asarray(self.array[tuple(where)]), self)
        if not np.isfinite(rows).all():
            raise Unusable("it holds NaN or infinity")
        if rows.size and np.abs(rows).max() > LARGEST:
            raise Unusable(f"its largest number is {np.abs(rows).max():.3g}, which no receiver measures")
        return rows

    def range_axis(self) -> int:
        others = [axis for axis in range(len(self.array.shape)) if axis not in (self.time, self.pair)]
        return min(others, key=lambda axis: abs(axis - self.time))


def complex_rows(part: "np.ndarray", echo: Echo) -> "np.ndarray":
    import numpy as np

    if part.dtype.names is not None:
        part = part[part.dtype.names[0]] + 1j * part[part.dtype.names[1]]
    part = np.moveaxis(part, echo.time, -1)
    if echo.interleaved:
        part = part[..., 0::2].astype(np.float64) + 1j * part[..., 1::2]
    if echo.pair >= 0:
        pair = np.moveaxis(part, echo.pair - (echo.pair > echo.time), 0).astype(np.float64)
        part = pair[0] + 1j * pair[1]
    return np.asarray(part, dtype=np.complex128).reshape(-1, part.shape[-1])


def echo_of(path: Path, data: DataConfig) -> Echo:
    """Unusable: the file cannot be read, is no echo, or does not say which axis is time. Stop: h5py is missing."""
    array = opened(path, data.variable)
    if not array.size:
        raise Unusable("it holds no numbers")
    echo = with_axes(array, data.iq_layout)
    if not data.range_bins:
        return echo
    found = Echo(array, echo.time, echo.pair, echo.interleaved, tuple(data.range_bins))
    if len(array.shape) < (3 if echo.pair >= 0 else 2) or data.range_bins[1] >= array.shape[found.range_axis()]:
        raise Unusable(f"shape {tuple(array.shape)} has no range bins {data.range_bins[0]} to {data.range_bins[1]}")
    return found


def with_axes(array: Any, layout: str) -> Echo:
    shape, kind = tuple(array.shape), "c" if array.dtype.names is not None else array.dtype.kind
    said = f"shape {shape} of {array.dtype}"
    if not is_plain(array.dtype):
        raise Unusable(f"{said} is not an echo")
    if kind == "u":
        raise Unusable(f"{said} has no sign: subtract the value of silence (of 8 bits 127.5), and save signed numbers")
    if layout == "interleaved":
        if kind == "c" or sum(length > 1 for length in shape) != 1 or max(shape) % 2:
            raise Unusable(f"{said} is not I, Q, I, Q, ... in one row (data.iq_layout=interleaved)")
        return Echo(array, shape.index(max(shape)), interleaved=True)
    pair = -1
    if kind != "c":
        pair = next((axis for axis in (len(shape) - 1, 0) if len(shape) > 1 and shape[axis] == 2), -1)
        if pair < 0:
            cause = f"{said} is not one row of complex numbers, nor I and Q in two rows or columns"
            raise Unusable(f"{cause} (I, Q, I, Q, ...: data.iq_layout=interleaved)")
    return Echo(array, time_axis(shape, pair, layout, said), pair)


def time_axis(shape: tuple[int, ...], pair: int, layout: str, said: str) -> int:
    axes = [axis for axis in range(len(shape)) if axis != pair]
    if layout != "auto" and axes:
        return axes[-1] if layout == "range_time" else axes[0]
    lengths = sorted((shape[axis] for axis in axes), reverse=True)
    if not lengths or (len(lengths) > 1 and lengths[0] < PLAIN_RATIO * lengths[1]):
        cause = f"{said} is not one row of complex numbers, and which axis is time is not clear"
        raise Unusable(f"{cause}: data.iq_layout=range_time or time_range")
    return max(axes, key=lambda axis: shape[axis])


def read(path: Path, data: DataConfig) -> "np.ndarray":
    """The whole echo, complex128 (rows, t)."""
    echo = echo_of(path, data)
    return echo.part(0, len(echo))


def spectrograms(config: Config, path: Path) -> Iterator["Image.Image"]:
    """`images_of` a file that is `ready`."""
    return images_of(*ready(config, path), config.data.stride_s)


def ready(config: Config, path: Path) -> tuple[Echo, radar.Spectrogram]:
    """An echo of which images can be made as data.* says.

    Unusable: the file is damaged, holds something else, or is too short. Stop: velocities fold.
    """
    how = radar.of_settings(config.data, config.model.image_px)
    how.check()
    echo = echo_of(path, config.data)
    refuse_other_radar(path, how)
    try:
        radar.columns_of(len(echo), how)
    except ValueError as error:
        raise Unusable(str(error)) from error
    refuse_no_pair(echo)
    refuse_other_axis(echo)
    return echo, how


def images_of(echo: Echo, how: radar.Spectrogram, stride_s: float) -> Iterator["Image.Image"]:
    """The windows of an echo as RGB pictures of side_px x side_px; each is read when it is asked for."""
    from PIL import Image

    for first in radar.windows(radar.columns_of(len(echo), how), how, stride_s):
        power = radar.power_of(echo.part, first, how.side_px, how)
        yield Image.fromarray(radar.colour(radar.levels(power, how.range_db), how.colours))


def refuse_other_radar(path: Path, how: radar.Spectrogram) -> None:
    """Unusable: the file states another pulse rate or wavelength than the settings, which make the velocities."""
    for name, value in stated(path).items():
        now = getattr(how, name)
        if not abs(value / now - 1) < 0.02:
            raise Unusable(
                f"it says that its {name} is {value:.6g}, and data.{name} is {now:g} (data.{name}={value:.6g})"
            )


def parts_of(echo: Echo) -> "list[np.ndarray]":
    """LOOKED_AT pulses at each of PLACES, (rows, t); fewer of a short echo."""
    import numpy as np

    starts = np.linspace(0, max(0, len(echo) - LOOKED_AT), PLACES).astype(int)
    return [echo.part(start, min(len(echo), start + LOOKED_AT)) for start in sorted({*starts.tolist()})]


def refuse_no_pair(echo: Echo) -> None:
    """Unusable: I and Q are one signal, which has both directions, or a time and a signal, or amplitude and phase."""
    parts = parts_of(echo)
    if not any(is_pair(part) for part in parts) and any(part.any() for part in parts):
        raise Unusable("its I and Q are one signal up to a factor, or one of them is 0: directions are lost")
    for name, other in (("real", "imag"), ("imag", "real")):
        one, two = ([getattr(part, side) for part in parts] for side in (name, other))
        if all(counts(part[0], EQUAL_STEPS) for part in one):
            raise Unusable(f"its {'I' if name == 'real' else 'Q'} {COUNTER}")
        if min(part.min() for part in one) >= 0 and is_angle(two):
            raise Unusable("its two columns are amplitude and phase: save amplitude * exp(i * phase)")


def is_pair(part: "np.ndarray") -> bool:
    """Is there more in pulses (rows, t) than one signal times a complex number?"""
    import numpy as np

    strongest = part.flat[np.abs(part).argmax()]
    return bool(np.abs((part * np.conj(strongest)).imag).max() > ONE_SIGNAL * abs(strongest) ** 2)


def is_angle(parts: "list[np.ndarray]") -> bool:
    """Do values fill a circle in radians or degrees, from 0 or from its half, and nothing beyond?"""
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    circles = ((-math.pi, math.pi), (0, 2 * math.pi), (-180, 180), (0, 360))
    slack = [(0.02 * (end - start), 1e-4 * end) for start, end in circles]
    return any(
        start - over <= low <= start + inside and end - inside <= high <= end + over
        for (start, end), (inside, over) in zip(circles, slack, strict=True)
    )


def refuse_other_axis(echo: Echo) -> None:
    """A body is slow: its power lies around zero Doppler along time, and nowhere in particular along range.

    Unusable: another axis is the slow one.
    """
    shape = [1 if axis == echo.pair else length for axis, length in enumerate(echo.array.shape)]
    here = slow_share(echo)
    for axis, length in enumerate(shape):
        if axis == echo.time or length < 32 or here >= WHITE:
            continue
        there = slow_share(Echo(echo.array, axis, echo.pair))
        if there >= SLOW:
            cause = f"{here:.0%} of the power lies in the slower half of the Doppler band along axis {echo.time}"
            better = {0: "time_range"}.get(axis, "range_time")
            raise Unusable(
                f"{cause}, but {there:.0%} along axis {axis}: time is taken for range (data.iq_layout={better})"
            )


def slow_share(echo: Echo) -> float:
    """Of the power of the first pulses, what is slower than a quarter of the pulse rate; of white noise: 0.5."""
    import numpy as np

    spectrum = np.abs(np.fft.fft(echo.part(0, min(len(echo), LOOKED_AT)), axis=1)) ** 2
    slow = np.abs(np.fft.fftfreq(spectrum.shape[1])) < 0.25
    return float(spectrum[:, slow].sum() / max(spectrum.sum(), 1e-300))


def unseen(echo: Echo, how: radar.Spectrogram) -> float:
    """Of the power at velocities that the image shows in one direction alone, the share that has the other direction.

    A walker who approaches comes to 0; with I and Q exchanged, or walking away, to 1. 0.5 where both are noise, or
    where the image shows both directions alike.
    """
    import numpy as np

    parts = parts_of(echo)
    spectrum = sum((np.abs(np.fft.fft(part * np.hanning(part.shape[1]), axis=1)) ** 2).sum(0) for part in parts)
    velocity = np.fft.fftfreq(parts[0].shape[1]) * how.prf_hz * how.wavelength_m / 2
    near, far = sorted((abs(how.low_m_s), abs(how.high_m_s)))
    fast = (np.abs(velocity) > near) & (np.abs(velocity) <= far)
    other = fast & ((velocity < 0) if how.high_m_s >= -how.low_m_s else (velocity > 0))
    return round(float(spectrum[other].sum() / spectrum[fast].sum()), 3) if spectrum[fast].sum() > 0 else 0.5
