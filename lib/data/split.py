"""The group-disjoint split and its proof, and manifest.csv, the only truth for membership.

A group (scene, subject, session) is on one side. The proof counts what both sides share: groups, files with the same
content, near-duplicate pictures. A near-duplicate of a held-out picture leaves the training side and is named, so all
three counts are zero or the run stops.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.errors import FAILED, Stop
from lib.core.records import Manifest, Record, Split
from lib.core.run import atomic
from lib.core.words import counted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

COLUMNS = ("sample_id", "group", "split", "source", "sha256", "status", "reason")
NEAR_DUPLICATE_BITS = 6  # of 256; two views half a metre apart differ in 40 and more


def perceptual_hash(grey: "ArrayLike") -> str:
    """A 256-bit difference hash of a grey picture, as 64 hexadecimal digits.

    grey: (h, w), 0 to 255, at least 1 px each way. It is averaged into 16 rows of 17 cells; each bit says whether a
    cell is brighter than its left neighbour. The same picture at another size has nearly the same hash.
    """
    import numpy as np
    from PIL import Image

    small = Image.fromarray(np.asarray(grey, dtype=np.uint8)).resize((17, 16), Image.Resampling.BOX)
    cells = np.asarray(small, dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def by_share(records: list[Record], by: str, val_share: float, seed: int) -> Split:
    """Hold out whole groups, in a seeded order, until they make up `val_share` (0 to 1) of the usable records.

    At least one group is held out and one is left. by: what a group is, in one word ("scene"). Stop: fewer than two
    groups.
    """
    from lib.core.order import permutation

    groups = sorted({record.group for record in records if record.status == "ok"})
    if len(groups) < 2:
        there = f"the only {by} is {groups[0]}" if groups else f"there is no {by} with a usable record"
        raise Stop(f"{there}: nothing can be held out", f"bring at least two ({by})")
    sizes = {group: sum(r.group == group and r.status == "ok" for r in records) for group in groups}
    wanted, count = val_share * sum(sizes.values()), 0
    held: list[str] = []
    for place in permutation(seed, 0, len(groups)):
        if held and (count >= wanted or len(held) == len(groups) - 1):
            break
        held.append(groups[place])
        count += sizes[groups[place]]
    return Split(by, tuple(sorted(held)))


def apply(records: list[Record], wish: Split, seed: int) -> dict[str, Any]:
    """Sets every record's side and returns the proof (split.json).

    Near-duplicates of held-out pictures leave the training side. Stop: a side is empty, or the sides are not disjoint.
    """
    for record in records:
        if record.sample_id in wish.dropped:
            record.status, record.reason = "skipped", wish.dropped[record.sample_id]
        record.split = "val" if record.group in wish.val_groups else "train"
    removed = drop_near_duplicates(records)
    overlap = {
        "groups": shared(records, "group"),
        "files": shared(records, "sha256"),
        "near_duplicates": len(near_duplicates(records)),
    }
    groups = {side: sorted({r.group for r in usable(records, side)}) for side in ("train", "val")}
    for side, names in groups.items():
        if not names:
            raise Stop(
                f"the {side} side of the split is empty (by {wish.by})",
                "name other groups to hold out, or bring more data",
            )
    if any(overlap.values()):
        raise Stop(f"training and validation share {in_words(overlap)}", "remove the copies from the data", FAILED)
    return {
        "by": wish.by,
        "seed": seed,
        "groups": groups,
        "overlap": overlap,
        "dropped": len(wish.dropped),
        "near_duplicates_removed": removed,
    }


def in_words(overlap: dict[str, int]) -> str:
    """'1 group, 0 files and 2 near-duplicates': the overlap of split.json for people."""
    groups, files = counted(overlap["groups"], "group"), counted(overlap["files"], "file")
    return f"{groups}, {files} and {counted(overlap['near_duplicates'], 'near-duplicate')}"


def usable(records: Iterable[Record], side: str) -> list[Record]:
    return [record for record in records if record.status == "ok" and record.split == side]


def shared(records: list[Record], name: str) -> int:
    """How many values of a field are on both sides; empty ones do not count."""
    train, val = ({getattr(r, name) for r in usable(records, side)} for side in ("train", "val"))
    return len((train & val) - {""})


def near_duplicates(records: list[Record]) -> list[tuple[Record, Record]]:
    """Pairs (train, val) of usable records whose perceptual hashes differ in at most NEAR_DUPLICATE_BITS bits."""
    import numpy as np

    train, val = ([r for r in usable(records, side) if r.perceptual_hash] for side in ("train", "val"))
    if not train or not val:
        return []
    left, right = (  # each (records, 4): 256 bits as four words of 64
        np.frombuffer(bytes.fromhex("".join(r.perceptual_hash for r in side)), np.uint64).reshape(len(side), -1)
        for side in (train, val)
    )
    found = []
    for row, record in zip(left, train, strict=True):
        distances = np.bitwise_count(row ^ right).sum(axis=1)
        found += [(record, val[int(i)]) for i in np.flatnonzero(distances <= NEAR_DUPLICATE_BITS)]
    return found


def drop_near_duplicates(records: list[Record]) -> int:
    """Takes near-duplicates of held-out pictures out of the training side; returns how many."""
    pairs = near_duplicates(records)
    for record, twin in pairs:
        record.status, record.reason = "skipped", f"near-duplicate of the held-out {twin.sample_id}"
    return len({id(record) for record, _ in pairs})


def write_manifest(path: Path, records: list[Record]) -> None:
    """manifest.csv: COLUMNS, perceptual_hash, then the recipe's own columns by name; a record without one is empty."""
    extra = sorted({name for record in records for name in record.columns})
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "perceptual_hash", *extra])
        for record in records:
            stated = [getattr(record, name) for name in (*COLUMNS, "perceptual_hash")]
            writer.writerow([*stated, *(record.columns.get(name, "") for name in extra)])


def read_manifest(path: Path, arrays: Path) -> Manifest:
    """What `write_manifest` wrote; the values of the recipe's own columns come back as text."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = (*COLUMNS, "perceptual_hash")
    records = [
        Record(**{name: row[name] for name in known}, columns={k: v for k, v in row.items() if k not in known})
        for row in rows
    ]
    return Manifest(records, arrays)
