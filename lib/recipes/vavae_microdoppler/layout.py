"""A person's folder -> whose files lie there. What looks like no folders of users is asked about: a wrong answer would
train on what it tests.

    <root>/<user>/**            data.layout=users
    <root>/<anything>/<user>/** data.layout=nested: sides of somebody's split, sessions, a wrapper
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib.core.errors import Stop
from lib.core.names import spelling
from lib.core.words import counted
from lib.recipes.vavae_microdoppler.config import DataConfig
from lib.recipes.vavae_microdoppler.recordings import SESSION, WHOLE_RECORDING
from lib.recipes.vavae_microdoppler.walk import SHOWN, TYPES, File, natural, some, walk

SIDE = re.compile(
    r"(?:\d+[-_. ])?(?:train|training|val|valid|validation|test|testing|dev|eval|evaluation|hold[-_ ]?out|held[-_ ]?out"
    r"|fold[-_ ]?\d+|split[-_ ]?\d+|训练|验证|测试)(?:[-_ ]?(?:set|data|dataset|images|imgs|split|\d+|集|数据|样本))?"
    r"|(?:train|test)[AB]", re.IGNORECASE
)  # fmt: skip
NO_USER = re.compile(
    r"(?:images?|imgs?|pictures?|photos?|data|datasets?|samples?|raw|processed|labels?|annotations?|masks?|unlabell?ed"
    r"|spectrograms?|outputs?|results?|backups?|copy|old|new|(?:new|untitled) folder|tmp|temp|misc|others?"
    r"|图片|数据|数据集)(?:[-_ ]?\(?\d+\)?)?", re.IGNORECASE
)  # fmt: skip
COPY = re.compile(r"[-_ ]*(?:\(\d+\)|copy(?: \d+)?|副本)$", re.IGNORECASE)  # what file managers add to a second copy
USER = re.compile(r"(?:id|user|usr|subject|subj|sub|person|participant|walker|p|u|用户|受试者)[-_ ]?\d+", re.IGNORECASE)


@dataclass
class Found:
    """Users and their files, both in natural order; what belongs to nobody; what a person should hear."""

    users: dict[str, list[File]] = field(default_factory=dict)
    strays: list[File] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_files(data: DataConfig, root: Path) -> Found:
    """Stop: no folder, no file, a user that is not there, a layout that is asked about."""
    if not root.is_dir():
        raise Stop(f"there is no folder {root} (data.root)", "set data.root=FOLDER, one folder per user below it")
    others: Counter[str] = Counter()
    files = [file for file in walk(root, "", TYPES[data.kind], others, ()) if file.name != data.recordings_csv]
    others.subtract([Path(data.recordings_csv).suffix.lower()] if (root / data.recordings_csv).is_file() else [])
    if all(file.problem for file in files):
        raise Stop(*nothing_there(data, root, files, others))
    depth, note = users_depth(data, files)
    found = Found(notes=[note] if note else [])
    for file in sorted(files, key=lambda file: natural(file.name)):
        place(file, depth, found)
    found.users = {user: found.users[user] for user in sorted(found.users, key=natural)}
    if data.users:
        found.users = {user: files for user, files in found.users.items() if user in data.users}
        refuse_unknown(data, root, found, files)
    if others := +others:
        kinds = ", ".join(f"{count} {kind or 'without a type'}" for kind, count in others.most_common(SHOWN))
        found.notes.append(f"files of other types, not looked at: {kinds}")
    return found


def nothing_there(data: DataConfig, root: Path, files: list[File], others: "Counter[str]") -> tuple[str, str]:
    """(cause, what to do): no file of the type, and what lies there instead."""
    wanted, other = TYPES[data.kind], "iq" if data.kind == "images" else "images"
    there = ", ".join(f"{count} {kind}" for kind, count in others.most_common(SHOWN) if kind) or "no other files"
    cause = f"no file was found in {root}: looked for <user>/**/*{{{','.join(wanted)}}}; there are {there}"
    if files:
        cause += f"; {counted(len(files), 'place')} cannot be opened, e.g. {files[0].name}: {files[0].problem}"
    if any(kind in TYPES[other] for kind in others):
        return cause, f"set data.kind={other}" + (" (raw echoes) or data.kind=arrays" if other == "iq" else "")
    return cause, "set data.root to the folder that holds the users' folders"


# ---------------------------------------------------------------------------------------------- the layout


def users_depth(data: DataConfig, files: list[File]) -> tuple[int, str]:
    """(folders above a user's, a sentence where that was not as usual). Stop: only a person can say."""
    paths = [file.name.split("/") for file in files]
    tops = sorted({parts[0] for parts in paths if len(parts) > 1}, key=natural)
    inner = sorted({parts[1] for parts in paths if len(parts) > 2}, key=natural)
    if data.layout != "auto":
        return (0 if data.layout == "users" else 1), ""
    if data.users:
        return users_named(data.users, tops, inner)
    if doubt := doubtful(tops, inner, any(len(parts) == 2 for parts in paths)):
        if doubt == "wrapper" and all(USER.fullmatch(name) for name in inner):
            return 1, f"{tops[0]} is taken for a wrapper of the users' folders ({some(inner)})"
        raise Stop(doubt_in_words(doubt, tops, inner), how_to_go_on(doubt, tops, inner))
    return 0, ""


def users_named(users: list[str], tops: list[str], inner: list[str]) -> tuple[int, str]:
    """data.users says where the users' folders are."""
    if not set(users) <= set(tops) and set(users) <= set(inner):
        return 1, f"the users of data.users lie in {some(tops)}"
    return 0, ""


def doubtful(tops: list[str], inner: list[str], has_own_files: bool) -> str:
    """Why the folders below the root may be no users; "" where nothing speaks against it."""
    if any(SIDE.fullmatch(name) for name in tops):
        return "sides"
    if tops and all(WHOLE_RECORDING.fullmatch(name) for name in tops):
        return "recordings"
    if len(tops) == 1 and inner and not has_own_files and not all(WHOLE_RECORDING.fullmatch(name) for name in inner):
        return "wrapper"
    if any(NO_USER.fullmatch(name) for name in tops):
        return "no users"
    if same_person(tops):
        return "twice"
    if inner and not has_own_files and all(map(USER.fullmatch, inner)) and not any(map(USER.fullmatch, tops)):
        return "users inside"
    return ""


def same_person(tops: list[str]) -> list[str]:
    """Folders that differ only in a session, a recording, "(1)" or the spelling: u1_session1 and U01."""
    bare = [spelling(WHOLE_RECORDING.sub("", COPY.sub("", name))) for name in tops]
    return [name for name, person in zip(tops, bare, strict=True) if person and bare.count(person) > 1]


def doubt_in_words(doubt: str, tops: list[str], inner: list[str]) -> str:
    sides, others = ([name for name in tops if pattern.fullmatch(name)] for pattern in (SIDE, NO_USER))
    said = {
        "sides": f"the folders {some(sides)} look like the sides of a split, not like users",
        "recordings": f"the folders {some(tops)} look like sessions or recordings, not like users",
        "wrapper": f"everything lies in the one folder {tops[0]}, which may be a user or a wrapper of users",
        "no users": f"the folders {some(others)} are not named like users",
        "twice": f"the folders {some(same_person(tops))} may be the same user's",
        "users inside": f"the folders {some(tops)} look less like users than what lies in them",
    }[doubt]
    return f"{said}; in them lie {f'the folders {some(inner)}' if inner else 'files, no folders'}"


def how_to_go_on(doubt: str, tops: list[str], inner: list[str]) -> str:
    """The settings that say what is meant."""
    users = f"data.layout=users if {'each of ' if len(tops) > 1 else ''}{some(tops)} is one user"
    if doubt == "wrapper" and any(SIDE.fullmatch(name) for name in inner):
        return f"set data.root to the folder {tops[0]} in it and then data.layout=nested, or {users}"
    if doubt == "twice":
        return f"put a user's sessions into one folder per user, or set {users}"
    if doubt == "no users" and len(tops) > 1:
        return f"name the folders of users (data.users=[...]), or set {users}"
    if not inner:
        return f"sort the files into one folder per user, or set {users}"
    further = ", data.root if they lie further down" if doubt == "wrapper" else ""
    return f"set data.layout=nested if the users are {some(inner)}, {users}{further}"


def place(file: File, depth: int, found: Found) -> None:
    """Sorts a file to its user, or to what belongs to nobody."""
    folders, last = file.name.split("/")[:-1], file.name.rsplit("/", 1)[-1]
    if len(folders) <= depth:
        where = "in no folder of a user" if folders else "beside the users' folders"
        found.strays.append(replace(file, problem=file.problem or f"it lies {where}"))
        return
    above = [name for name in folders[:depth] if SESSION.search(name) and not SIDE.fullmatch(name)]
    rest = [*above, *folders[depth + 1 :], *([Path(last).stem] if last else [])]
    found.users.setdefault(folders[depth], []).append(replace(file, user=folders[depth], inner="/".join(rest)))


def refuse_unknown(data: DataConfig, root: Path, found: Found, files: list[File]) -> None:
    unknown = sorted(set(data.users) - found.users.keys())
    if unknown:
        there = sorted({file.name.split("/")[0] for file in files if "/" in file.name}, key=natural)
        cause = f"data.users names {unknown[0]}, which is not a user's folder in {root}"
        raise Stop(f"{cause}; there are: {some(there, 40)}")
