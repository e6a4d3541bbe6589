"""NumPy's files as other people's programs leave them."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def mapped(path: Path) -> "np.ndarray":
    """A .npy, mapped and not read: a damaged header may state any size.

    ValueError, or whatever NumPy raises: it is damaged, or none. Where a header states numbers without bytes and a
    negative length ("0<u8", (-1,)), NumPy divides by zero and takes the process along.
    """
    import numpy as np

    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in headers:
            raise ValueError(f"it is of version {version[0]}, for arrays of records")
        shape, _, kind = headers[version](file)
    if not kind.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"its header states the shape {shape} of {kind}")
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found
