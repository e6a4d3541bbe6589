"""Spectrograms as arrays of real numbers, before anybody coloured them -> levels in 16 bit, which are kept through
training.

    (velocity, time)   decibels, power or amplitude (data.values); the first row is the highest velocity, or the lowest
                       (data.low_first)
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.recipes.vavae_microdoppler import radar
from lib.recipes.vavae_microdoppler.config import Config, DataConfig
from lib.recipes.vavae_microdoppler.echo_files import Unusable, opened

if TYPE_CHECKING:
    import numpy as np

MOST_DB = 400.0  # between the largest and the smallest value: more than numbers in fp32 span as power
LEAST_DB = 12.0  # noise alone spans more; levels from 0 to 1, and numbers of variance 1, span less
LINEAR_RATIO = 100.0  # of the largest to the median value of positive numbers: a level in dB is no such outlier
NARROW = 0.15  # how much more the energy must gather on the other axis before that one is taken for velocity


def levels(config: Config, path: Path) -> "np.ndarray":
    """`sized` of `spectrogram`."""
    return sized(config, spectrogram(config.data, path))


def spectrogram(data: DataConfig, path: Path) -> "np.ndarray":
    """Power (velocity, time), the highest velocity first.

    Unusable: the file cannot be read, is no spectrogram, has its axes or units otherwise. Stop: h5py is missing.
    """
    power = power_of(values_of(path, data), data)
    if data.array_layout == "time_velocity":
        power = power.T
    refuse_turned(power, data)
    refuse_unshifted(power)
    return power[::-1] if data.low_first else power


def sized(config: Config, power: "np.ndarray") -> "np.ndarray":
    """uint16 (image_px, image_px): 0 = data.range_db below the array's own maximum, 65535 = the maximum."""
    import numpy as np
    from PIL import Image

    side, level = config.model.image_px, radar.levels(power, config.data.range_db).astype(np.float32)
    resized = Image.fromarray(level).resize((side, side), Image.Resampling.LANCZOS)
    return np.round(np.clip(np.asarray(resized), 0, 1) * 65535).astype(np.uint16)  # LANCZOS overshoots edges


def values_of(path: Path, data: DataConfig) -> "np.ndarray":
    import numpy as np

    array = opened(path, data.variable)
    shape = tuple(length for length in array.shape if length > 1)
    if array.dtype.names is not None or array.dtype.kind not in "fiu" or len(shape) != 2 or 0 in array.shape:
        raise Unusable(f"shape {tuple(array.shape)} of {array.dtype} is no spectrogram of real numbers")
    found = np.asarray(array[...], dtype=np.float64).reshape(shape)
    if not np.isfinite(found).all():
        raise Unusable("it holds NaN or infinity")
    return found


def power_of(array: "np.ndarray", data: DataConfig) -> "np.ndarray":
    """Unusable: the numbers are in another unit than data.values says."""
    import numpy as np

    low, high, middle = float(array.min()), float(array.max()), float(np.median(array))
    said = f"its values go from {low:.4g} to {high:.4g}"
    if data.values != "db":
        if low < 0:
            raise Unusable(f"{said}: there is no negative {data.values} (decibels: data.values=db)")
        return array if data.values == "power" else array**2
    if high - low > MOST_DB or (low >= 0 and high > LINEAR_RATIO * middle):
        raise Unusable(f"{said}, around {middle:.4g}: these are no decibels (data.values=power or amplitude)")
    if high - low < LEAST_DB or (low, high) == (0, 255):
        how = "scale them to decibels, or save pictures (data.kind=images)"
        raise Unusable(f"{said}: these are levels of a picture, no decibels ({how})")
    return 10 ** ((array - high) / 10)


def refuse_turned(power: "np.ndarray", data: DataConfig) -> None:
    """A body fills a narrow band of velocities at all times. Unusable: the energy is narrow along the other axis."""
    rows, columns = gathered(power.sum(1)), gathered(power.sum(0))
    if columns > rows + NARROW:
        other = {"velocity_time": "time_velocity", "time_velocity": "velocity_time"}[data.array_layout]
        cause = (
            f"{columns:.0%} of the energy lies in a quarter of what is taken for time, {rows:.0%} in one of velocity"
        )
        raise Unusable(f"{cause}: the axes seem to be turned (data.array_layout={other})")


def refuse_unshifted(power: "np.ndarray") -> None:
    """Unusable: the slow velocities lie at both edges, as a Fourier transform leaves them. Of 201 real windows 98 %
    are told so when they are put out of order, and none as it is.
    """
    import numpy as np

    velocities = power.sum(1)
    as_is, rolled = gathered(velocities), gathered(np.roll(velocities, len(velocities) // 2))
    if rolled > as_is + NARROW:
        cause = f"{as_is:.0%} of the energy lies in a quarter of the velocities, {rolled:.0%} in that of the two edges"
        raise Unusable(f"{cause}: velocity 0 belongs in the middle (numpy.fft.fftshift along velocity)")


def gathered(profile: "np.ndarray") -> float:
    """Share of the energy (n,) in the strongest connected quarter."""
    import numpy as np

    width, sums = max(1, len(profile) // 4), np.concatenate([[0], np.cumsum(profile)])
    return float((sums[width:] - sums[:-width]).max() / max(float(sums[-1]), 1e-300))
