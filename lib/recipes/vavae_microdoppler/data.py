"""A person's folders -> records, a split without leaks, and images at the network's size.

    <root>/<user>/**/*.jpg    any image type, any folder names; each folder directly below the root is one user (label)
    <root>/<user>/**/*.npy    raw complex echoes instead (data.kind=iq): cut into windows and turned into spectrograms;
                              or spectrograms as real numbers (data.kind=arrays), kept in 16 bit

Every file that is found is a record, used or skipped with the reason. layout.py says whose it is, recordings.py which
recording it belongs to; a user is a label once an image of theirs is trained on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.core.records import Record, Split
from lib.core.run import atomic, write_json
from lib.data import cores, pictures
from lib.data import split as splitting
from lib.data.split import by_share, perceptual_hash
from lib.recipes.vavae_microdoppler import echoes, given_split, level_arrays, radar, strategy
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.echo_files import Unusable
from lib.recipes.vavae_microdoppler.layout import find_files
from lib.recipes.vavae_microdoppler.recordings import (
    BY,
    GAP,
    NOBODY,
    SELECT,
    TEST,
    Recording,
    read_recordings,
    recordings_of,
)
from lib.recipes.vavae_microdoppler.stored import image_path, sample_name
from lib.recipes.vavae_microdoppler.walk import File, natural, some

if TYPE_CHECKING:
    from PIL import Image

LABELS = "labels.json"
DATA = "asset:data/"  # before a file's name, as a record's source
SIDES = ("train", "select", "test")


def prepare(config: Config, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """Images as PNG of image_px x image_px in out/images, one record each; what is there already is not made again.

    Stop: no folder, no file, an unknown user, a layout that is asked about, a CSV that does not name a file,
    spectrograms that would fold.
    """
    root = asset_dirs["data"]
    found = find_files(config.data, root)
    listed = read_recordings(config.data, root)
    given = given_split.of_files(config.data, asset_dirs, [f.name for files in found.users.values() for f in files])
    for note in found.notes:
        print(f"  {note}", flush=True)
    for file in found.strays:
        yield skipped(file, "", file.problem)
    used: list[tuple[File, Recording]] = []
    for user, files in found.users.items():
        used += zip(files, recordings_of(config.data, user, files, listed, config.eval.select_share), strict=True)
    for records in cores.in_order(config, partial(records_of, out=out), used):
        for record in records:
            record.columns |= {"given": given.get(file_name(record), "")} if config.data.split else {}
            yield record


def records_of(config: Config, used: tuple[File, Recording], out: Path) -> list[Record]:
    """The records of one file: an image, or the windows of an echo. What cannot be used is skipped with the reason."""
    file, recording = used
    if problem := file.problem or recording.problem:
        return [skipped(file, recording.group, problem, recording.by)]
    sha256, found = "", []
    try:
        with open(file.path, "rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        for sample_id, image, seen in READERS[config.data.kind](config, file):
            record = Record(sample_id, recording.group, source_of(file), sha256)
            record.columns = {"user": file.user, "label": "", "recognised": recording.by, **seen}
            found.append(kept(config, record, image, out))
    except (OSError, pictures.Unreadable, Unusable) as error:
        problem = f"it cannot be opened ({error.strerror or error})" if isinstance(error, OSError) else str(error)
        return [replace(skipped(file, recording.group, problem, recording.by), sha256=sha256)]
    return found


def kept(config: Config, record: Record, image: "Image.Image", out: Path) -> Record:
    try:
        pictures.refuse_one_colour(image)
        record.perceptual_hash = keep(image, config.model.image_px, out, record.sample_id)
    except pictures.Unreadable as error:
        record.status, record.reason = "skipped", str(error)
    return record


def skipped(file: File, group: str, reason: str, by: str = "") -> Record:
    columns = {"user": file.user, "label": "", "recognised": by}
    return Record(sample_name(file.name), group, source_of(file), "", "skipped", reason[:200], columns=columns)


def source_of(file: File) -> str:
    return f"{DATA}{file.name}"


def file_name(record: Record) -> str:
    return record.source.removeprefix(DATA)


Images = Iterable[tuple[str, "Image.Image", dict[str, Any]]]  # sample id, RGB or 16-bit levels, what it was


def image_of(config: Config, file: File) -> Images:
    """Unreadable: the file cannot be opened, or is not a picture."""
    header = pictures.header(file.path, upright=True)
    seen = {"mode": header.mode, "width_px": header.width_px, "height_px": header.height_px, "several": header.several}
    return [(sample_name(file.name), pictures.read(file.path, upright=True), seen)]


def windows_of(config: Config, file: File) -> Images:
    """OSError, Unusable: the file cannot be opened, or is not an echo."""
    made, side = echoes.spectrograms(config, file.path), config.model.image_px
    seen = {"mode": "iq", "width_px": side, "height_px": side, "several": False}
    return ((sample_name(file.name, number), image, seen) for number, image in enumerate(made))


def levels_of(config: Config, file: File) -> Images:
    """OSError, Unusable: the file cannot be opened, or is no spectrogram."""
    from PIL import Image

    made = Image.fromarray(level_arrays.levels(config, file.path))
    seen = {"mode": made.mode, "width_px": made.width, "height_px": made.height, "several": False}
    return [(sample_name(file.name), made, seen)]


READERS = {"images": image_of, "iq": windows_of, "arrays": levels_of}


def keep(image: "Image.Image", side_px: int, out: Path, sample_id: str) -> str:
    """Writes the resized picture unless it is there; returns its perceptual hash (lib.data.split.perceptual_hash)."""
    import numpy as np
    from PIL import Image

    target = image_path(out, sample_id)
    if image.size != (side_px, side_px):
        image = image.resize((side_px, side_px), Image.Resampling.LANCZOS)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
    grey = np.asarray(image)
    return perceptual_hash((grey >> 8).astype(np.uint8) if grey.dtype == np.uint16 else np.asarray(image.convert("L")))


# ---------------------------------------------------------------------------------------------- the split


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Whole recordings of every user are held out, in a seeded order, until they make val_share of that user's images,
    and of a user with three or more also some that choose the checkpoint. The labels are given here.

    Stop: nothing can be used, or nothing can be held out.
    """
    usable = [record for record in records if record.status == "ok"]
    if not usable:
        raise Stop("none of the data can be used", "see the reasons in manifest.csv")
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


