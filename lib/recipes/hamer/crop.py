"""From a photograph and a box to what the network sees, and the annotations moved along with it.

The network knows right hands only: a left hand is mirrored here, with everything that belongs to it, and mirrored back
at output. A pixel's integer position is its centre (OpenCV's convention, which the checkpoint was trained with).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.recipes.hamer.config import IMAGE_MEAN, IMAGE_STD

PIECE = 1 << 14  # positions at once
VIT_ASPECT = (192, 256)  # width, height of what the backbone sees


@dataclass(frozen=True)
class Change:
    """Augmentation of one crop; the default changes nothing."""

    scale: float = 1.0  # of the box
    rotation_deg: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)  # of the box side, before the mirror
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)  # red, green, blue


@dataclass
class Labels:
    """What is known of a hand; keypoints in OpenPose's order. Confidence 0 or has_* False = not annotated.

    Camera axes: x right, y down, z forward.
    """

    keypoints_2d: np.ndarray = field(default_factory=lambda: np.zeros((21, 3), np.float32))  # x, y px, confidence
    keypoints_3d: np.ndarray = field(default_factory=lambda: np.zeros((21, 4), np.float32))  # x, y, z m, confidence
    # axis-angle in rad, wrist first, relative to the flat hand
    hand_pose: np.ndarray = field(default_factory=lambda: np.zeros(48, np.float32))
    betas: np.ndarray = field(default_factory=lambda: np.zeros(10, np.float32))
    has_pose: bool = False
    has_betas: bool = False


def square(width_px: float, height_px: float, aspect: tuple[int, int] | None = VIT_ASPECT) -> float:
    """Side in px of the square crop of a box: the box grows to the aspect (None: not), then the longer side counts."""
    return max(width_px, height_px, width_px * aspect[1] / aspect[0] if aspect else 0)


def affine(centre: np.ndarray, side_px: float, change: Change, crop_px: int) -> np.ndarray:
    """(2, 3): source pixel -> crop pixel. `centre` (2,) px is that of the (mirrored) image, shift included."""
    angle = math.radians(change.rotation_deg)
    zoom = crop_px / (change.scale * side_px)
    turn = zoom * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.hstack([turn, (crop_px / 2 - turn @ centre)[:, None]])


def placement(
    centre: Sequence[float] | np.ndarray, side_px: float, right: bool, width_px: int, change: Change, crop_px: int
) -> np.ndarray:
    """The affine (2, 3) of a crop around `centre` (2,) px; for a left hand its source is the mirrored image."""
    x, y = np.asarray(centre, float) + np.asarray(change.shift) * side_px
    return affine(np.array([x if right else width_px - 1 - x, y]), side_px, change, crop_px)


def warp(image: np.ndarray, crop_from_image: np.ndarray, right: bool, crop_px: int) -> np.ndarray:
    """(h, w, 3) -> (3, crop_px, crop_px) in grey levels, uint8 or float32 like the image: bilinear, black outside.

    Bit for bit as OpenCV 5 does it: in float32; whole grey levels stay whole, and positions in an image of floats (a
    blurred one) are rounded to 1/32 px.
    """
    if not right:
        image = image[:, ::-1]
    inverse = np.linalg.inv(np.vstack([crop_from_image, [0, 0, 1]])).astype(np.float32)
    along = np.arange(crop_px, dtype=np.float32)
    x, y = (row[0] * along + (row[1] * along)[:, None] + row[2] for row in inverse[:2])
    if image.dtype != np.uint8:
        x, y = (np.round(32 * value) / 32 for value in (x, y))
    crop = bilinear(image, x.ravel(), y.ravel()).reshape(3, crop_px, crop_px)
    return np.rint(crop).astype(np.uint8) if image.dtype == np.uint8 else crop


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values (3, n) float32 of an image (h, w, 3) at float positions (n,); black beyond its border.

    Three bytes and a fourth make one number to look up, and a piece of the positions stays in the processor's cache.
    """
    height, width = image.shape[:2]
    framed = np.zeros((height + 2, width + 2, 4), np.uint8 if image.dtype == np.uint8 else np.float32)
    for channel in range(3):  # in rows of three bytes numpy copies at a fifth of this speed
        framed[1:-1, 1:-1, channel] = image[:, :, channel]
    pixels = framed.view(np.uint32).ravel() if image.dtype == np.uint8 else framed.reshape(-1, 4)
    found = np.empty((3, len(x)), np.float32)
    for first in range(0, len(x), PIECE):
        piece = slice(first, first + PIECE)
        left, top = np.floor(x[piece]), np.floor(y[piece])
        across, down = x[piece] - left, y[piece] - top
        columns = [np.clip(left + i, 0, width + 1).astype(np.intp) for i in (1, 2)]
        rows = [np.clip(top + i, 0, height + 1).astype(np.intp) * (width + 2) for i in (1, 2)]
        corners = [pixels.take(row + column, 0).view(framed.dtype).reshape(-1, 4) for row in rows for column in columns]
        for channel, values in enumerate(found[:, piece]):
            one, two, three, four = (corner[:, channel].astype(np.float32) for corner in corners)
            upper, lower = one + across * (two - one), three + across * (four - three)
            np.add(upper, down * (lower - upper), out=values)
    return found


