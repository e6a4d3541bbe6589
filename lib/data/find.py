"""Inputs found by what they are, never by where they are mounted.

Kaggle moved its mounts in 2026 (/kaggle/input/<slug> became
/kaggle/input/{datasets/<owner>,notebooks/<user>,models/…}/<slug>) and broke every notebook that named a path. So a run
is a folder with a run.json of that name, an asset is a folder with its sources.json or its files by hash
(lib.data.recognise), and both are looked for everywhere below the read-only mounts.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from lib.core.errors import Stop
from lib.core.run import GOOGLE_DRIVE, Damaged, Run, atomic_folder, read_record

MOUNTS = ("/kaggle/input", f"{GOOGLE_DRIVE}/MyDrive", f"{GOOGLE_DRIVE}/Shareddrives")
DEEPEST_LEVELS = 8  # /kaggle/input/notebooks/<user>/<slug>/runs/<run> is four below the mount
MOST_FOLDERS = 20_000  # a data set of a million small folders must not cost the session
SKIPPED = {".git", "__pycache__", ".ipynb_checkpoints", "node_modules", ".venv"}


class Found(NamedTuple):
    """An earlier session's run folder; later sorts as newer."""

    changed_ns: int  # the newest stamp or checkpoint in it
    steps: int  # training steps of its newest checkpoint: decides where a mount gives every file the same time
    path: Path


def search_roots(inputs: Iterable[Path] = ()) -> list[Path]:
    """Where to look: the --inputs folders first, then the mounts of Kaggle and Colab that exist here."""
    return [root for root in [*map(Path, inputs), *map(Path, MOUNTS)] if root.is_dir()]


def wheels() -> Path | None:
    """A folder below the mounts that step 1 --wheels filled in an earlier session."""
    return next((folder for folder in folders_below(search_roots()) if any(folder.glob("*.whl"))), None)


def folders(root: Path) -> Iterator[Path]:
    """A search root and every folder below it, level by level, within DEEPEST_LEVELS and MOST_FOLDERS.

    Links are followed (a mount may be one), but no folder is entered twice, so a loop of links ends.
    """
    level: list[Path] = [root]
    entered: set[tuple[int, int]] = set()
    for _ in range(DEEPEST_LEVELS + 1):
        below: list[Path] = []
        for folder in level:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            if len(entered) == MOST_FOLDERS:
                most = f"{root} has more than {MOST_FOLDERS:,} folders"
                print(f"{most}: the rest is not searched (name a folder further down with --inputs)", flush=True)
                return
            entered.add((status.st_dev, status.st_ino))
            yield folder
            below += subfolders(folder)
        level = below


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; one that may not be read counts as empty."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.name not in SKIPPED and entry.is_dir())
    except PermissionError:
        return []


def folders_below(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        yield from folders(root)


def find_runs(name: str, roots: Iterable[Path]) -> list[Found]:
    """Run folders of this name below the search roots, the newest first."""
    seen = {folder.resolve(): folder for folder in folders_below(roots) if is_run(folder, name)}
    return sorted((Found(*age(folder), folder) for folder in seen.values()), reverse=True)


def is_run(folder: Path, name: str) -> bool:
    """A folder with a run.json that has this name, or whose run.json says so (a renamed one).

    A damaged run.json is passed over, and said where the folder has the name: an older whole run may lie beside it.
    """
    if not (folder / "run.json").is_file():
        return False
    try:
        record = read_record(folder / "run.json")
    except (Damaged, OSError) as error:  # anything may lie below a mount; a file of that name need not be ours
        if folder.name == name:
            print(f"{folder} is passed over: {error}", flush=True)
        return False
    return record is not None and (folder.name == name or record.get("run") == name)


def age(folder: Path) -> tuple[int, int]:
    """(newest time of change in nanoseconds, training steps) of a run folder."""
    stamps = [folder / "run.json", *folder.glob("[1-5]_*.json"), *folder.glob("train/*/step-*/sha256.json")]
    steps = [int(path.name.removeprefix("step-")) for path in folder.glob("train/*/step-*") if path.name[5:].isdigit()]
    return max(path.stat().st_mtime_ns for path in stamps), max(steps, default=0)


def continue_run(run: Run, inputs: Iterable[Path]) -> dict[str, Any] | None:
    """Copies an earlier session's run folder to where this session can write, and returns its run.json, or None.

    The newest is taken. Caches and data are not in a run folder; they are found or rebuilt.
    """
    newest = newest_elsewhere(run, inputs)
    if newest is None:
        return None
    clear_for_copy(run.folder)
    with atomic_folder(run.folder) as temporary:
        copy_writable(newest, temporary)
    return read_record(run.record)


def newest_elsewhere(run: Run, inputs: Iterable[Path], to: TextIO | None = None) -> Path | None:
    """The newest run folder of this name in an earlier session's output, with a line that says so; None: there is none.

    The run's own root is not an earlier session. to: where the line goes, standard output if None.
    """
    found = [one for one in find_runs(run.name, search_roots(inputs)) if one.path.resolve() != run.folder.resolve()]
    if not found:
        return None
    newest, *others = found
    print(f"continuing the run {run.name} from {newest.path}", flush=True, file=to)
    if others:
        print(f"  it is newer than {', '.join(str(one.path) for one in others)}", flush=True, file=to)
    return newest.path


def clear_for_copy(folder: Path) -> None:
    """Removes a run folder that holds nothing but our own lock and temporaries. Stop: it holds anything else, such as
    checkpoints whose run.json was lost.
    """
    if not folder.exists():
        return
    kept = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if kept:
        cause = f"{folder} has no run.json but holds {', '.join(kept[:5])}"
        raise Stop(
            f"{cause}, which an earlier session's run would replace",
            f"move {folder} away, or put its run.json back, then run the same command",
        )
    shutil.rmtree(folder)


def copy_writable(source: Path, target: Path) -> None:
    """Copies a folder's content without its permissions, because mounts are read-only. What lies behind a link is
    content: a `train` on another disk holds the checkpoints.

    The times of change are kept: they say which run is newer. Stop: a link to nothing or around, or no file.
    """
    leave = f"leave it out of {source}, then run the same command"
    for place, _, names in os.walk(source, followlinks=True):
        folder = Path(place)
        if folder.resolve() in (parent.resolve() for parent in folder.parents):
            raise Stop(f"{folder} is a link to a folder that holds it", leave)
        (target / folder.relative_to(source)).mkdir(exist_ok=True)
        for path in sorted(folder / name for name in names):
            if not path.is_file():
                raise Stop(f"{path} is neither a file nor a folder", leave)
            copy = target / path.relative_to(source)
            shutil.copyfile(path, copy)
            os.utime(copy, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
