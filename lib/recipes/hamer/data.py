"""Step 3: labelled hands -> checked records and shards of pixels, from which `sampling` makes crops.

A shard holds the untouched pixels around 256 hands, enough for every scale and rotation of the augmentation, so a training crop is
resampled once, straight from them. Only boxes larger than `data.keep_side_px` are reduced before, by a whole number.
"""
import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

from lib import split as splits
from lib.errors import FAILED, Stop
from lib.recipes import Record, Split
from lib.recipes.hamer import crop
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.formats import Hand, hands
from lib.recipes.hamer.hand import stand_in
from lib.recipes.hamer.mano import ManoModel
from lib.recipes.hamer.mano_file import NAMES, read
from lib.run import atomic

SHARD = 256  # hands: about 40 MB for FreiHAND
REACH = 1.0  # pixels kept around the centre, in box sides: 1.3 (scale) x 1.42 (a turned square) / 2 + shift
BONES = [(0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21)]  # OpenPose order
BONE_M = (0.01, 0.10)
LOOK_PX = 64
ARRAYS = ("keypoints_2d", "keypoints_3d", "hand_pose", "betas")


def mano_of(config: Config, where: dict[str, Path]) -> ManoModel:
    """The licensed hand, or the made-up one."""
    if config.model.mano == "stand_in":
        return stand_in()
    folder = where["mano"]
    return read(next((folder / name for name in NAMES if (folder / name).exists()), folder / NAMES[0]))


def prepare(config: Config, where: dict[str, Path], out: Path) -> Iterator[Record]:
    """Records in the data's order; a finished shard is read back instead of being made again."""
    mano, waiting, number = mano_of(config, where), [], 0
    named = Path(config.data.root).suffix in (".npz", ".tar")
    root = where["data"] / Path(config.data.root).name if named else where["data"]
    for hand in hands(config.data, root, mano.hands_mean):
        waiting.append(hand)
        if len(waiting) == SHARD:
            yield from shard(config, waiting, mano, out / f"shard-{number:05d}.safetensors")
            waiting, number = [], number + 1
    if waiting:
        yield from shard(config, waiting, mano, out / f"shard-{number:05d}.safetensors")


def shard(config: Config, found: list[Hand], mano: ManoModel, path: Path) -> Iterator[Record]:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    if not path.exists():
        records, rows = [], []
        for hand in found:
            record, row = one(config, hand, mano, path.name, len(rows))
            records.append(record)
            rows += [row] if row else []
        with atomic(path) as temporary:
            save_file(packed(rows), temporary, metadata={"records": json.dumps([dataclasses.asdict(record) for record in records])})
    with safe_open(path, framework="numpy") as kept:
        stored = [Record(**fields) for fields in json.loads(kept.metadata()["records"])]
    if [record.sample_id for record in stored] != [hand.name for hand in found]:
        raise Stop(f"{path} was made from other data", f"delete {path.parent} and prepare again", FAILED)
    yield from stored


def packed(rows: list[dict[str, Any]]) -> dict[str, numpy.ndarray]:
    if not rows:
        return {"offset": numpy.zeros(1, numpy.int64)}
    sizes = [row["pixels"].size for row in rows]
    arrays = {name: numpy.stack([row[name] for row in rows]) for name in rows[0] if name != "pixels"}
    pixels = numpy.concatenate([row["pixels"].ravel() for row in rows])
    return arrays | {"pixels": pixels, "offset": numpy.concatenate([[0], numpy.cumsum(sizes)]).astype(numpy.int64)}


def one(config: Config, hand: Hand, mano: ManoModel, shard_name: str, row: int) -> tuple[Record, dict[str, Any] | None]:
    """The record of a hand and its arrays, or None and the reason why it cannot be used."""
    from PIL import Image, UnidentifiedImageError

    record = Record(hand.name, hand.group, f"asset:data/{hand.source}", "", columns={"right": int(hand.right)})
    try:
        content = hand.image if isinstance(hand.image, bytes) else hand.image.read_bytes()
        record.sha256 = hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            picture = numpy.asarray(image.convert("RGB"))
    except FileNotFoundError:
        record.status, record.reason = "skipped", "the image is missing"
        return record, None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        record.status, record.reason = "skipped", f"the image cannot be decoded ({error})"
        return record, None
    record.reason = unusable(hand, *picture.shape[1::-1])
    if record.reason:
        record.status = "skipped"
        return record, None
    labels, notes = checked(hand, *doubt(config, mano))
    known = {"2d": (labels.keypoints_2d[:, 2] > 0).any(), "3d": (labels.keypoints_3d[:, 3] > 0).all()}
    record.columns |= {"shard": shard_name, "row": row, "pose": int(labels.has_pose), "notes": "; ".join(notes)}
    record.columns |= {name: int(there) for name, there in known.items()}
    record.look = splits.look(look(picture, hand))
    return record, window(picture, hand, labels, config.data.keep_side_px)


