"""Readers of further published sets, in their official layout. What their labels mean is in conventions.FIXED.

COCO-WholeBody: annotations/coco_wholebody_{train,val}_v1.0.json beside train2017/ and val2017/; 2D alone.
HO3D v2 and v3: train/SEQUENCE/{rgb,meta}/NNNN; right hands, OpenGL's axes, MANO's joint order. Its evaluation set
(evaluation.txt, evaluation/SEQUENCE/...) says of a hand its box and its wrist: boxes without labels here.
DexYCB: SUBJECT/SEQUENCE/CAMERA/{color,labels}_NNNNNN and calibration/mano_*/mano.yml; poses are PCA numbers without the
mean. Betas of left hands are MANO_LEFT's and are not used.
InterHand2.6M: images/ and annotations/{train,val,test}/InterHand2.6M_*_{data,camera,joint_3d,MANO_NeuralAnnot}.json;
world coordinates in mm; MANO's parameters lack the mean pose.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer import pickles
from lib.recipes.hamer.conventions import BadLabel, confident
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.labelled import DAMAGED, Hand, attempt, group_of, load_json, pixels_of, place, table
from lib.recipes.hamer.published import arrays_in

Reader = Callable[[DataConfig, Path], Iterator[Hand]]
OPENGL = np.array([1.0, -1, -1])
MANO = "MANO_NeuralAnnot"  # InterHand2.6M's parameters, a download of its own: without it there are keypoints alone
WRIST = 20  # of InterHand2.6M's 21 joints of a hand


def whole(what: str) -> Callable[[Reader], Reader]:
    """A reader that ends with one sentence where the lists of a data set are not what they should be."""

    def wrap(reader: Reader) -> Reader:
        def read(data: DataConfig, root: Path) -> Iterator[Hand]:
            try:
                yield from reader(data, root)
            except DAMAGED as error:
                cause = f"{root} is not {what} as it is published ({type(error).__name__}: {str(error)[:120]})"
                raise Stop(cause, "fetch its annotations again") from error

        return read

    return wrap


def listed(file: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """(image, annotation, side) of every hand that a list in COCO's form may hold."""
    content = load_json(file)
    images = {each["id"]: each for each in content["images"]}
    for each in content["annotations"]:
        for side in ("left", "right"):
            yield images[each["image_id"]], each, side


def posed(hand: Hand, data: DataConfig, points: Any, joints: Any, pose: Any, betas: Any) -> None:
    """A hand with all labels: keypoints (21, 2) px and (21, 3) m, pose (48,), betas (10,). BadLabel: other shapes."""
    flat, solid = table(points, "2D keypoints", (21, 2)), table(joints, "3D keypoints", (21, 3))
    whole, shape = table(pose, "the pose", (48,)), table(betas, "betas", (10,))
    hand.given = Labels(confident(flat), confident(solid), whole, shape, True, True)
    place(hand, data, hand.given.keypoints_2d)


def matching(root: Path, pattern: str, what: str) -> list[Path]:
    found = sorted(root.glob(pattern))
    if not found:
        raise Stop(f"{root} is not a folder of {what}: it holds no {pattern}", "set data.root to the unpacked data set")
    return found


# ---------------------------------------------------------------------------------------------- COCO-WholeBody


@whole("COCO-WholeBody")
def coco_wholebody(data: DataConfig, root: Path) -> Iterator[Hand]:
    """Hands that are marked as valid; a picture is a group."""
    for file in matching(root, "annotations/coco_wholebody_*.json", "COCO-WholeBody"):
        part = "train2017" if "train" in file.name else "val2017"
        for image, each, side in listed(file):
            if each.get(f"{side}hand_valid"):
                source = f"{part}/{image['file_name']}"
                name = f"{source}#{each['id']}-{side}"
                yield attempt(name, group_of(data, name, source), root / source, source, coco_hand(data, each, side))


def coco_hand(data: DataConfig, each: dict[str, Any], side: str) -> Callable[[Hand], None]:
    def fill(hand: Hand) -> None:
        points = table(each[f"{side}hand_kpts"], "keypoints", (63,)).reshape(21, 3)
        points[:, 2] = points[:, 2] > 0  # COCO's 1 and 2, hidden and seen, are both annotated
        hand.right, hand.given = side == "right", Labels(np.where(points[:, 2:] > 0, points, 0))
        place(hand, data, hand.given.keypoints_2d)

    return fill


