"""Somebody's split of the images (data.split): what it holds out is held out, and nothing that looks like that is
trained on.

    {"train": {"ID_1": ["/anywhere/ID_1/a.png", …], …}, "val": {…}, "test": {…}}      or plain lists of paths

Paths are compared from their ends, because the data has moved since. Such splits are often drawn image by image, so
windows of one recording lie on both sides. These leaks are counted, and what leaks is not trained on: images whose
recording is held out too, or, where names tell no recordings, the data.gap_images neighbours of a held-out image.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.core.records import Record, Split
from lib.core.words import counted
from lib.recipes.vavae_microdoppler.config import Config, DataConfig
from lib.recipes.vavae_microdoppler.recordings import ALONE_IN_GIVEN, BY, NOBODY

TRAINED, HELD = "train", "held out"
SIDES = {"train": TRAINED, "val": HELD, "test": HELD}
FEWEST_SHARED = 2  # components of a path: the file and its user's folder
LEAK = "data.split trains on it, but holds out other images of its recording"
NEAR = "data.split trains on it, but holds out a neighbour in time, which may overlap"
UNNAMED = "data.split does not name it"

Sides = dict[str, str]  # file in the data's folder -> TRAINED or HELD


def of_files(data: DataConfig, asset_dirs: dict[str, Path], names: list[str]) -> Sides:
    """Of the files that data.split names; {} without one."""
    if not data.split:
        return {}
    return match(read(asset_dirs["split"] / Path(data.split).name), names)[0]


def read(file: Path) -> dict[str, str]:
    """Path as it stands there -> side. Stop: the file is no split."""
    how = 'it holds {"train": paths, "val": paths}, each a list, or one list per user'
    try:
        content = json.loads(checked(file).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Stop(f"{file} is no split: it is not JSON ({error})", how) from error
    found: dict[str, str] = {}
    twice: set[str] = set()
    for word, side in SIDES.items():
        listed: Any = content.get(word, []) if isinstance(content, dict) else None
        lists = listed.values() if isinstance(listed, dict) else [listed]
        if not all(isinstance(paths, list) and all(isinstance(path, str) for path in paths) for paths in lists):
            raise Stop(f"{file} is no split: {word!r} is no list of paths, nor one per user", how)
        for path in (path for paths in lists for path in paths):
            twice |= {path} if found.setdefault(path, side) != side else set()
    if set(found.values()) != {TRAINED, HELD}:
        raise Stop(f"{file} is no split: it names no image to train on, or none to hold out", how)
    if twice:
        raise Stop(f"{file} has {counted(len(twice), 'image')} on both sides, e.g. {min(twice)}", "mend the list")
    return found


def match(listed: dict[str, str], names: list[str]) -> tuple[Sides, list[str]]:
    """(sides of the files `names`, paths of the list that no file has). Stop: paths of both sides mean one file."""
    by_last = defaultdict(list)
    for name in names:
        by_last[name.rpartition("/")[2]].append(name)
    found: Sides = {}
    absent = []
    for path, side in listed.items():
        parts = path.replace("\\", "/").split("/")
        alike = sorted((shared_end(parts, name.split("/")), name) for name in by_last[parts[-1]])
        clear = alike and alike[-1][0] >= FEWEST_SHARED and (len(alike) == 1 or alike[-1][0] > alike[-2][0])
        if clear:
            name = alike[-1][1]
            if found.setdefault(name, side) != side:
                cause = (
                    f"data.split has two paths that end as {name} does, one to train on and one held out, e.g. {path}"
                )
                raise Stop(cause, "mend the list: each file here is on one side")
        else:
            absent.append(path)
    return found, absent


def shared_end(one: list[str], other: list[str]) -> int:
    """How many last components two paths share."""
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def wish(config: Config, usable: list[Record], select_of: Callable[[Config, list[Record]], list[str]]) -> Split:
    """What data.split holds out is held out; of the rest, whole recordings choose the checkpoint as usual."""
    held, dropped = held_out(config.data, usable)
    users = defaultdict(list)
    for record in usable:
        left = record.group not in held and record.sample_id not in dropped
        if left and record.columns["recognised"] != ALONE_IN_GIVEN:
            users[record.columns["user"]].append(record)
    select = [group for mine in users.values() for group in select_of(config, mine)]
    return Split(BY, tuple(held), dropped, select_groups=tuple(select) or NOBODY)


def held_out(data: DataConfig, usable: list[Record]) -> tuple[list[str], dict[str, str]]:
    """(recordings that are held out, {sample: why it is on neither side}). Stop: one of the sides is empty."""
    held = {r.group for r in usable if r.columns["given"] == HELD}
    dropped = {r.sample_id: UNNAMED for r in usable if not r.columns["given"]}
    dropped |= {r.sample_id: LEAK for r in usable if r.group in held and r.columns["given"] == TRAINED}
    dropped |= dict.fromkeys(neighbours(usable, data.gap_images), NEAR)
    kept = [r for r in usable if r.group not in held and r.sample_id not in dropped]
    if not held or not kept:
        said = in_words((r.group, r.columns["given"]) for r in usable)
        cause = "data.split holds out no image that can be used" if not held else (
            f"data.split leaves nothing to train on: {said}, and no recording is without a held-out image"
        )  # fmt: skip
        raise Stop(cause, "leave data.split out: whole recordings are held out then")
    return sorted(held), dropped


def neighbours(usable: list[Record], gap: int) -> list[str]:
    """Samples to train on within `gap` places of a held-out one of the same user, where recordings are not known."""
    users = defaultdict(list)
    for record in usable:
        if record.columns["recognised"] == ALONE_IN_GIVEN:
            users[record.columns["user"]].append(record)
    found = []
    for mine in users.values():
        held = [place for place, record in enumerate(mine) if record.columns["given"] == HELD]
        near = {place for at in held for place in range(at - gap, at + gap + 1)} - {*held}
        found += [record.sample_id for place, record in enumerate(mine) if place in near and record.columns["given"]]
    return found


def in_words(rows: Iterable[tuple[str, str]]) -> str:
    """'8 of 12 recordings lie on both sides, with 40 images to train on'; rows: (recording, side) of an image."""
    groups = defaultdict(list)
    for group, side in rows:
        groups[group].append(side)
    both = [sides for sides in groups.values() if {TRAINED, HELD} <= {*sides}]
    images = counted(sum(sides.count(TRAINED) for sides in both), "image")
    return f"{len(both)} of {counted(len(groups), 'recording')} lie on both sides, with {images} to train on"
