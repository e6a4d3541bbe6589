"""Which files were recorded together. Windows of one recording look alike, so it is never on two sides of the split.

The whole path counts, and the largest unit of which a user has at least two is taken, because a unit that is too large
cannot leak: a session before a recording, a recording before a segment, then folders, and where nothing is known blocks
in time (by the names' order) with gaps between them.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lib.core.errors import Stop
from lib.core.names import stated
from lib.core.words import counted
from lib.recipes.vavae_microdoppler.config import DataConfig
from lib.recipes.vavae_microdoppler.walk import File

ALONE = r"(?<![^\W\d_])"  # no letter before
# A number ("rec07", "rec 7", "recording(7)", "rec.7"), or a letter that cannot be the word's own ("rec_b", "recB2").
NUMBER = r"(?:[-_ .(#]{0,2}\d+|(?:[-_ .(#]{1,2}[a-z]|(?-i:[A-Z]))\d*(?![^\W\d_]))"
SESSION_NAME = rf"{ALONE}(?:sessions?|sess|visit|day|会话|场次){NUMBER}"
RECORDING_NAME = rf"{ALONE}(?:recordings?|record|rec|take|trial|录制){NUMBER}"
# These count windows too (walk_001.png, walk_002.png, …), so they name a recording only where it holds several files.
PERHAPS_NAME = (
    rf"{ALONE}(?:walk|run|measurement|meas|experiment|exp|sequence|seq|attempt|repetition|rep|round|lap|video|track"
    rf"|clip|pass|cycle|采集|第){NUMBER}"
)
# S01_R02, S1_T3, s1r2w003: session and recording (or trial).
SHORT = re.compile(r"(?<![^\W_])(s\d+)[-_ ]?([rt]\d+)(?!\d)", re.IGNORECASE)
DATE_NAME = r"(?<!\d)(?:19|20)\d\d(?P<mark>[-_.]?)(?:0[1-9]|1[0-2])(?P=mark)(?:0[1-9]|[12]\d|3[01])(?!\d)"
SEGMENT_NAME = rf"{ALONE}(?:segments?|seg)[-_ ]?\d+"
# What an echo was cut into: walk_part1, walk-2of3, seg001.
PIECE = re.compile(
    rf"[-_ .]*(?:(?:{ALONE}(?:parts?|pieces?|chunks?|slices?|splits?|cuts?|segments?|seg|blocks?|fragments?|windows?"
    rf"|win)|段|部分)[-_ .(#]{{0,2}}\d+\)?(?:[-_ ]?of[-_ ]?\d+)?|[-_ .(]+\d+[-_ ]?of[-_ ]?\d+\)?)$", re.IGNORECASE
)  # fmt: skip
SESSION, RECORDING, PERHAPS, DATE, SEGMENT = (
    re.compile(name, re.IGNORECASE) for name in (SESSION_NAME, RECORDING_NAME, PERHAPS_NAME, DATE_NAME, SEGMENT_NAME)
)
WHOLE_RECORDING = re.compile(rf"{SESSION_NAME}|{RECORDING_NAME}|{PERHAPS_NAME}|{DATE_NAME}", re.IGNORECASE)
TRAIN, SELECT, TEST, GAP = "early", "middle", "late", "gap"  # blocks in time
BY = "recording"  # what a group of the split is
NOBODY = ("nobody's",)  # as the groups that choose: for none, lib.data.split would take all that a user trains with
ALONE_IN_GIVEN = "image"  # by what: data.split says where each image belongs, and names tell no recording


@dataclass(frozen=True)
class Recording:
    """A group of the split, by what it was recognised, and the problem of a file that may not be used."""

    group: str
    by: str
    problem: str = ""


def read_recordings(data: DataConfig, root: Path) -> dict[str, str]:
    """The CSV's file -> recording, by path relative to the root; empty without a CSV. Stop: it cannot be read."""
    if not data.recordings_csv:
        return {}
    path = root / data.recordings_csv
    if not path.is_file():
        raise Stop(f"data.recordings_csv: there is no file {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = list(csv.DictReader(lines, delimiter=";" if lines and "," not in lines[0] else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise Stop(f"{path} cannot be read: {error}", "save it as CSV in UTF-8") from error
    if not rows or not {"file", "recording"} <= rows[0].keys():
        raise Stop(f"{path} needs the columns file and recording")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        name, recording = ((row[key] or "").strip() for key in ("file", "recording"))
        name, recording = name.replace("\\", "/").removeprefix("./"), stated(recording)
        if not recording or found.setdefault(name, recording) != recording:
            raise Stop(f"{path}, line {number}: {name} needs one recording, and only one")
    return found


def recordings_of(
    data: DataConfig, user: str, files: list[File], listed: dict[str, str], select_share: float
) -> list[Recording]:
    """One for each of a user's files, which are in their natural order. Stop: the CSV does not name one of them."""
    if listed:
        return [Recording(f"{user}/{from_csv(data, file.name, listed)}", "csv") for file in files]
    for by, name_of in ways(data):
        names = [name_of(file.inner) for file in files]
        names = names if by in ("pattern", "folder") else one_spelling(names)
        if tells_apart(by, names):
            return [recording(data, user, file, by, name, names) for file, name in zip(files, names, strict=True)]
    if data.kind == "iq":
        return [Recording(f"{user}/{PIECE.sub('', file.inner) or 'all of it'}", "file") for file in files]
    if data.split:
        return [Recording(f"{user}/{file.inner}", ALONE_IN_GIVEN) for file in files]
    blocks = in_time(len(files), data.val_share, select_share, data.gap_images)
    return [Recording(f"{user}/{block}", "time") for block in blocks]


def from_csv(data: DataConfig, name: str, listed: dict[str, str]) -> str:
    if name not in listed:
        raise Stop(f"{data.recordings_csv} does not name {name}: every file needs its recording")
    return listed[name]


def ways(data: DataConfig) -> list[tuple[str, Callable[[str], str]]]:
    """(what is recognised, its name in a path without the user and the type, or ""), the largest unit first."""
    if not data.recording_pattern:
        return []
    if data.recording_pattern != "auto":
        return [("pattern", partial(by_pattern, re.compile(data.recording_pattern)))]
    return [
        ("session", partial(joined, SESSION)),
        ("session", partial(by_words, SHORT, part=1)),
        ("recording", partial(by_words, RECORDING)),
        ("recording", partial(by_words, SHORT)),
        ("name", partial(by_words, PERHAPS)),
        ("date", partial(by_words, DATE)),
        ("segment", partial(by_words, SEGMENT)),
        ("folder", lambda inner: inner.rpartition("/")[0]),
    ]


def by_pattern(pattern: "re.Pattern[str]", inner: str) -> str:
    """The group "recording", in the file's name and else in the whole path."""
    match = pattern.search(inner.rpartition("/")[2]) or pattern.search(inner)
    return (match["recording"] or "") if match else ""


def joined(pattern: "re.Pattern[str]", inner: str) -> str:
    """All that a pattern finds, so that session 1 of two days is two sessions."""
    return "-".join(match[0].lower() for match in pattern.finditer(inner))


def by_words(pattern: "re.Pattern[str]", inner: str, part: int = 0) -> str:
    match = pattern.search(inner)
    return match[part].lower() if match else ""


def one_spelling(names: list[str]) -> list[str]:
    """The same recording as it was spelt first: rec_01, Rec 1 and rec1 are one, 2024-05-01 is 20240501."""
    first: dict[str, str] = {}
    return [first.setdefault(re.sub(r"[-_ .(#]+|(?<!\d)0+(?=\d)", "", name), name) for name in names]


def tells_apart(by: str, names: list[str]) -> bool:
    """Do at least half of the files have such a name, and two of them different ones? What every file has another one
    of may be the number of a window, except where the word is plain or a person said it.
    """
    known = [name for name in names if name]
    different = len(set(known))
    plain = by in ("session", "recording", "pattern")
    return 2 * len(known) >= len(names) and different > 1 and (plain or different < len(known))


def recording(data: DataConfig, user: str, file: File, by: str, name: str, names: list[str]) -> Recording:
    """A file whose name does not tell where it belongs may be a window of any recording, and is left out."""
    if name or data.kind == "iq":  # an echo is a recording by itself
        return Recording(f"{user}/{name or file.inner}", by)
    others = counted(sum(map(bool, names)), "other file")
    problem = f"its name tells no {by}, as {others} of {user} do, and it may be a window of any (data.recordings_csv)"
    return Recording(f"{user}/?", by, problem)


def in_time(count: int, test_share: float, select_share: float, gap: int) -> list[str]:
    """The last `test_share` of the images in time is held out, a block before it chooses the checkpoint where half of
    them stay for training, and `gap` images before each are left out, because windows overlap.
    """
    late = min(count - 1, max(1, round(count * test_share)))
    middle = max(1, round(count * select_share)) if select_share else 0
    if not middle or 2 * (count - late - middle - 2 * gap) < count:
        gap = min(gap, max(0, count - late - 1))
        return [TRAIN] * (count - late - gap) + [GAP] * gap + [TEST] * late
    early = count - late - middle - 2 * gap
    return [TRAIN] * early + [GAP] * gap + [SELECT] * middle + [GAP] * gap + [TEST] * late