def unusable(hand: Hand, width: int, height: int) -> str:
    """Why a hand cannot be used at all: nothing to see, or labels in other units."""
    numbers = [hand.centre, hand.labels.keypoints_2d, hand.labels.keypoints_3d, hand.labels.hand_pose, hand.labels.betas]
    if not all(numpy.isfinite(array).all() for array in numbers) or not numpy.isfinite(hand.side_px):
        return "a label is not finite"
    if hand.side_px < 1:
        return "the box has no area"
    low, high = hand.centre - hand.side_px / 2, hand.centre + hand.side_px / 2
    if (high <= 0).any() or (low >= [width, height]).any():
        return f"the box lies outside the image of {width} x {height} px"
    points = hand.labels.keypoints_2d[hand.labels.keypoints_2d[:, 2] > 0, :2]
    inside = ((points >= low) & (points <= high)).all(1)
    if len(points) and inside.mean() < 0.5:
        return f"{(~inside).sum()} of {len(points)} 2D keypoints lie outside the crop: pixels of the whole image are expected"
    if len(points) > 1 and (points.max(0) - points.min(0)).max() < 0.05 * hand.side_px:
        return f"the 2D keypoints lie within 5 % of the crop of {hand.side_px:.0f} px: pixels of the whole image are expected"
    bones = bone_lengths(hand.labels)
    if len(bones) and not BONE_M[0] <= numpy.median(bones) <= BONE_M[1]:
        return f"the median bone is {numpy.median(bones):.3g} long: 3D keypoints are expected in metres"
    return ""


def bone_lengths(labels: Labels) -> numpy.ndarray:
    pairs = [(a, b) for a, b in BONES if labels.keypoints_3d[a, 3] > 0 and labels.keypoints_3d[b, 3] > 0]
    return numpy.array([numpy.linalg.norm(labels.keypoints_3d[a, :3] - labels.keypoints_3d[b, :3]) for a, b in pairs])


def doubt(config: Config, mano: ManoModel) -> tuple[bool, str]:
    """Poses and shapes are numbers of one hand model: are those of the data this model's, and what is to be said of them?"""
    if (config.data.format == "made") != mano.stand_in:
        return False, "pose and shape are numbers of another hand model and are not used"
    if config.data.format == "freihand" and not mano.of_freihand:
        return True, "FreiHAND's labels were made with another version of MANO: meshes differ by up to 6 mm"
    return True, ""


def checked(hand: Hand, trusted: bool, note: str = "") -> tuple[Labels, list[str]]:
    """The labels without what cannot be right, and a note on each."""
    labels, notes = dataclasses.replace(hand.labels), []
    if note and (labels.has_pose or labels.has_betas):
        notes.append(note)
        labels.has_pose, labels.has_betas = labels.has_pose and trusted, labels.has_betas and trusted
    if labels.has_betas and numpy.abs(labels.betas).max() > 3:
        labels.has_pose = labels.has_betas = False
        notes.append("a shape number beyond 3")
    if labels.has_pose and numpy.linalg.norm(labels.hand_pose.reshape(16, 3)[1:], axis=1).max() > numpy.pi + 1e-3:
        labels.has_pose = labels.has_betas = False
        notes.append("a joint turned by more than pi: radians are expected")
    if looks_like_the_other_hand(hand):
        notes.append(f"the 3D keypoints look like a {'left' if hand.right else 'right'} hand")
    return labels, notes


def looks_like_the_other_hand(hand: Hand) -> bool:
    """Fingers bend towards the palm. Only a clear case counts: tips at least 2 cm on the wrong side of the palm's plane."""
    joints = hand.labels.keypoints_3d
    if not (joints[[0, 5, 17, 4, 8, 12, 16, 20], 3] > 0).all():
        return False
    palm = numpy.cross(joints[5, :3] - joints[0, :3], joints[17, :3] - joints[0, :3])  # out of the palm of a right hand
    palm = palm / max(float(numpy.linalg.norm(palm)), 1e-12) * (1 if hand.right else -1)
    return float(((joints[[4, 8, 12, 16, 20], :3] - joints[0, :3]) @ palm).mean()) < -0.02


