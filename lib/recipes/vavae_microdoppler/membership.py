"""Who is trained on and who is held out: whole recordings of every user, and the users that are labels."""

import json
from dataclasses import replace
from pathlib import Path

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.core.records import Record, Split
from lib.core.run import write_json
from lib.data import split as splitting
from lib.data.split import by_share
from lib.recipes.vavae_microdoppler import given_split
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.recordings import BY, GAP, NOBODY, SELECT, TEST
from lib.recipes.vavae_microdoppler.walk import natural

LABELS = "labels.json"
SIDES = ("train", "select", "test")
UNSEEN = 0.8  # share of fast power that no image shows, and of recordings of which that holds


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Whole recordings of every user are held out, in a seeded order, until they make val_share of that user's images,
    and of a user with three or more also some that choose the checkpoint. The labels are given here.

    Stop: nothing can be used, or nothing can be held out.
    """
    usable = [record for record in records if record.status == "ok"]
    if not usable:
        raise Stop("none of the data can be used", "see the reasons in manifest.csv")
    refuse_unseen(config, usable)
    if config.data.split:
        return give_labels(records, given_split.wish(config, usable, select_of), config.train.seed, out)
    test: list[str] = []
    select: list[str] = []
    images: dict[str, list[Record]] = {user: [] for user in users_of(records)}
    for record in usable:
        images[record.columns["user"]].append(record)
    for mine in images.values():
        held, chosen = sides_of(config, mine)
        test += held
        select += chosen
    if not test:
        raise Stop(
            "every user has one recording only, which would be on both sides",
            "bring a second recording of somebody, or tell recordings apart with data.recordings_csv",
        )
    reason = "between the blocks of one user, where windows may overlap"
    gap = {r.sample_id: reason for r in records if r.status == "ok" and is_block(r, GAP)}
    wish = Split(BY, tuple(test), gap, select_groups=tuple(select) or NOBODY)
    return give_labels(records, wish, config.train.seed, out)


def unseen(usable: list[Record]) -> list[str]:
    """Recordings whose fast echoes have the direction that the images hardly show (echoes.unseen)."""
    return sorted({r.group for r in usable if float(r.columns.get("unseen") or 0) > UNSEEN}, key=natural)


def refuse_unseen(config: Config, usable: list[Record]) -> None:
    """Stop: so is nearly every recording, which makes images of noise."""
    away, everything = unseen(usable), {r.group for r in usable}
    if len(away) > UNSEEN * len(everything):
        low, high = config.data.low_m_s, config.data.high_m_s
        cause = (
            f"{len(away)} of {len(everything)} recordings are fast where images of {low:g} to {high:g} m/s are empty"
        )
        how = f"data.low_m_s={-high:g} data.high_m_s={-low:g} where people walk away, or conjugate the echoes"
        raise Stop(f"{cause}: I and Q are exchanged, or people walk away (the first: {away[0]})", f"set {how}")


def users_of(records: list[Record]) -> list[str]:
    return sorted({r.columns["user"] for r in records} - {""}, key=natural)


def is_block(record: Record, block: str) -> bool:
    return record.columns["recognised"] == "time" and record.group.endswith(f"/{block}")


def sides_of(config: Config, mine: list[Record]) -> tuple[list[str], list[str]]:
    """(recordings to test on, recordings that choose the checkpoint) of one user's usable records. One recording at
    least is left for training, so of two only one is held out, and of one nothing.
    """
    if any(r.columns["recognised"] == "time" for r in mine):
        test, select = ({r.group for r in mine if is_block(r, block)} for block in (TEST, SELECT))
        alone = not any(r.group not in test | select and not is_block(r, GAP) for r in mine)
        return ([], []) if alone else (sorted(test), sorted(select))
    if len({r.group for r in mine}) < 2:
        return [], []
    test = set(by_share(mine, BY, config.data.val_share, config.train.seed).val_groups)
    rest = [r for r in mine if r.group not in test]
    return sorted(test), select_of(config, rest)


def select_of(config: Config, rest: list[Record]) -> list[str]:
    """Recordings that choose the checkpoint, of those that are not held out; one at least is left for training."""
    if len({r.group for r in rest}) < 2 or not config.eval.select_share:
        return []
    return list(by_share(rest, BY, config.eval.select_share, config.train.seed).val_groups)


def give_labels(records: list[Record], wish: Split, seed: int, out: Path) -> Split:
    """A user with a usable training image is a label; what others have is dropped with the reason.

    The split is tried on copies, because near-duplicates of held-out images leave the training side there.
    """
    tried = [replace(record, columns=dict(record.columns)) for record in records]
    splitting.apply(tried, wish, seed)
    trained = {r.columns["user"] for r in tried if r.status == "ok" and r.split == "train"}
    labels = {user: number for number, user in enumerate(sorted(trained, key=natural))}
    dropped = dict(wish.dropped)
    for record in records:
        user = record.columns["user"]
        record.columns["label"] = labels.get(user, "") if record.status == "ok" else ""
        if record.status == "ok" and user not in labels:
            dropped.setdefault(record.sample_id, f"no image of {user} is left to train on, so there is no label for it")
    write_labels(labels, out)
    return replace(wish, dropped=dropped)


def write_labels(labels: dict[str, int], out: Path) -> None:
    """labels.json: user -> label, in natural order; the null class of the DiT is not in it."""
    write_json(out / LABELS, labels)


def read_labels(out: Path) -> dict[str, int]:
    """User -> label, from the cache of step 3."""
    found: dict[str, int] = json.loads(checked(out / LABELS).read_text(encoding="utf-8"))
    return found
