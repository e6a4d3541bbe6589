"""A person's folders -> records, and images at the network's size.

    <root>/<user>/**/*.jpg    any image type, any folder names; each folder directly below the root is one user (label)
    <root>/<user>/**/*.npy    raw complex echoes instead (data.kind=iq): cut into windows and turned into spectrograms;
                              or spectrograms as real numbers (data.kind=arrays), kept in 16 bit

Every file that is found is a record, used or skipped with the reason. layout.py says whose it is, recordings.py which
recording it belongs to, readers.py what is in it, membership.py on which side it is.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.records import Record
from lib.core.run import atomic
from lib.data import cores, pictures
from lib.data.split import perceptual_hash
from lib.recipes.vavae_microdoppler import given_split, membership, radar, strategy, styles
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.echo_files import Unusable
from lib.recipes.vavae_microdoppler.layout import find_files
from lib.recipes.vavae_microdoppler.membership import SIDES, users_of
from lib.recipes.vavae_microdoppler.readers import READERS, at_size
from lib.recipes.vavae_microdoppler.recordings import Recording, read_recordings, recordings_of
from lib.recipes.vavae_microdoppler.stored import image_path, sample_name
from lib.recipes.vavae_microdoppler.walk import File, natural, some

if TYPE_CHECKING:
    from PIL import Image

DATA = "asset:data/"  # before a file's name, as a record's source


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


def keep(image: "Image.Image", side_px: int, out: Path, sample_id: str) -> str:
    """Writes the resized picture unless it is there; returns its perceptual hash (lib.data.split.perceptual_hash)."""
    import numpy as np

    target, image = image_path(out, sample_id), at_size(image, side_px)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
    grey = np.asarray(image)
    return perceptual_hash((grey >> 8).astype(np.uint8) if grey.dtype == np.uint16 else np.asarray(image.convert("L")))


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
    framed = [file_name(r) for r in usable if int(r.columns.get("framed") or 0)]
    turned = membership.unseen(usable)
    more = {
        "axes of an image": radar.axes(radar.of_settings(config.data, config.model.image_px))
        if config.data.kind == "iq"
        else "",
        "users with nothing to test on": some(untested) if untested else "",
        "left out, as data.split holds out what is like them": len(leaking),
        **styles.told_apart(usable),
        "pictures with a light border, as of plots: cut it off": some(framed) if framed else "",
        "pictures of other proportions": styles.proportions(usable),
        "recordings that are fastest where images show nothing": some(turned) if turned else "",
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