# ---------------------------------------------------------------------------------------------- HO3D


@whole("HO3D")
def ho3d(data: DataConfig, root: Path) -> Iterator[Hand]:
    """The sequences of one person and object are a group: ABF10 to ABF14 are five cameras that saw the same moments.

    A frame without a hand is a fault; one of the evaluation set trains nothing.
    """
    tested, pattern = dict.fromkeys(evaluation_frames(root)), "train/*/meta/*.pkl"
    trained = sorted(root.glob(pattern)) if tested else matching(root, pattern, "HO3D")
    for meta in (*trained, *tested):
        sequence = meta.parent.parent
        name = f"{sequence.name}/{meta.stem}"
        pictures = (sequence / "rgb" / f"{meta.stem}{ending}" for ending in (".jpg", ".png"))
        image = next((path for path in pictures if path.exists()), sequence / "rgb" / f"{meta.stem}.png")
        source = image.relative_to(root).as_posix()
        fill = (ho3d_box if meta in tested else ho3d_hand)(data, meta)
        together = sequence.name.rstrip("0123456789") or sequence.name
        yield attempt(name, group_of(data, name, together), image, source, fill)


def refuse_no_area(box: np.ndarray) -> None:
    if not (np.isfinite(box).all() and (box[:2] < box[2:]).all()):
        raise BadLabel(f"handBoundingBox {box.tolist()} has no area")


