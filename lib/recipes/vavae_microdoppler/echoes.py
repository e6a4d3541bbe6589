"""Raw echoes (.npy) -> one row of complex numbers -> spectrograms."""

from pathlib import Path
from typing import TYPE_CHECKING

from lib.recipes.vavae_microdoppler import radar
from lib.recipes.vavae_microdoppler.config import Config

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


class Unusable(Exception):
    """An echo that cannot be used. The text is the reason."""


def spectrograms(config: Config, path: Path) -> list["Image.Image"]:
    """The windows of an echo as RGB pictures of image_px x image_px, as data.* says.

    Unusable: the file is damaged, holds something else, or is too short. Stop: velocities fold.
    """
    from PIL import Image

    d = config.data
    how = radar.Spectrogram(
        d.prf_hz, d.wavelength_m, d.window_s, d.duration_s, d.low_m_s, d.high_m_s, d.range_db,
        config.model.image_px, colours=d.colours,
    )  # fmt: skip
    how.check()
    try:
        power = radar.power(read(path), how)
    except ValueError as error:
        raise Unusable(str(error)) from error
    firsts = radar.windows(power.shape[1], how, d.stride_s)
    shares = [radar.levels(power[:, first : first + how.side_px], how.range_db) for first in firsts]
    return [Image.fromarray(radar.colour(share, how.colours)) for share in shares]


def read(path: Path) -> "np.ndarray":
    """Complex (t,). I and Q may be two rows or two columns of real numbers."""
    import numpy as np

    signal = one_row(mapped(path))
    if not signal.size or not np.isfinite(signal).all():
        raise Unusable("it holds NaN or infinity" if signal.size else "it holds no numbers")
    if np.abs(signal).max() > 1e100:  # squares of them are no longer finite
        raise Unusable(f"its largest number is {np.abs(signal).max():.3g}, which no receiver measures")
    return signal


def mapped(path: Path) -> "np.ndarray":
    """The array of a file, mapped and not read: a damaged header may state any size.

    numpy raises almost any exception on a damaged header, tokenize.TokenError among them.
    """
    import numpy as np

    if not path.stat().st_size:
        raise Unusable("the file is empty")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise Unusable(f"it is not a NumPy array, or damaged ({said})") from error
    if not isinstance(found, np.ndarray):
        raise Unusable("it holds several arrays, not one echo")
    return found


def one_row(array: "np.ndarray") -> "np.ndarray":
    """complex (t,), (t, 1) and (1, t), real (t, 2) and (2, t) -> complex128 (t,)."""
    import numpy as np

    shape = f"shape {array.shape} of {array.dtype}"
    if array.dtype.kind == "c" and array.size == max(array.shape, default=0):
        return np.asarray(array.reshape(-1), dtype=np.complex128)
    if array.dtype.kind in "fiu" and array.ndim == 2 and 2 in array.shape:
        pair = array if array.shape[0] == 2 else array.T
        return np.asarray(pair[0], dtype=np.float64) + 1j * np.asarray(pair[1], dtype=np.float64)
    raise Unusable(f"{shape} is not one row of complex numbers, nor I and Q in two rows or columns")
