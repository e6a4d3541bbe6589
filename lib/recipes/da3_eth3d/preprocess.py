"""Pictures at the network's size, by the four ways of the published inference; no torch.

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


def picture(photo: Any, side_px: int = SIDE_PX, method: str = METHODS[0]) -> np.ndarray:
    """A photo (PIL, RGB) -> (h, w, 3) uint8.

    Smaller by the mean of the area, larger by cubic interpolation; the published code uses another library, whose
    cubic differs by 0.01 of the range on average.
    """
    found = sizes(photo.width, photo.height, side_px, method)
    for size in (found.bounded, found.whole):
        photo = resized(photo, size)
    left, top = found.left, found.top
    return np.asarray(photo.crop((left, top, left + found.seen[0], top + found.seen[1])))


def resized(photo: Any, size: tuple[int, int]) -> Any:
    from PIL import Image

    if photo.size == size:
        return photo
    larger = size[0] > photo.width or size[1] > photo.height
    return photo.resize(size, Image.Resampling.BICUBIC if larger else Image.Resampling.BOX)
