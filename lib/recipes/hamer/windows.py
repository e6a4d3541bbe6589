"""The pixels around a hand that step 3 keeps: enough for every scale and rotation of the augmentation.

A training crop is resampled once, straight from them. Only boxes larger than `data.keep_side_px` are reduced before, by
a whole number.
"""

from typing import Any

import numpy as np

from lib.recipes.hamer import crop
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.data_config import REACH
from lib.recipes.hamer.labelled import Hand

PREVIEW_PX = 64


def packed(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of `window` as arrays with a first axis of hands; the pixels of all lie one after another in one array."""
    if not rows:
        return {"offset": np.zeros(1, np.int64)}
    sizes = [row["pixels"].size for row in rows]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "pixels"}
    pixels = np.concatenate([row["pixels"].ravel() for row in rows])
    return arrays | {"pixels": pixels, "offset": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)}


def preview(picture: np.ndarray, hand: Hand) -> np.ndarray:
    """A small grey crop (64, 64) of a picture (h, w, 3) uint8; near-duplicates across the split are found from it."""
    place = crop.placement(hand.centre, hand.side_px, True, picture.shape[1], crop.Change(), PREVIEW_PX)
    step = max(1, int(hand.side_px / PREVIEW_PX))
    coarse = crop.warp(picture[::step, ::step], place @ np.diag([step, step, 1]), True, PREVIEW_PX)
    return coarse.mean(0).clip(0, 255)


def window(picture: np.ndarray, hand: Hand, labels: Labels, keep_side_px: int) -> dict[str, Any]:
    """The pixels (h, w, 3) uint8 that any crop of this hand can need, and the labels moved to them."""
    from PIL import Image

    factor = max(1, int(hand.side_px / keep_side_px))
    reach = REACH * hand.side_px + 2
    low = np.floor(hand.centre - reach).astype(int).clip(0)
    high = np.ceil(hand.centre + reach).astype(int) + 1
    pixels = picture[low[1] : high[1], low[0] : high[0]]
    if factor > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(factor))
    moved = labels.keypoints_2d.copy()
    moved[:, :2] = shifted(moved[:, :2], low, factor)
    return {
        "pixels": pixels,
        "shape": np.array(pixels.shape[:2], np.int32),
        "centre": shifted(hand.centre, low, factor).astype(np.float32),
        "side_px": np.float32(hand.side_px / factor),
        "right": np.uint8(hand.right),
        "keypoints_2d": moved.astype(np.float32),
        "keypoints_3d": labels.keypoints_3d,
        "hand_pose": labels.hand_pose,
        "betas": labels.betas,
        "has_pose": np.uint8(labels.has_pose),
        "has_betas": np.uint8(labels.has_betas),
    }


def shifted(points: np.ndarray, low: np.ndarray, factor: int) -> np.ndarray:
    """Pixels (…, 2) of the image -> of the window; a pixel's centre is a whole number, hence the halves."""
    return (points - low + 0.5) / factor - 0.5
