"""The group-disjoint split and its proof, and manifest.csv, the only truth for membership.

A group (scene, subject, session) is on one side: train, select (chooses the checkpoint) or test (is scored in step 5
and chooses nothing). The proof counts what two sides share: groups, files with the same content, near-duplicate
pictures. A near-duplicate of a held-out picture leaves the other side and is named, so all three counts are zero or the
run stops.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.errors import FAILED, Stop
from lib.core.records import Manifest, Record, Split
from lib.core.tables import TEXT, read_table, write_table
from lib.core.words import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

COLUMNS = ("sample_id", "group", "split", "source", "sha256", "status", "reason", "perceptual_hash")
MANIFEST = dict.fromkeys(COLUMNS, TEXT)  # dtypes; the recipe's own columns are text as well
SIDES = ("train", "select", "test")
PAIRS = (("train", "test"), ("select", "test"), ("train", "select"))  # the first loses what it shares with the second
FEWEST_TRAINING_GROUPS = 2  # where fewer would be left to train on, no group chooses the checkpoint
NEAR_DUPLICATE_BITS = 6  # of 256; two views half a metre apart differ in 40 and more
PIECES = 8  # of a perceptual hash, 32 bits each


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
    sizes = Counter(record.group for record in records if record.status == "ok")
    wanted, count = val_share * sizes.total(), 0
    held: list[str] = []
    for place in permutation(seed, 0, len(groups)):
        if held and (count >= wanted or len(held) == len(groups) - 1):
            break
        held.append(groups[place])
        count += sizes[groups[place]]
    return Split(by, tuple(sorted(held)))


def apply(records: list[Record], wish: Split, seed: int, select_share: float = 0.0) -> dict[str, Any]:
    """Sets every record's side and returns the proof (split.json).

    The test side is what the recipe holds out. Groups that choose the checkpoint are the recipe's, else `select_share`
    of the training groups; none where fewer than FEWEST_TRAINING_GROUPS would be left to train on. Near-duplicates of
    held-out pictures leave the training side, those of test pictures the select side too. Stop: the training or the
    test side is empty, an id or an array file is there twice, or the sides are not disjoint.
    """
    held = set(wish.val_groups)
    for record in records:
        if record.sample_id in wish.dropped:
            record.status, record.reason = "skipped", wish.dropped[record.sample_id]
        record.split = "test" if record.group in held else "train"
    refuse_double(records)
    selected = set(wish.select_groups or some_of_training(records, select_share, seed))
    for record in records:
        if record.group in selected and record.split == "train":
            record.split = "select"
    removed = drop_near_duplicates(records)
    groups = {side: sorted({r.group for r in usable(records, side)}) for side in SIDES}
    for side in ("train", "test"):
        if not groups[side]:
            cause = f"the {side} side of the split is empty (by {wish.by})"
            raise Stop(cause, "name other groups to hold out, or bring more data")
    overlap = {
        "groups": sum(shared(records, "group", *pair) for pair in PAIRS),
        "files": sum(shared(records, "sha256", *pair) for pair in PAIRS),
        "near_duplicates": sum(len(near_duplicates(records, *pair)) for pair in PAIRS),
    }
    if any(overlap.values()):
        cause = f"the sides of the split share {in_words(overlap)}{first_shared(records)}"
        raise Stop(cause, "remove the copies from the data, or give both the same group", FAILED)
    return {
        "by": wish.by,
        "seed": seed,
        "groups": groups,
        "overlap": overlap,
        "dropped": len(wish.dropped),
        "near_duplicates_removed": removed,
    }


def some_of_training(records: list[Record], share: float, seed: int) -> tuple[str, ...]:
    """Groups of the training side that choose the checkpoint: `share` of them in a seeded order, at least one."""
    from lib.core.order import permutation

    groups = sorted({record.group for record in usable(records, "train")})
    count = max(1, round(share * len(groups)))
    if not share or len(groups) - count < FEWEST_TRAINING_GROUPS:
        return ()
    return tuple(groups[place] for place in permutation(seed, 1, len(groups))[:count])


def refuse_double(records: list[Record]) -> None:
    """Two samples of one id would share one array on disk: the second would never be written."""
    seen: dict[str, Record] = {}
    for record in (record for record in records if record.status == "ok"):
        folded = record.sample_id.casefold()  # file systems of Mac and Windows do not tell W0 from w0
        if folded in seen:
            cause = f"the sample {record.sample_id} is there twice: {seen[folded].source} and {record.source}"
            raise Stop(cause, "rename one of the two files")
        seen[folded] = record


def in_words(overlap: dict[str, int]) -> str:
    """'1 group, 0 files and 2 near-duplicates': the overlap of split.json for people."""
    groups, files = counted(overlap["groups"], "group"), counted(overlap["files"], "file")
    return f"{groups}, {files} and {counted(overlap['near_duplicates'], 'near-duplicate')}"


def usable(records: Iterable[Record], side: str) -> list[Record]:
    return [record for record in records if record.status == "ok" and record.split == side]


def shared(records: list[Record], name: str, side: str, other: str) -> int:
    """How many values of a field are on both sides; empty ones do not count."""
    one, another = ({getattr(r, name) for r in usable(records, word)} for word in (side, other))
    return len((one & another) - {""})


def first_shared(records: list[Record]) -> str:
    """'; the first file: A of GROUP and B of GROUP', or "" where no file is shared."""
    for side, other in PAIRS:
        seen = {record.sha256: record for record in usable(records, side) if record.sha256}
        for record in usable(records, other):
            if twin := seen.get(record.sha256):
                return f"; the first file: {twin.source} of {twin.group} and {record.source} of {record.group}"
    return ""


def near_duplicates(records: list[Record], side: str, other: str) -> list[tuple[Record, Record]]:
    """Pairs (side, other) of usable records whose perceptual hashes differ in at most NEAR_DUPLICATE_BITS bits."""
    import numpy as np

    mine, held = ([r for r in usable(records, word) if r.perceptual_hash] for word in (side, other))
    if not mine or not held:
        return []
    left, right = (  # each (records, PIECES) of 32 bits
        np.frombuffer(bytes.fromhex("".join(r.perceptual_hash for r in rows)), np.uint32).reshape(len(rows), PIECES)
        for rows in (mine, held)
    )
    return [(mine[i], held[j]) for i, j in sorted(close_pairs(left, right))]


def close_pairs(left: "np.ndarray", right: "np.ndarray") -> set[tuple[int, int]]:
    """(row of left, row of right) of hashes (n, PIECES) and (m, PIECES) that differ in NEAR_DUPLICATE_BITS at most.

    So few bits lie in at most so many pieces, which leaves two of the eight equal: only rows that share two pieces are
    compared, and the time grows with n + m.
    """
    import numpy as np

    found: set[tuple[int, int]] = set()
    for one, two in itertools.combinations(range(PIECES), PIECES - NEAR_DUPLICATE_BITS):
        keys, others = (rows[:, one].astype(np.uint64) << np.uint64(32) | rows[:, two] for rows in (left, right))
        order = np.argsort(others, kind="stable")
        first, last = (np.searchsorted(others[order], keys, side) for side in ("left", "right"))
        for i in np.flatnonzero(last > first):
            candidates = order[first[i] : last[i]]
            bits = np.bitwise_count(left[i] ^ right[candidates]).sum(axis=1)
            found |= {(int(i), int(j)) for j in candidates[bits <= NEAR_DUPLICATE_BITS]}
    return found


def drop_near_duplicates(records: list[Record]) -> int:
    """Takes near-duplicates of held-out pictures out of the sides that shape the network; returns how many."""
    removed: set[int] = set()
    for side, other in PAIRS:
        for record, twin in near_duplicates(records, side, other):
            record.status, record.reason = "skipped", f"near-duplicate of the held-out {twin.sample_id}"
            removed.add(id(record))
    return len(removed)


def commonest_reason(records: Iterable[Record]) -> str:
    """'; 12 of 14 records were skipped, most often because …', or "" where none was."""
    records = list(records)
    reasons = Counter(record.reason for record in records if record.status == "skipped")
    if not reasons:
        return ""
    reason, count = reasons.most_common(1)[0]
    return f"; {reasons.total()} of {counted(len(records), 'record')} were skipped, {count} of them: {reason}"


def write_manifest(path: Path, records: list[Record]) -> None:
    """manifest.csv: COLUMNS, then the recipe's own columns by name; a record without one is empty."""
    import pandas as pd

    known = pd.DataFrame([[getattr(record, name) for name in COLUMNS] for record in records], columns=list(COLUMNS))
    own = pd.DataFrame([record.columns for record in records], known.index, dtype=object)
    write_table(path, known.join(own[sorted(own)].fillna("")))


def read_manifest(path: Path, arrays: Path) -> Manifest:
    """What `write_manifest` wrote; the values of the recipe's own columns come back as text."""
    table = read_table(path, MANIFEST)
    own = table.drop(columns=list(COLUMNS)).to_dict("records")
    rows = zip(table[list(COLUMNS)].itertuples(index=False), own, strict=True)
    return Manifest([Record(**row._asdict(), columns=columns) for row, columns in rows], arrays)
