"""The group-disjoint split and its proof, and manifest.csv, the only truth for membership.

A group (scene, subject, session) is on one side. The proof counts what both sides share: groups, files with the same
content, near-duplicate pictures. A near-duplicate of a held-out picture leaves the training side and is named, so all
three counts are zero or the run stops.
"""
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib.errors import FAILED, Stop
from lib.recipes import Manifest, Record, Split
from lib.run import atomic

COLUMNS = ("sample_id", "group", "split", "source", "sha256", "status", "reason")
NEAR_DUPLICATE_BITS = 6  # of 256; two views half a metre apart differ in 40 and more


def look(grey) -> str:
    """A 256-bit difference hash of a grey picture (h, w): each bit says whether a cell is brighter than its left neighbour."""
    import numpy
    from PIL import Image

    small = Image.fromarray(numpy.asarray(grey, dtype=numpy.uint8)).resize((17, 16), Image.Resampling.BOX)
    cells = numpy.asarray(small, dtype=numpy.int16)
    return numpy.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def by_share(records: list[Record], by: str, val_share: float, seed: int) -> Split:
    """Hold out whole groups, in a seeded order, until they make `val_share` of the usable records (at least one group)."""
    from lib.order import permutation

    groups = sorted({record.group for record in records if record.status == "ok"})
    if len(groups) < 2:
        raise Stop(f"there is only one {by} ({', '.join(groups) or 'none'}): nothing can be held out", f"bring at least two ({by})")
    sizes = {group: sum(r.group == group and r.status == "ok" for r in records) for group in groups}
    wanted, held, count = val_share * sum(sizes.values()), [], 0
    for place in permutation(seed, 0, len(groups)):
        if held and (count >= wanted or len(held) == len(groups) - 1):
            break
        held.append(groups[place])
        count += sizes[groups[place]]
    return Split(by, tuple(sorted(held)))


def apply(records: list[Record], wish: Split, seed: int) -> dict[str, Any]:
    """Sets every record's side and returns the proof (split.json); stops when the sides are not disjoint."""
    for record in records:
        if record.sample_id in wish.dropped:
            record.status, record.reason = "skipped", wish.dropped[record.sample_id]
        record.split = "val" if record.group in wish.val_groups else "train"
    removed = drop_near_duplicates(records)
    overlap = {"groups": shared(records, "group"), "files": shared(records, "sha256"), "near_duplicates": len(near_duplicates(records))}
    groups = {side: sorted({r.group for r in usable(records, side)}) for side in ("train", "val")}
    for side, names in groups.items():
        if not names:
            raise Stop(f"the {side} side of the split is empty (by {wish.by})", "name other groups to hold out, or bring more data")
    if any(overlap.values()):
        raise Stop(f"training and validation share {overlap['groups']} groups and {overlap['files']} files", "remove the copies from the data", FAILED)
    return {"by": wish.by, "seed": seed, "groups": groups, "overlap": overlap, "dropped": len(wish.dropped), "near_duplicates_removed": removed}


def usable(records: Iterable[Record], side: str) -> list[Record]:
    return [record for record in records if record.status == "ok" and record.split == side]


def shared(records: list[Record], name: str) -> int:
    """How many values of a field stand on both sides."""
    train, val = ({getattr(r, name) for r in usable(records, side)} for side in ("train", "val"))
    return len((train & val) - {""})


def near_duplicates(records: list[Record]) -> list[tuple[Record, Record]]:
    """Pairs (train, val) whose looks differ in at most NEAR_DUPLICATE_BITS bits."""
    import numpy

    train, val = ([r for r in usable(records, side) if r.look] for side in ("train", "val"))
    if not train or not val:
        return []
    left, right = (numpy.frombuffer(bytes.fromhex("".join(r.look for r in side)), numpy.uint64).reshape(len(side), -1) for side in (train, val))
    found = []
    for row, record in zip(left, train, strict=True):
        distances = numpy.bitwise_count(row ^ right).sum(axis=1)
        found += [(record, val[int(i)]) for i in numpy.flatnonzero(distances <= NEAR_DUPLICATE_BITS)]
    return found


def drop_near_duplicates(records: list[Record]) -> int:
    pairs = near_duplicates(records)
    for record, twin in pairs:
        record.status, record.reason = "skipped", f"near-duplicate of the held-out {twin.sample_id}"
    return len({id(record) for record, _ in pairs})


def write_manifest(path: Path, records: list[Record]) -> None:
    extra = sorted({name for record in records for name in record.columns})
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "look", *extra])
        for record in records:
            writer.writerow([*(getattr(record, name) for name in COLUMNS), record.look, *(record.columns.get(name, "") for name in extra)])


def read_manifest(path: Path, arrays: Path) -> Manifest:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = (*COLUMNS, "look")
    records = [Record(**{name: row[name] for name in known}, columns={k: v for k, v in row.items() if k not in known}) for row in rows]
    return Manifest(records, arrays)
