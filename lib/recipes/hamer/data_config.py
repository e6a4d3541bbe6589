"""Settings `data.*` of the recipe `hamer`: where hands come from, what their labels mean, how crops are augmented."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.config import at_least, measured, one_of
from lib.core.errors import Stop

ONE_MEANING = ("freihand", "coco_wholebody", "ho3d", "dexycb", "interhand")  # conventions.FIXED says which
FORMATS = ("made", *ONE_MEANING, "hamer_npz", "hamer_tar", "folder")
PUBLISHED = (*ONE_MEANING, "hamer_npz", "hamer_tar")  # benchmarks whose 3D scores are defined with MANO
ORDERS = ("openpose", "mano", "interhand", "rhd", "fphab")  # lib.recipes.hamer.conventions.ORDER says what each is
AXES = ("opencv", "opengl")
POSES = ("axis_angle", "without_mean", "pca", "pca_without_mean")
LEFT_BETAS = ("mirrored", "negated", "unused")
BOXES = ("corners", "xywh", "centre")
CONFIDENCES = {"unit": 1.0, "visibility": 2.0, "percent": 100.0, "byte": 255.0}  # the value that means certain
REACH = 1.0  # pixels kept around a hand's centre, in box sides: 1.3 (scale) x 1.42 (a turned square) / 2 + shift


@dataclass
class DataConfig:
    format: str = "freihand"  # made | freihand | coco_wholebody | ho3d | dexycb | interhand | hamer_npz | ...
    root: str = ""  # your data
    # Conventions of the labels. Step 3 tests whether they fit the data and names the likely ones where they do not.
    joint_order_2d: str = (
        "openpose"  # or mano | interhand | rhd | fphab, or the place of each OpenPose joint: 0,5,6,...
    )
    joint_order_3d: str = "openpose"  # as joint_order_2d
    axes: str = "opencv"  # of 3D keypoints and the wrist's rotation: y down, z forward; opengl: y up, z backward
    pose_format: str = "axis_angle"  # of the flat hand | without_mean: of MANO's mean pose | pca | pca_without_mean
    left_betas: str = "mirrored"  # of left hands: the right hand's, in the mirror | negated | unused (MANO_LEFT's)
    box_format: str = "corners"  # x0, y0, x1, y1 | xywh: x0, y0, width, height | centre: x, y, width, height
    confidence: str = "auto"  # of keypoints: unit (0 to 1) | visibility (COCO's 0, 1, 2) | percent | byte (0 to 255)
    trust_labels: bool = False  # use labels that contradict each other, or are in no known convention, as they are
    group_pattern: str = ""  # regex over a sample's name; its first group names the subject or sequence. "" = by format
    val_groups: list[str] = field(default_factory=list)  # held out; [] = a share of the groups, drawn with train.seed
    val_share: float = 0.1  # of the groups, where val_groups is empty
    truth: str = measured("3d")  # held-out hands are scored against all 21 keypoints in 3D (others are left out); or 2d
    box_factor: float = 2.0  # side of a crop whose box comes from keypoints, relative to their extent
    keep_side_px: int = 512  # larger boxes are reduced to this side in step 3, which also removes aliasing
    augment: bool = True  # vary the crops of the training: size, rotation, place, colour
    augment_scale: float = 0.3  # crops vary by this share of their size
    augment_rotation_deg: float = 30.0  # standard deviation, cut at two of them
    augment_rotation_share: float = 0.6  # of the training crops that are rotated
    augment_shift: float = 0.02  # of the box
    augment_colour: float = 0.2  # each channel varies by this share
    stand_in_subjects: int = 16  # of the stand-in data: subjects, and hands of each
    stand_in_hands: int = 40  # of each subject of the stand-in data
    stand_in_px: int = 128  # side of a stand-in picture

    def __post_init__(self) -> None:
        one_of("data.format", self.format, FORMATS)
        one_of("data.truth", self.truth, ("3d", "2d"))
        refuse_wrong_root(self)
        refuse_unknown_conventions(self)
        refuse_wrong_pattern(self.group_pattern)
        if not 0.5 <= self.box_factor <= 10:
            raise Stop(f"data.box_factor={self.box_factor} is impossible: it must be between 0.5 and 10")
        lowest = {"keep_side_px": 64, "stand_in_subjects": 2, "stand_in_hands": 1, "stand_in_px": 32}
        for name, low in lowest.items():
            at_least(f"data.{name}", getattr(self, name), low)
        if not 0 < self.val_share < 1:
            raise Stop(f"data.val_share={self.val_share} is not between 0 and 1")
        refuse_impossible_augmentation(self)


def refuse_wrong_root(data: DataConfig) -> None:
    """One file where one file is meant. Whether it is there, step 2 finds out."""
    if data.root and data.format == "made":
        raise Stop(
            f"data.root={data.root!r} is not used: data.format=made draws its own hands", "set data.format as well"
        )
    suffix = Path(data.root).suffix
    for ending, form in ((".npz", "hamer_npz"), (".tar", "hamer_tar")):
        if suffix == ending and data.format != form:
            raise Stop(f"data.root={data.root!r} is a {ending} file, but data.format={data.format} is a folder's")


def refuse_unknown_conventions(data: DataConfig) -> None:
    one_of("data.axes", data.axes, AXES)
    one_of("data.pose_format", data.pose_format, POSES)
    one_of("data.left_betas", data.left_betas, LEFT_BETAS)
    one_of("data.box_format", data.box_format, BOXES)
    one_of("data.confidence", data.confidence, ("auto", *CONFIDENCES))
    for name in ("joint_order_2d", "joint_order_3d"):
        value = getattr(data, name)
        if "," not in value:
            one_of(f"data.{name}", value, ORDERS)
        elif sorted(value.replace(" ", "").split(",")) != sorted(map(str, range(21))):
            raise Stop(f"data.{name}={value!r} must be one of {', '.join(ORDERS)}, or name each of 0 to 20 once")
    refuse_conventions_of_a_fixed_format(data)


def refuse_conventions_of_a_fixed_format(data: DataConfig) -> None:
    """The made data and published sets have one convention, which their readers know."""
    names = ("joint_order_2d", "joint_order_3d", "axes", "pose_format", "left_betas", "box_format", "confidence")
    if data.format not in ("made", *ONE_MEANING):
        return
    for name in names:
        if getattr(data, name) != DataConfig.__dataclass_fields__[name].default:
            cause = f"data.{name}={getattr(data, name)} is for hands of your own, and data.format is {data.format}"
            raise Stop(cause, f"leave data.{name} out, or set data.format")


def refuse_wrong_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise Stop(f"data.group_pattern={pattern!r} is not a valid regular expression ({error})") from error
    if pattern and not groups:
        raise Stop(f"data.group_pattern={pattern!r} has no parentheses, which say what the group is")


def refuse_impossible_augmentation(data: DataConfig) -> None:
    for name, high in (("scale", 0.99), ("rotation_deg", 90), ("rotation_share", 1), ("shift", 1), ("colour", 1)):
        value = getattr(data, f"augment_{name}")
        if not 0 <= value <= high:
            raise Stop(f"data.augment_{name}={value} is impossible: it must be between 0 and {high}")
    reach = ((1 + data.augment_scale) / 2 + data.augment_shift) * math.sqrt(2)
    if reach > REACH:
        cause = f"data.augment_scale={data.augment_scale} with data.augment_shift={data.augment_shift}"
        raise Stop(f"{cause} needs pixels that step 3 does not keep: {reach:.2f} box sides, kept are {REACH}")
