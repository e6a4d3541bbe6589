"""What is asked of a list of hands before any of it is used: names of fields, and whose hands they are.

A field under another name would be passed over: its box becomes the whole picture, its person the folder. A person
under two names, or under none beside others, may lie on both sides of the split.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.names import spelling

Entry = dict[str, Any]
LABELS = ("keypoints_2d", "keypoints_3d", "hand_pose", "betas")
SIDES = ("x0", "y0", "x1", "y1")
OURS = ("file", "hand", "box", "group", *LABELS, "K", "draft", "rejected", "confidence", "hand_model", "given", *SIDES)
# Names that other programs give to what we read, in small letters and without separators.
ELSEWHERE = {
    "file": "image filename imagename imgname imagepath imgpath path picture",
    "hand": "handedness side handside isright right handtype",
    "box": "bbox boundingbox handbbox handbox bboxes boxes rect",
    "group": "person subject personid subjectid user userid participant sequence",
    "keypoints_2d": "keypoints kpts kps landmarks joints joints2d uv",
    "keypoints_3d": "xyz joints3d landmarks3d worldlandmarks",
    "hand_pose": "pose mano manopose thetas",
    "betas": "shape manoshape manobetas",
    "K": "intrinsics cammat cameramatrix camk",
    "x0": "xmin left", "y0": "ymin top", "x1": "xmax", "y1": "ymax bottom",
}  # fmt: skip
# Names of folders that one person has several of: s1, session_2, take-3, cam0, left.
OF_ONE = re.compile(
    r"(?:s|sess|sessions?|seq|sequence|take|trial|rec|recording|day|visit|part|run|clip|video|cam|camera|view)"
    r"[-_ .]?\d+|left|right",
    re.IGNORECASE,
)


def plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


KNOWN = {plain(ours): ours for ours in OURS} | {
    plain(other): ours for ours, others in ELSEWHERE.items() for other in others.split()
}


def refuse_other_names(file: Path, found: list[Entry]) -> None:
    """Fields that nobody reads are named. Stop: one of them is ours under another name, and the entry lacks ours."""
    unread: set[str] = set()
    for number, entry in enumerate(found):
        for name in [name for name in entry if name not in OURS]:
            ours = KNOWN.get(plain(name), "")
            if ours and entry[name] not in (None, "") and entry.get(ours) in (None, ""):
                raise Stop(f"{file}: hand number {number} has {name!r}, which is not read", f"call it {ours!r}")
            unread.add(name)
    if unread:
        print(f"  {file.name} has fields that are not read: {', '.join(sorted(unread))}", flush=True)


# ---------------------------------------------------------------------------------------------- whose hand it is


def refuse_one_person_twice(groups: Iterable[str]) -> None:
    """Stop: two of the names in use may be one person's, who would be trained on and tested."""
    first: dict[str, str] = {}
    for group in sorted(set(groups)):
        other = first.setdefault(spelling(group), group)
        if other != group:
            cause = f"the groups {other!r} and {group!r} look like one person's, who may be on two sides"
            raise Stop(cause, "write them alike, or so that they differ in more than capitals, separators and zeros")


def is_labelled(entry: Entry) -> bool:
    return not entry.get("draft") and any(entry.get(name) is not None for name in LABELS)


def of_nobody(found: list[Entry]) -> set[int]:
    """Places of labelled hands without a person in folders where others have one: each may be any of theirs.

    Stop: pictures lie in folders below others, and the list names nobody: which of the folders is a person's?
    """
    folders = [str(Path(entry["file"]).parent) for entry in found]
    nameless = {number for number, entry in enumerate(found) if not entry.get("group")}
    refuse_unclear(sorted({folders[number] for number in nameless}))
    named = {folder for number, folder in enumerate(folders) if number not in nameless}
    return {number for number in nameless if folders[number] in named and is_labelled(found[number])}


def refuse_unclear(folders: list[str]) -> None:
    """Stop: two of the folders share one above or below them. What all of them share says nothing (images/anna,
    images/ben), unless they are called like sessions of one person (anna/s1, anna/s2).
    """
    shared = Counter(part for folder in folders for part in {*Path(folder).parts})
    are_sessions = any(OF_ONE.fullmatch(Path(folder).name) for folder in folders)
    if any(1 < count < len(folders) + are_sessions for count in shared.values()):
        cause = f"pictures lie in {', '.join(folders[:4])}, and nothing says whose hands they are"
        how = "data.group_pattern='^([^/]+)/' where the first folder is a person's, '^(.+)/' where each is"
        raise Stop(cause, f'give each hand its "group", or set {how}')