# ---------------------------------------------------------------------------------------------- what a person sees


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    """Counts that a person wants to see before hours of training: balance, sizes, what was recognised and converted."""
    usable = [r for r in records if r.status == "ok"]
    users = Counter(r.columns["user"] for r in usable)
    sizes = Counter(f"{r.columns['width_px']}x{r.columns['height_px']}" for r in usable)
    sides = {side: sum(r.split == side for r in usable) for side in SIDES}
    tested = {r.columns["user"] for r in usable if r.split == "test"}
    untested = [user for user in users_of(usable) if user not in tested]
    found = {
        "users": f"{len(users)}, each with a label: {some(users_of(usable))}",
        "recordings": recognised(usable),
        "images": {"in all": len(usable), **sides},
        "fewest images of a user": min(users.values(), default=0),
        "most": max(users.values(), default=0),
        "converted to RGB": sum(r.columns["mode"] not in ("RGB", "iq", "I;16") for r in usable),
        "sizes": dict(sizes.most_common(5)),
        "by amount of data (guide)": strategy.by_amount(sides["train"]),
    }
    leaking = [r for r in records if r.reason in (given_split.LEAK, given_split.NEAR)]
    several = sum(bool(r.columns["several"]) for r in usable)
    more = {
        "axes of an image": radar.axes(radar.of_settings(config.data, config.model.image_px))
        if config.data.kind == "iq"
        else "",
        "users with nothing to test on": some(untested) if untested else "",
        "left out, as data.split holds out what is like them": len(leaking),
        "files of several pictures, of which the first is used": several,
    }
    return found | {name: value for name, value in more.items() if value}


def recognised(usable: list[Record]) -> str:
    """By what recordings were told apart, each way with an example: '12 by session, e.g. a/session_1/0.png: …'."""
    said = []
    for by in dict.fromkeys(r.columns["recognised"] for r in usable):
        mine = [r for r in usable if r.columns["recognised"] == by]
        groups, users = {r.group for r in mine}, {r.columns["user"] for r in mine}
        how = (
            f"in time (names tell no recordings) for {some(sorted(users, key=natural))}" if by == "time" else f"by {by}"
        )
        said.append(f"{len(groups)} {how}, e.g. {mine[0].source.removeprefix(DATA)} in {mine[0].group}")
    return "; ".join(said) or "none"
