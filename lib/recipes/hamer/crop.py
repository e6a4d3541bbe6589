"""From a photograph and a box to what the network sees, and the annotations moved along with it.

The network knows right hands only: a left hand is mirrored here, with everything that belongs to it, and mirrored back at output.
A pixel's integer position is its centre (OpenCV's convention, which the checkpoint was trained with).
"""
import math
from dataclasses import dataclass, field

import numpy

from lib.recipes.hamer.config import IMAGE_MEAN, IMAGE_STD, DataConfig

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
    """What is known of a hand. Confidence 0 or has_* False = not annotated. Camera axes: x right, y down, z forward."""

    keypoints_2d: numpy.ndarray = field(default_factory=lambda: numpy.zeros((21, 3), numpy.float32))  # x, y px, confidence; OpenPose order
    keypoints_3d: numpy.ndarray = field(default_factory=lambda: numpy.zeros((21, 4), numpy.float32))  # x, y, z m, confidence
    hand_pose: numpy.ndarray = field(default_factory=lambda: numpy.zeros(48, numpy.float32))  # axis-angle, wrist first, of the flat hand
    betas: numpy.ndarray = field(default_factory=lambda: numpy.zeros(10, numpy.float32))
    has_pose: bool = False
    has_betas: bool = False


def draw(data: DataConfig, generator) -> Change:
    """HaMeR's augmentation from a numpy generator: scale, rotation in 60 % of the crops, shift, colour."""
    clipped = lambda limit: float(numpy.clip(generator.standard_normal(), -limit, limit))
    scale = 1 + data.augment_scale * clipped(1)
    rotation = data.augment_rotation_deg * clipped(2)
    turned = generator.random() < data.augment_rotation_share
    shift = (data.augment_shift * clipped(1), data.augment_shift * clipped(1))
    gain = tuple(generator.uniform(1 - data.augment_colour, 1 + data.augment_colour, 3).tolist())
    return Change(scale, rotation if turned else 0.0, shift, gain)


def square(width_px: float, height_px: float, aspect: tuple[int, int] | None = VIT_ASPECT) -> float:
    """Side of the square crop of a box: the box grows to the backbone's aspect, then the longer side counts. None: no growth."""
    return max(width_px, height_px, width_px * aspect[1] / aspect[0] if aspect else 0)


def affine(centre: numpy.ndarray, side_px: float, change: Change, crop_px: int) -> numpy.ndarray:
    """(2, 3): source pixel -> crop pixel. `centre` is that of the (mirrored) image, shift included."""
    angle = math.radians(change.rotation_deg)
    zoom = crop_px / (change.scale * side_px)
    turn = zoom * numpy.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return numpy.hstack([turn, (crop_px / 2 - turn @ centre)[:, None]])


def placement(centre, side_px: float, right: bool, width_px: int, change: Change, crop_px: int) -> numpy.ndarray:
    """The affine of a crop; for a left hand its source is the mirrored image."""
    x, y = numpy.asarray(centre, float) + numpy.asarray(change.shift) * side_px
    return affine(numpy.array([x if right else width_px - 1 - x, y]), side_px, change, crop_px)


def warp(image: numpy.ndarray, crop_from_image: numpy.ndarray, right: bool, crop_px: int) -> numpy.ndarray:
    """(h, w, 3) -> (3, crop_px, crop_px) in grey levels: bilinear in float32, black outside, bit for bit as OpenCV 5 does it.

    Whole grey levels stay whole. OpenCV rounds the positions in an image of floats (a blurred one) to 1/32 px, and so does this.
    """
    if not right:
        image = image[:, ::-1]
    inverse = numpy.linalg.inv(numpy.vstack([crop_from_image, [0, 0, 1]])).astype(numpy.float32)
    x, y = numpy.meshgrid(*2 * [numpy.arange(crop_px, dtype=numpy.float32)])
    x, y = (row[0] * x + row[1] * y + row[2] for row in inverse[:2])
    if image.dtype != numpy.uint8:
        x, y = (numpy.round(32 * value) / 32 for value in (x, y))
    crop = bilinear(image, x.ravel(), y.ravel()).reshape(crop_px, crop_px, 3).transpose(2, 0, 1)
    return crop.round() if image.dtype == numpy.uint8 else crop


