"""Step 3: labelled hands -> checked records, and shards of pixels (windows.py) from which `samples` makes crops.

Some hands are drawn with their labels (looks.py).
"""

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import FAILED, Stop
from lib.core.records import Manifest, Record, Split
from lib.core.run import atomic
from lib.data import cores, pictures
from lib.data import split as splits
from lib.recipes.hamer import doubts, looks, mano_file, windows
from lib.recipes.hamer.checks import checked, contradictory, doubt, facing, reach, unusable
from lib.recipes.hamer.config import Config
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.diagnosis import Verdict
from lib.recipes.hamer.formats import hands
from lib.recipes.hamer.hand import stand_in_hand
from lib.recipes.hamer.labelled import Hand
from lib.recipes.hamer.mano_file import ManoModel

SHARD = 256  # hands: about 40 MB for FreiHAND
ARRAYS = ("keypoints_2d", "keypoints_3d", "hand_pose", "betas")


def mano_of(config: Config, asset_dirs: dict[str, Path]) -> ManoModel:
    """The licensed hand, or the stand-in. Stop: the licensed file is absent or damaged."""
    if config.model.mano == "stand_in":
        return stand_in_hand()
    return mano_file.read(mano_file.find(asset_dirs["mano"]))


def prepare(config: Config, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """Records in the data's order; a finished shard is read back instead of being made again."""
    mano = mano_of(config, asset_dirs)
    if mano.version:
        print(f"  MANO: {mano.version}", flush=True)
    named = Path(config.data.root).suffix in (".npz", ".tar")
    root = asset_dirs["data"] / Path(config.data.root).name if named else asset_dirs["data"]
    numbered = enumerate(batches(hands(config.data, root, mano)))
    for records in cores.in_order(config, partial(shard, mano=mano, out=out), numbered):
        yield from records


def batches(found: Iterable[Hand]) -> Iterator[list[Hand]]:
    """The hands of each shard."""
    left = iter(found)
    while waiting := list(itertools.islice(left, SHARD)):
        yield waiting


def shard(config: Config, numbered: tuple[int, list[Hand]], mano: ManoModel, out: Path) -> list[Record]:
    from safetensors import safe_open

    number, found = numbered
    path = out / f"shard-{number:05d}.safetensors"
    if not path.exists():
        write_shard(config, found, mano, path)
    with safe_open(path, framework="numpy") as kept:
        stored = [Record(**fields) for fields in json.loads(kept.metadata()["records"])]
    if [record.sample_id for record in stored] != [hand.name for hand in found]:
        raise Stop(f"{path} was made from other data", f"delete {path.parent} and prepare again", FAILED)
    return stored


def write_shard(config: Config, found: list[Hand], mano: ManoModel, path: Path) -> None:
    from safetensors.numpy import save_file

    records: list[Record] = []
    rows: list[dict[str, Any]] = []
    kept: list[Hand] = []
    trusted, note = doubt(config, mano)
    for hand, verdict in zip(found, doubts.verdicts(config.data, found, mano, trusted), strict=True):
        record = record_of(hand, verdict)
        records.append(record)
        picture = picture_of(hand, record)
        if picture is not None and not refused(config, hand, verdict, record, picture):
            labels, notes = checked(hand, trusted, note, None if config.data.trust_labels else verdict)
            record.columns |= columns(labels, notes) | {"shard": path.name, "row": len(rows)}
            record.perceptual_hash = splits.perceptual_hash(windows.preview(picture, hand))
            rows.append(windows.window(picture, hand, labels, config.data.keep_side_px))
            kept.append(hand)
    looks.draw(rows, kept, path, mano)
    metadata = {"records": json.dumps([dataclasses.asdict(record) for record in records])}
    with atomic(path) as temporary:
        save_file(windows.packed(rows), temporary, metadata=metadata)


def record_of(hand: Hand, verdict: Verdict) -> Record:
    """The record of a hand with what the tests of its labels found; NaN becomes an empty cell."""
    measured = {"fit_3d_onto_2d": verdict.fit, "anatomy": verdict.anatomy, "pose_onto_3d_mm": 1000 * verdict.pose_m}
    found: dict[str, Any] = {name: "" if value != value else round(value, 4) for name, value in measured.items()}
    found |= {"right": int(hand.right), "likely": verdict.likely, "facing": facing(hand)}
    return Record(hand.name, hand.group, f"asset:data/{hand.source}", "", reason=hand.fault, columns=found)


def picture_of(hand: Hand, record: Record) -> np.ndarray | None:
    """The upright picture (h, w, 3) uint8; None with the record's reason where it cannot be used."""
    try:
        content = hand.image if isinstance(hand.image, bytes) else hand.image.read_bytes()
        record.sha256 = hashlib.sha256(content).hexdigest() if content else ""
        picture = pictures.read(content, upright=True)
        pictures.refuse_one_colour(picture)
    except pictures.Unreadable as error:
        record.reason = record.reason or f"the image cannot be used: {error}"
    except (OSError, ValueError) as error:  # a name with a NUL in it is not an OSError
        record.reason = record.reason or f"the image cannot be used: {pictures.reason(error)}"
    if record.reason:
        record.status = "skipped"
        return None
    return np.asarray(picture)


def refused(config: Config, hand: Hand, verdict: Verdict, record: Record, picture: np.ndarray) -> bool:
    """Is the hand of no use? The record then says why."""
    height_px, width_px = picture.shape[:2]
    record.columns |= reach(hand, width_px, height_px, config.data.box_factor)
    record.reason = unusable(hand, width_px, height_px)
    if not config.data.trust_labels:
        record.reason = record.reason or contradictory(verdict)
    record.status = "skipped" if record.reason else "ok"
    return bool(record.reason)


def columns(labels: Labels, notes: Sequence[str]) -> dict[str, Any]:
    """What a record says of the labels that are used."""
    known: dict[str, Any] = {"2d": (labels.keypoints_2d[:, 2] > 0).any(), "3d": (labels.keypoints_3d[:, 3] > 0).all()}
    known |= {"pose": labels.has_pose, "mesh": labels.has_pose and labels.has_betas}
    known["labelled"] = known["2d"] or (labels.keypoints_3d[:, 3] > 0).any() or labels.has_pose or labels.has_betas
    return {name: int(there) for name, there in known.items()} | {"notes": "; ".join(notes)}


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Whole subjects or sequences: the named ones, else FreiHAND's evaluation set, else a drawn share.

    Boxes alone are split as well: they can be drafted and looked at before anyone labels them. Stop: labels are in
    another convention, most hands cannot be used, none of the labelled ones can be scored, or data.val_groups names a
    group that does not exist.
    """
    if not config.data.trust_labels:
        doubts.refuse_wrong_conventions(records)
        doubts.refuse_other_size(records)
    refuse_mostly_unusable(records)
    labelled = [record for record in records if int(record.columns.get("labelled", 0))]
    if labelled and not any(int(record.columns.get(truth(config), 0)) for record in records):
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
    if config.data.format == "folder" and len(groups) == 1:
        cause = f"every hand is of one group ({groups[0]}): no person can be held out"
        raise Stop(cause, 'say whose hand it is ("group" in the list, a field of label.html), or sort by folders')
    return splits.by_share(labelled or records, "group", config.data.val_share, config.train.seed)


def taught(manifest: Manifest) -> list[Record]:
    """The hands of the training side with labels; a box alone teaches nothing."""
    return [record for record in manifest.side("train") if int(record.columns["labelled"])]


def truth(config: Config) -> str:
    """The column of the manifest that says whether a hand can be scored."""
    return "3d" if config.scores_3d else "2d"


def refuse_mostly_unusable(records: list[Record]) -> None:
    """One odd hand is skipped; when most fail, the data is read wrongly."""
    skipped = [record for record in records if record.status == "skipped"]
    if len(skipped) > len(records) / 2:
        reason, count = Counter(kind_of(record.reason) for record in skipped).most_common(1)[0]
        first = next(record for record in skipped if kind_of(record.reason) == reason)
        said = f"{count} of them like {first.sample_id}: {first.reason}"
        raise Stop(f"{len(skipped)} of {len(records)} hands cannot be used; {said}", "correct the data (manifest.csv)")


def kind_of(reason: str) -> str:
    """A reason without what differs from hand to hand."""
    return "".join(letter for letter in reason.split("(")[0] if not letter.isdigit())


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    """Counts of hands on each side, of groups, of what was noted and of why hands were skipped; how labels agree."""
    usable = [record for record in records if record.status == "ok"]
    notes = Counter(note for record in usable for note in str(record.columns.get("notes", "")).split("; ") if note)
    reasons = Counter(record.reason.split(":")[0].split("(")[0] for record in records if record.status == "skipped")
    return {
        "hands": len(usable),
        "hands by side": dict(Counter(record.split for record in usable if record.split)),
        "boxes without labels": sum(not int(record.columns["labelled"]) for record in usable),
        "left hands": sum(int(record.columns["right"]) == 0 for record in usable),
        "with pose and shape": sum(int(record.columns["mesh"]) for record in usable),
        "groups": len({record.group for record in usable}),
        **doubts.summary(records),
        **{f"note: {note}": count for note, count in notes.items()},
        **{f"skipped: {reason}": count for reason, count in reasons.items()},
    }