def normalise(crop: np.ndarray, gain: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """(3, h, w) grey levels 0-255 -> what the backbone was trained on, float32.

    Computed in float64; of bytes once for each of the 256 levels.
    """
    if crop.dtype == np.uint8:
        tables = normalise(np.tile(np.arange(256.0), (3, 1))[:, :, None], gain)[:, :, 0]
        return np.stack([table.take(channel) for table, channel in zip(tables, crop, strict=True)])
    mean, deviation = (255 * np.array(value)[:, None, None] for value in (IMAGE_MEAN, IMAGE_STD))
    return ((np.clip(crop * np.array(gain)[:, None, None], 0, 255) - mean) / deviation).astype(np.float32)


def move_labels(
    labels: Labels, crop_from_image: np.ndarray, right: bool, width_px: int, rotation_deg: float, crop_px: int
) -> Labels:
    """Labels of the whole image -> of the crop: mirrored for a left hand, turned with the crop, 2D as fractions of it
    (-0.5 … 0.5). crop_from_image: the affine (2, 3) of `placement`.
    """
    points, joints = labels.keypoints_2d.astype(float), labels.keypoints_3d.astype(float)
    pose = labels.hand_pose.astype(float)
    if not right:
        points[:, 0] = width_px - 1 - points[:, 0]
        joints[:, 0] *= -1
        pose = mirrored(pose)
    points[:, :2] = (points[:, :2] @ crop_from_image[:, :2].T + crop_from_image[:, 2]) / crop_px - 0.5
    joints[:, :3], pose[:3] = turned(joints[:, :3], pose[:3], rotation_deg)
    points, joints, pose = (array.astype(np.float32) for array in (points, joints, pose))
    return Labels(points, joints, pose, labels.betas, labels.has_pose, labels.has_betas)


def mirrored(axis_angle: np.ndarray) -> np.ndarray:
    """Axis-angle rotations (3 n,) of the hand in the mirror: y and z change sign."""
    return (axis_angle.reshape(-1, 3) * [1, -1, -1]).reshape(axis_angle.shape)


def turned(points: np.ndarray, orientation: np.ndarray, rotation_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) and the wrist's axis-angle (3,) rad after the crop was turned about the viewing axis."""
    from scipy.spatial.transform import Rotation

    about_z = Rotation.from_euler("z", -rotation_deg, degrees=True)
    return about_z.apply(points), (about_z * Rotation.from_rotvec(orientation)).as_rotvec()


def blurred(image: np.ndarray, side_px: float, crop_px: int) -> np.ndarray:
    """The image (h, w, 3) without what a crop of this size would alias, as on HaMeR's inference path.

    Sigma is half the reduction minus one half; the result is float32, or the image itself where nothing aliases.
    """
    from scipy.ndimage import gaussian_filter

    reduction = side_px / crop_px / 2
    if reduction <= 1.1:
        return image
    sigma = (reduction - 1) / 2
    return gaussian_filter(image.astype(np.float32), (sigma, sigma, 0), mode="nearest")


def detection(
    image: np.ndarray,
    box: np.ndarray,
    right: bool,
    factor: float,
    crop_px: int,
    aspect: tuple[int, int] | None = VIT_ASPECT,
) -> tuple[np.ndarray, np.ndarray, float]:
    """A detector's box x0, y0, x1, y1 px in an image (h, w, 3) uint8, grown by `factor`.

    Gives the normalised crop (3, crop_px, crop_px), its centre (2,) px and its side in the image, px.
    """
    centre = (box[:2] + box[2:]) / 2
    width_px, height_px = factor * (box[2:] - box[:2])
    side_px = square(width_px, height_px, aspect)
    place = placement(centre, side_px, right, image.shape[1], Change(), crop_px)
    return normalise(warp(blurred(image, side_px, crop_px), place, right, crop_px)), centre, side_px