def look(picture: numpy.ndarray, hand: Hand) -> numpy.ndarray:
    """A small grey crop, from which near-duplicates across the split are found."""
    place = crop.placement(hand.centre, hand.side_px, True, picture.shape[1], crop.Change(), LOOK_PX)
    step = max(1, int(hand.side_px / LOOK_PX))
    return crop.warp(picture[::step, ::step], place @ numpy.diag([step, step, 1]), True, LOOK_PX).mean(0).clip(0, 255)


def window(picture: numpy.ndarray, hand: Hand, labels: Labels, keep_side_px: int) -> dict[str, Any]:
    """The pixels that any crop of this hand can need, and the labels moved to them."""
    from PIL import Image

    factor = max(1, int(hand.side_px / keep_side_px))
    reach = REACH * hand.side_px + 2
    low = numpy.floor(hand.centre - reach).astype(int).clip(0)
    high = numpy.ceil(hand.centre + reach).astype(int) + 1
    pixels = picture[low[1] : high[1], low[0] : high[0]]
    if factor > 1:
        pixels = numpy.asarray(Image.fromarray(pixels).reduce(factor))
    moved = labels.keypoints_2d.copy()
    moved[:, :2] = shifted(moved[:, :2], low, factor)
    return {
        "pixels": pixels, "shape": numpy.array(pixels.shape[:2], numpy.int32),
        "centre": shifted(hand.centre, low, factor).astype(numpy.float32),
        "side_px": numpy.float32(hand.side_px / factor), "right": numpy.uint8(hand.right), "keypoints_2d": moved.astype(numpy.float32),
        "keypoints_3d": labels.keypoints_3d, "hand_pose": labels.hand_pose, "betas": labels.betas,
        "has_pose": numpy.uint8(labels.has_pose), "has_betas": numpy.uint8(labels.has_betas),
    }  # fmt: skip


def shifted(points: numpy.ndarray, low: numpy.ndarray, factor: int) -> numpy.ndarray:
    """Pixels of the image -> of the window; a pixel's centre is a whole number, hence the halves."""
    return (points - low + 0.5) / factor - 0.5


def split(config: Config, records: list[Record]) -> Split:
    """Whole subjects or sequences: the named ones, else FreiHAND's evaluation set, else a drawn share."""
    refuse_mostly_unusable(records)
    if not any(int(record.columns.get(truth(config), 0)) for record in records):
        cause = f"no hand has keypoints in {truth(config)}, so there is nothing to score against"
        raise Stop(cause, "add them to the labels, or set data.truth")
    groups = sorted({record.group for record in records if record.status == "ok"})
    unknown = sorted(set(config.data.val_groups) - set(groups))
    if unknown:
        raise Stop(f"data.val_groups names {unknown[0]!r}; there are: {', '.join(groups[:20])}", "correct data.val_groups")
    if config.data.val_groups:
        return Split("group", tuple(config.data.val_groups))
    if config.data.format == "freihand" and "evaluation" in groups:
        return Split("official set", ("evaluation",))
    return splits.by_share(records, "group", config.data.val_share, config.train.seed)


def truth(config: Config) -> str:
    """The column of the manifest that says whether a hand can be scored."""
    return "3d" if config.scores_3d else "2d"


def refuse_mostly_unusable(records: list[Record]) -> None:
    """One odd hand is skipped; when most fail, the data is read wrongly."""
    skipped = [record for record in records if record.status == "skipped"]
    if len(skipped) > len(records) / 2:
        cause = f"{len(skipped)} of {len(records)} hands cannot be used; the first, {skipped[0].sample_id}: {skipped[0].reason}"
        raise Stop(cause, "correct the data")


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    usable = [record for record in records if record.status == "ok"]
    notes = Counter(note for record in usable for note in str(record.columns.get("notes", "")).split("; ") if note)
    reasons = Counter(record.reason.split(":")[0].split("(")[0] for record in records if record.status == "skipped")
    found = {"hands": len(usable), "left hands": sum(int(record.columns["right"]) == 0 for record in usable)}
    found |= {"with pose and shape": sum(int(record.columns["pose"]) for record in usable)}
    found |= {"groups": len({record.group for record in usable})} | {f"note: {note}": count for note, count in notes.items()}
    return found | {f"skipped: {reason}": count for reason, count in reasons.items()}