def bilinear(image: numpy.ndarray, x: numpy.ndarray, y: numpy.ndarray) -> numpy.ndarray:
    """Values (n, 3) float32 of an image (h, w, 3) at float positions (n,); black beyond its border."""
    height, width = image.shape[:2]
    framed = numpy.zeros((height + 2, width + 2, 3), numpy.float32)
    framed[1:-1, 1:-1] = image
    framed = framed.reshape(-1, 3)
    left, top = numpy.floor(x), numpy.floor(y)
    across, down = (x - left)[:, None], (y - top)[:, None]
    columns = [numpy.clip(left + i, 0, width + 1).astype(numpy.intp) for i in (1, 2)]
    rows = [numpy.clip(top + i, 0, height + 1).astype(numpy.intp) * (width + 2) for i in (1, 2)]
    upper, lower = ([framed.take(row + column, 0) for column in columns] for row in rows)
    upper, lower = (pair[0] + across * (pair[1] - pair[0]) for pair in (upper, lower))
    return upper + down * (lower - upper)


def normalise(crop: numpy.ndarray, gain: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> numpy.ndarray:
    """(3, h, w) grey levels 0-255 -> what the backbone was trained on, float32."""
    mean, deviation = (255 * numpy.array(value)[:, None, None] for value in (IMAGE_MEAN, IMAGE_STD))
    return ((numpy.clip(crop * numpy.array(gain)[:, None, None], 0, 255) - mean) / deviation).astype(numpy.float32)


def move_labels(labels: Labels, crop_from_image: numpy.ndarray, right: bool, width_px: int, rotation_deg: float, crop_px: int) -> Labels:
    """Labels of the whole image -> of the crop: mirrored for a left hand, turned with the crop, 2D as fractions (-0.5 ... 0.5)."""
    points, joints, pose = labels.keypoints_2d.astype(float), labels.keypoints_3d.astype(float), labels.hand_pose.astype(float)
    if not right:
        points[:, 0] = width_px - 1 - points[:, 0]
        joints[:, 0] *= -1
        pose = mirrored(pose)
    points[:, :2] = (points[:, :2] @ crop_from_image[:, :2].T + crop_from_image[:, 2]) / crop_px - 0.5
    joints[:, :3], pose[:3] = turned(joints[:, :3], pose[:3], rotation_deg)
    real = lambda array: array.astype(numpy.float32)
    return Labels(real(points), real(joints), real(pose), labels.betas, labels.has_pose, labels.has_betas)


def mirrored(axis_angle: numpy.ndarray) -> numpy.ndarray:
    """Axis-angle numbers (any multiple of 3) of the hand in the mirror: y and z change sign."""
    return (axis_angle.reshape(-1, 3) * [1, -1, -1]).reshape(axis_angle.shape)


def turned(points: numpy.ndarray, orientation: numpy.ndarray, rotation_deg: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Points (n, 3) and the wrist's axis-angle (3,) after the crop was turned about the viewing axis."""
    from scipy.spatial.transform import Rotation

    about_z = Rotation.from_euler("z", -rotation_deg, degrees=True)
    return about_z.apply(points), (about_z * Rotation.from_rotvec(orientation)).as_rotvec()


def blurred(image: numpy.ndarray, side_px: float, crop_px: int) -> numpy.ndarray:
    """The image without what a crop of this size would alias (HaMeR's inference path): sigma is half the reduction minus one half."""
    from scipy.ndimage import gaussian_filter

    reduction = side_px / crop_px / 2
    if reduction <= 1.1:
        return image
    sigma = (reduction - 1) / 2
    return gaussian_filter(image.astype(numpy.float32), (sigma, sigma, 0), mode="nearest")


def detection(image, box, right: bool, factor: float, crop_px: int, aspect: tuple[int, int] | None = VIT_ASPECT):
    """A detector's box x0, y0, x1, y1 px -> normalised crop (3, crop_px, crop_px), its centre (2,) and its side in the image, px."""
    centre = (box[:2] + box[2:]) / 2
    side_px = square(*(factor * (box[2:] - box[:2])), aspect)
    place = placement(centre, side_px, right, image.shape[1], Change(), crop_px)
    return normalise(warp(blurred(image, side_px, crop_px), place, right, crop_px)), centre, side_px
