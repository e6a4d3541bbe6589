"""Step 3: labelled hands -> checked records, and shards of pixels from which `samples` makes crops.

A shard holds the untouched pixels around 256 hands, enough for every scale and rotation of the augmentation, so a
training crop is resampled once, straight from them. Only boxes larger than `data.keep_side_px` are reduced before, by a
whole number.
"""

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import FAILED, Stop
from lib.core.records import Record, Split
from lib.core.run import atomic
from lib.data import split as splits
from lib.recipes.hamer import crop
from lib.recipes.hamer.checks import checked, doubt, unusable
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.formats import hands
from lib.recipes.hamer.hand import stand_in_hand
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano_file import NAMES, ManoModel, read

SHARD = 256  # hands: about 40 MB for FreiHAND
REACH = 1.0  # pixels kept around the centre, in box sides: 1.3 (scale) x 1.42 (a turned square) / 2 + shift
PREVIEW_PX = 64
ARRAYS = ("keypoints_2d", "keypoints_3d", "hand_pose", "betas")


def mano_of(config: Config, asset_dirs: dict[str, Path]) -> ManoModel:
    """The licensed hand, or the stand-in. Stop: the licensed file is absent or damaged."""
    if config.model.mano == "stand_in":
        return stand_in_hand()
    folder = asset_dirs["mano"]
    return read(next((folder / name for name in NAMES if (folder / name).exists()), folder / NAMES[0]))


def prepare(config: Config, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """Records in the data's order; a finished shard is read back instead of being made again."""
    mano, waiting, number = mano_of(config, asset_dirs), [], 0
    named = Path(config.data.root).suffix in (".npz", ".tar")
    root = asset_dirs["data"] / Path(config.data.root).name if named else asset_dirs["data"]
    for hand in hands(config.data, root, mano.hands_mean):
        waiting.append(hand)
        if len(waiting) == SHARD:
            yield from shard(config, waiting, mano, out / f"shard-{number:05d}.safetensors")
            waiting, number = [], number + 1
    if waiting:
        yield from shard(config, waiting, mano, out / f"shard-{number:05d}.safetensors")


def shard(config: Config, found: list[Hand], mano: ManoModel, path: Path) -> Iterator[Record]:
    from safetensors import safe_open

    if not path.exists():
        write_shard(config, found, mano, path)
    with safe_open(path, framework="numpy") as kept:
        stored = [Record(**fields) for fields in json.loads(kept.metadata()["records"])]
    if [record.sample_id for record in stored] != [hand.name for hand in found]:
        raise Stop(f"{path} was made from other data", f"delete {path.parent} and prepare again", FAILED)
    yield from stored


def write_shard(config: Config, found: list[Hand], mano: ManoModel, path: Path) -> None:
    from safetensors.numpy import save_file

    records: list[Record] = []
    rows: list[dict[str, Any]] = []
    for hand in found:
        record, row = one(config, hand, mano, path.name, len(rows))
        records.append(record)
        rows += [row] if row else []
    metadata = {"records": json.dumps([dataclasses.asdict(record) for record in records])}
    with atomic(path) as temporary:
        save_file(packed(rows), temporary, metadata=metadata)


def packed(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of `window` as arrays with a first axis of hands; the pixels of all lie one after another in one array."""
    if not rows:
        return {"offset": np.zeros(1, np.int64)}
    sizes = [row["pixels"].size for row in rows]
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "pixels"}
    pixels = np.concatenate([row["pixels"].ravel() for row in rows])
    return arrays | {"pixels": pixels, "offset": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)}


def one(config: Config, hand: Hand, mano: ManoModel, shard_name: str, row: int) -> tuple[Record, dict[str, Any] | None]:
    """The record of a hand and its arrays, or None and the reason why it cannot be used."""
    from PIL import Image, UnidentifiedImageError

    record = Record(hand.name, hand.group, f"asset:data/{hand.source}", "", columns={"right": int(hand.right)})
    try:
        content = hand.image if isinstance(hand.image, bytes) else hand.image.read_bytes()
        record.sha256 = hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            picture = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        record.reason = "the image is missing"
    except (UnidentifiedImageError, OSError, ValueError) as error:
        record.reason = f"the image cannot be decoded ({error})"
    record.reason = record.reason or unusable(hand, picture.shape[1], picture.shape[0])
    if record.reason:
        record.status = "skipped"
        return record, None
    labels, notes = checked(hand, *doubt(config, mano))
    known = {"2d": (labels.keypoints_2d[:, 2] > 0).any(), "3d": (labels.keypoints_3d[:, 3] > 0).all()}
    record.columns |= {"shard": shard_name, "row": row, "pose": int(labels.has_pose), "notes": "; ".join(notes)}
    record.columns |= {name: int(there) for name, there in known.items()}
    record.perceptual_hash = splits.perceptual_hash(preview(picture, hand))
    return record, window(picture, hand, labels, config.data.keep_side_px)


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


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Whole subjects or sequences: the named ones, else FreiHAND's evaluation set, else a drawn share.

    Stop: most hands cannot be used, none can be scored, or data.val_groups names a group that does not exist.
    """
    refuse_mostly_unusable(records)
    if not any(int(record.columns.get(truth(config), 0)) for record in records):
        cause = f"no hand has keypoints in {truth(config)}, so there is nothing to score against"
        raise Stop(cause, "add them to the labels, or set data.truth")
    groups = sorted({record.group for record in records if record.status == "ok"})
    unknown = sorted(set(config.data.val_groups) - set(groups))
    if unknown:
        cause = f"data.val_groups names {unknown[0]!r}; there are: {', '.join(groups[:20])}"
        raise Stop(cause, "correct data.val_groups")
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
        first = f"the first, {skipped[0].sample_id}: {skipped[0].reason}"
        raise Stop(f"{len(skipped)} of {len(records)} hands cannot be used; {first}", "correct the data")


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    """Counts of hands, of groups, of what was noted and of why hands were skipped."""
    usable = [record for record in records if record.status == "ok"]
    notes = Counter(note for record in usable for note in str(record.columns.get("notes", "")).split("; ") if note)
    reasons = Counter(record.reason.split(":")[0].split("(")[0] for record in records if record.status == "skipped")
    return {
        "hands": len(usable),
        "left hands": sum(int(record.columns["right"]) == 0 for record in usable),
        "with pose and shape": sum(int(record.columns["pose"]) for record in usable),
        "groups": len({record.group for record in usable}),
        **{f"note: {note}": count for note, count in notes.items()},
        **{f"skipped: {reason}": count for reason, count in reasons.items()},
    }