def evaluation_frames(root: Path) -> list[Path]:
    """evaluation/SEQUENCE/meta/NNNN.pkl of each line of evaluation.txt; none where only train/ was unpacked."""
    if not (root / "evaluation").is_dir():
        return []
    file = root / "evaluation.txt"
    try:
        frames = [line.strip().split("/") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [root / "evaluation" / sequence / "meta" / f"{number}.pkl" for sequence, number in frames]
    except (OSError, ValueError) as error:
        cause = f"{file} does not list the evaluation set, SEQUENCE/NUMBER on each line ({error})"
        raise Stop(cause, "unpack evaluation.txt of HO3D beside evaluation/, or take that folder away") from error


def ho3d_meta(meta: Path) -> dict[str, Any]:
    """BadLabel: the file of one frame among many is not there, or damaged."""
    try:
        with meta.open("rb") as file:
            found: dict[str, Any] = pickles.read(file, str(meta))
    except (Stop, OSError) as error:
        raise BadLabel(getattr(error, "cause", str(error))) from error
    return found


def ho3d_hand(data: DataConfig, meta: Path) -> Callable[[Hand], None]:
    def fill(hand: Hand) -> None:
        found = ho3d_meta(meta)
        if found["handJoints3D"] is None or found["handPose"] is None:
            raise BadLabel("the frame has no annotated hand")
        joints = table(found["handJoints3D"], "handJoints3D", (21, 3), kind=np.float64)
        points = pixels_of(joints * OPENGL, table(found["camMat"], "camMat", (3, 3), kind=np.float64))
        posed(hand, data, points, joints, found["handPose"], found["handBeta"])

    return fill


def ho3d_box(data: DataConfig, meta: Path) -> Callable[[Hand], None]:
    """Of the evaluation set: the wrist alone is no label that a training could use."""

    def fill(hand: Hand) -> None:
        box = table(ho3d_meta(meta)["handBoundingBox"], "handBoundingBox", (4,))
        refuse_no_area(box)
        place(hand, data, np.hstack([box.reshape(2, 2), np.ones((2, 1))]))

    return fill


# ---------------------------------------------------------------------------------------------- DexYCB


@whole("DexYCB")
def dexycb(data: DataConfig, root: Path) -> Iterator[Hand]:
    """A subject is a group. Frames before the hand comes in are faults."""
    for meta in matching(root, "*subject*/*/meta.yml", "DexYCB"):
        content, sequence = load_yaml(meta), meta.parent
        right = {"right": True, "left": False}[content["mano_sides"][0]]
        calibration = root / "calibration" / f"mano_{content['mano_calib'][0]}" / "mano.yml"
        betas = load_yaml(calibration)["betas"]
        for labels in sorted(sequence.glob("*/labels_*.npz")):
            image = labels.with_name(labels.name.replace("labels_", "color_")).with_suffix(".jpg")
            name = image.relative_to(root).with_suffix("").as_posix()
            group = group_of(data, name, sequence.parent.name)
            yield attempt(name, group, image, f"{name}.jpg", dexycb_hand(data, labels, right, betas))


def load_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise Stop(f"{path} cannot be read ({' '.join(str(error).split())[:120]})", "fetch it again") from error


def dexycb_hand(data: DataConfig, labels: Path, right: bool, betas: Any) -> Callable[[Hand], None]:
    def fill(hand: Hand) -> None:
        hand.right = right
        names = ("joint_2d", "joint_3d", "pose_m")
        try:
            found = arrays_in(labels, names)
        except Stop as error:  # one frame among many
            raise BadLabel(error.cause) from error
        points, joints, pose = (found[name][0] for name in names)
        if not np.any(pose) or (joints == -1).all():
            raise BadLabel("the frame has no annotated hand")
        posed(hand, data, points, joints, table(pose, "pose_m", (51,))[:48], betas)

    return fill


# ---------------------------------------------------------------------------------------------- InterHand2.6M


@whole("InterHand2.6M")
def interhand(data: DataConfig, root: Path) -> Iterator[Hand]:
    """Each hand of a picture by itself; a person, of whom there are several captures, is a group."""
    for file in matching(root, "annotations/*/InterHand2.6M_*_data.json", "InterHand2.6M"):
        part = file.parent.name
        names = {each: file.with_name(file.name.replace("_data", f"_{each}")) for each in ("camera", "joint_3d", MANO)}
        beside = {each: load_json(path) if each != MANO or path.exists() else {} for each, path in names.items()}
        for image, each, side in listed(file):
            if each["hand_type"] in (side, "interacting"):
                source = f"images/{part}/{image['file_name']}"
                name = f"{source}#{side}"
                person = f"Subject{image['subject']}" if "subject" in image else f"{part}/Capture{image['capture']}"
                group = group_of(data, name, person)
                yield attempt(name, group, root / source, source, interhand_hand(data, beside, image, side))


def interhand_hand(
    data: DataConfig, beside: dict[str, Any], image: dict[str, Any], side: str
) -> Callable[[Hand], None]:
    def fill(hand: Hand) -> None:
        from scipy.spatial.transform import Rotation

        hand.right = side == "right"
        capture, frame, camera = str(image["capture"]), str(image["frame_idx"]), str(image["camera"])
        lens, world = beside["camera"][capture], beside["joint_3d"][capture][frame]
        turn = table(lens["camrot"][camera], "camrot", (3, 3), kind=np.float64)
        start = table(lens["campos"][camera], "campos", (3,), kind=np.float64)
        mine = slice(0, WRIST + 1) if hand.right else slice(WRIST + 1, 2 * (WRIST + 1))
        joints = (table(world["world_coord"], "world_coord", (42, 3), kind=np.float64)[mine] - start) @ turn.T / 1000
        known = table(world["joint_valid"], "joint_valid", (42,), (42, 1)).ravel()[mine, None] > 0
        focal, middle = (table(lens[name][camera], name, (2,), kind=np.float64) for name in ("focal", "princpt"))
        points = joints[:, :2] / joints[:, 2:] * focal + middle
        flat, solid = (np.hstack([np.where(known, each, 0), known]).astype(np.float32) for each in (points, joints))
        hand.given = Labels(flat, solid)
        mano = beside[MANO].get(capture, {}).get(frame, {}).get(side)
        if mano:
            pose = table(mano["pose"], "pose", (48,), kind=np.float64)
            pose[:3] = (Rotation.from_matrix(turn) * Rotation.from_rotvec(pose[:3])).as_rotvec()
            hand.given.hand_pose, hand.given.betas = pose.astype(np.float32), table(mano["shape"], "shape", (10,))
            hand.given.has_pose = hand.given.has_betas = True
        place(hand, data, flat)

    return fill
