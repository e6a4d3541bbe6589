"""What step 2's --import takes: the guide's `dataset_split.json`, whose paths belong to the machine that made it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.core.run import write_json
from lib.core.words import counted
from lib.recipes.vavae_microdoppler import given_split
from lib.recipes.vavae_microdoppler.config import Config, DataConfig
from lib.recipes.vavae_microdoppler.layout import find_files
from lib.recipes.vavae_microdoppler.recordings import ALONE_IN_GIVEN, read_recordings, recordings_of
from lib.recipes.vavae_microdoppler.walk import File

WRITTEN = "split.json"


def adopt(config: Config, given: Foreign) -> tuple[str, str]:
    """Writes the split with the paths that the images have here, counts leaks, and says the setting that uses it.

    Stop: no split, or one of other images.
    """
    given.refuse_other_than((".json",), "a split of its images, dataset_split.json")
    file, out = given.file, given.out
    listed = given_split.read(file)
    root = given.asset_dirs()["data"]
    data = replace(config.data, split=str(file))  # recordings are told apart as they will be then
    files = find_files(data, root).users
    sides, absent = given_split.match(listed, [one.name for mine in files.values() for one in mine])
    if not sides:
        cause = f"none of the {counted(len(listed), 'image')} of {file.name} is in {root}, e.g. {min(listed)}"
        raise Stop(cause, "set data.root to the folder with the images of this split")
    named = {
        side: sorted(name for name, given in sides.items() if given == side) for side in given_split.SIDES.values()
    }
    write_json(out / WRITTEN, {"train": named[given_split.TRAINED], "val": named[given_split.HELD]})
    count = Counter(sides.values())
    both = f"{counted(count[given_split.TRAINED], 'image')} to train on, {count[given_split.HELD]} held out"
    unmatched = f"; {counted(len(absent), 'path')} of it are not here, e.g. {absent[0]}" if absent else ""
    return f"{both}{unmatched}; {leaks(data, root, files, sides)}", f"data.split={out / WRITTEN}"


def leaks(data: DataConfig, root: Path, users: dict[str, list[File]], sides: given_split.Sides) -> str:
    """What of the split is on both sides, and what becomes of it."""
    listed, rows, alone = read_recordings(data, root), [], 0
    for user, files in users.items():
        for file, recording in zip(files, recordings_of(data, user, files, listed, 0.0), strict=True):
            rows += [(recording.group, sides[file.name])] if file.name in sides else []
            alone += recording.by == ALONE_IN_GIVEN
    said = f"leaks: {given_split.in_words(rows)}, which are left out here"
    if not alone:
        return said
    gap = f"the {data.gap_images} neighbours of a held-out one (data.gap_images) are not trained on"
    return f"{said}; the names of {counted(alone, 'image')} tell no recording, so {gap}"
