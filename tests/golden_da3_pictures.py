"""Pictures at the network's size by the four ways of the published inference, which golden cases compare.

No step uses them: pictures are cut around the principal point in training and in prediction (lib/scenes/crop.py).

upper_bound: the longest side becomes `side_px`; lower_bound: the shortest. Then both sides become whole patches:
resize takes the nearest number of them, crop cuts what is over at the edges. Pictures come as RGB, and the network
itself subtracts ImageNet's mean.
"""

from typing import Any, NamedTuple

import numpy as np

from lib.core.errors import Stop

SIDE_PX, PATCH_PX = 504, 14  # the base resolution of the published training is 504, not VGGT's 518
METHODS = ("upper_bound_resize", "upper_bound_crop", "lower_bound_resize", "lower_bound_crop")


class Sizes(NamedTuple):
    """Width and height in px on the way; `left` and `top` px are cut off last."""

    bounded: tuple[int, int]
    whole: tuple[int, int]  # after the second resize, which `crop` does not have
    left: int
    top: int
    seen: tuple[int, int]


def sizes(width: int, height: int, side_px: int = SIDE_PX, method: str = METHODS[0]) -> Sizes:
    """Stop: an unknown method, or a picture so narrow that no patch of it is left."""
    if method not in METHODS:
        raise Stop(f"{method!r} is no way to size a picture", f"one of {', '.join(METHODS)}")
    bound = max if method.startswith("upper") else min
    factor = side_px / bound(width, height)
    bounded = (max(1, round(width * factor)), max(1, round(height * factor)))
    if method.endswith("resize"):
        whole = (nearest(bounded[0]), nearest(bounded[1]))
        cut = whole
    else:
        whole, cut = bounded, (bounded[0] // PATCH_PX * PATCH_PX, bounded[1] // PATCH_PX * PATCH_PX)
    if not min(cut):
        raise Stop(f"a picture of {width} x {height} px is too narrow: at {bounded[0]} x {bounded[1]} no patch fits")
    return Sizes(bounded, whole, (whole[0] - cut[0]) // 2, (whole[1] - cut[1]) // 2, cut)


def nearest(side: int) -> int:
    """The nearest multiple of the patch; of two equally near ones the larger."""
    return (side + PATCH_PX // 2) // PATCH_PX * PATCH_PX


def intrinsics(given: np.ndarray, width: int, height: int, found: Sizes) -> np.ndarray:
    """Intrinsics (3, 3) in px of the picture -> in px of what the network sees; each axis is scaled by itself."""
    scaled = given.astype(float)
    scaled[0] *= found.whole[0] / width
    scaled[1] *= found.whole[1] / height
    scaled[:2, 2] -= (found.left, found.top)
    return scaled


def picture(photo: np.ndarray, side_px: int = SIDE_PX, method: str = METHODS[0]) -> np.ndarray:
    """A photo (h, w, 3) uint8 RGB -> what the network sees of it, (h, w, 3) uint8."""
    height, width = photo.shape[:2]
    found = sizes(width, height, side_px, method)
    for size in (found.bounded, found.whole):
        photo = resized(photo, *size)
    left, top = found.left, found.top
    return photo[top : top + found.seen[1], left : left + found.seen[0]]


def resized(photo: np.ndarray, width: int, height: int) -> np.ndarray:
    """By the mean of the area that a pixel covers; where a side grows, by cubic interpolation without antialiasing.

    As OpenCV's INTER_AREA and INTER_CUBIC, to a level of 255; Pillow's filters of these names are others.
    """
    rows, columns = photo.shape[:2]
    if (columns, rows) == (width, height):
        return photo
    weights = cubic if width > columns or height > rows else area
    across = photo.astype(np.float32).reshape(rows, -1)
    down = (weights(rows, height) @ across).reshape(height, columns, 3).transpose(1, 0, 2).reshape(columns, -1)
    both = (weights(columns, width) @ down).reshape(width, height, 3).transpose(1, 0, 2)
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def area(given: int, wanted: int) -> Any:
    """(wanted, given), sparse: the share of each pixel in the stretch that a coarser one covers."""
    from scipy.sparse import coo_array

    cuts = np.union1d(np.arange(given + 1.0), np.arange(wanted + 1) * (given / wanted))
    middle = (cuts[1:] + cuts[:-1]) / 2
    row, column = (middle * (wanted / given)).astype(int), middle.astype(int)
    inside = (row < wanted) & (column < given)
    shares = (np.diff(cuts) * wanted / given).astype(np.float32)
    return coo_array((shares[inside], (row[inside], column[inside])), shape=(wanted, given)).tocsr()


def cubic(given: int, wanted: int) -> Any:
    """(wanted, given), sparse: cubic convolution (Keys 1981) with a = -0.75; the border is repeated."""
    from scipy.sparse import coo_array

    at = (np.arange(wanted) + 0.5) * (given / wanted) - 0.5
    taps = np.floor(at)[:, None] + np.arange(-1, 3)
    off, a = np.abs(at[:, None] - taps), -0.75
    near, far = ((a + 2) * off - (a + 3)) * off**2 + 1, ((off - 5) * off + 8) * off * a - 4 * a
    weights = np.where(off <= 1, near, far).astype(np.float32)
    rows = np.repeat(np.arange(wanted), 4)
    columns = np.clip(taps, 0, given - 1).astype(int).ravel()
    return coo_array((weights.ravel(), (rows, columns)), shape=(wanted, given)).tocsr()
