"""What a network was trained on: by itself, and by what it was started from.

A held-out score means nothing where an ancestor has seen the held-out data: a checkpoint of another run, an exported
model that became a base, a folder of latents. So each of these carries a `lineage.json`,

    {"groups": {"scene": ["facade", …]}, "files": ["3fb1…", …]}

groups by what a group is, files by the first 16 hex digits of their sha256; both are the union over all ancestors. A
training whose test side overlaps with what it starts from is refused, and so is one that starts from what another
program trained ("unknown" names the files), because nobody can say what that has seen.

What a training leaves says which one it is of (run.json notes it for each stage), so that a whole checkpoint, best.json
or done.json of another training, or a checkpoint under another step's name, is not taken for its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.records import Manifest
from lib.core.run import read_json, read_record, write_json
from lib.core.words import counted

FILE = "lineage.json"
HASH_DIGITS = 16  # of sha256: a chance meeting among a million files is below 1e-7
SHOWN = 5
TRAININGS = "trainings"  # in run.json: stage -> what its training is known by
TRAINING = "training"  # in what it leaves


@dataclass
class Lineage:
    """Groups by kind ("scene", "subject") and file hashes that a network and its ancestors were trained on."""

    groups: dict[str, set[str]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)  # ancestors that were trained elsewhere

    def __or__(self, other: "Lineage") -> "Lineage":
        kinds = self.groups.keys() | other.groups.keys()
        groups = {kind: self.groups.get(kind, set()) | other.groups.get(kind, set()) for kind in kinds}
        return Lineage(groups, self.files | other.files, self.unknown | other.unknown)

    def write(self, folder: Path) -> None:
        groups = {kind: sorted(names) for kind, names in sorted(self.groups.items())}
        unknown = {"unknown": sorted(self.unknown)} if self.unknown else {}
        write_json(folder / FILE, {"groups": groups, "files": sorted(self.files)} | unknown)


def read(folder: Path) -> Lineage:
    """The lineage that lies in a folder; an empty one where there is none (a published base)."""
    stored: dict[str, Any] = read_json(folder / FILE) or {"groups": {}, "files": []}
    groups = {kind: set(names) for kind, names in stored["groups"].items()}
    return Lineage(groups, set(stored["files"]), set(stored.get("unknown", [])))


def of_run(manifest: Manifest, by: str, ancestors: Iterable[Path]) -> Lineage:
    """What a training on this manifest's training side adds to the lineage of the folders that it starts from.

    Pictures that choose the checkpoint shape it too, so the select side counts as trained on.
    """
    records = [*manifest.side("train"), *manifest.side("select")]
    mine = Lineage({by: {record.group for record in records}}, {short(record.sha256) for record in records} - {""})
    for folder in ancestors:
        mine = mine | read(folder)
    return mine


def short(sha256: str) -> str:
    return sha256[:HASH_DIGITS]


def seen(manifest: Manifest, by: str, folder: Path, what: str) -> str:
    """A sentence that names what this run holds out and what `folder` or an ancestor of it was trained on, or that
    nobody knows; "" if nothing.

    The same file is the same wherever it lies; the same name of a group is taken for the same group.
    """
    known, records = read(folder), manifest.side("test")
    files = [record.sample_id for record in records if short(record.sha256) in known.files]
    groups = sorted({record.group for record in records} & known.groups.get(by, set()))
    if not files and not groups:
        elsewhere = f"{what} comes from {', '.join(sorted(known.unknown))}, trained elsewhere"
        return f"{elsewhere}: nobody can say whether it has seen what is held out here" if known.unknown else ""
    named = ", ".join(groups[:SHOWN] or files[:SHOWN])
    return f"{what} was trained on {counted(len(groups), by)} and {counted(len(files), 'file')} held out here ({named})"


def refuse_seen(manifest: Manifest, by: str, folder: Path, what: str) -> None:
    """Stop: `seen` finds something."""
    if found := seen(manifest, by, folder, what):
        command = f"hold out another {by}, start from something that has not seen it, or set train.accept_seen=true"
        raise Stop(found, command)


def training_of(stage: Path) -> str | None:
    """What the training of a run's stage is known by; None where it began before this was noted."""
    return noted((read_record(stage.parents[1] / "run.json") or {}), stage.name)


def noted(record: dict[str, Any], stage: str) -> str | None:
    """The same from run.json."""
    found: str | None = record.get(TRAININGS, {}).get(stage)
    return found


def misplaced(left: dict[str, Any], stage: Path) -> str:
    """Why what a training left is not of the training of this stage; "" where it is."""
    return "" if left.get(TRAINING) == training_of(stage) else "it comes from another training"


def misplaced_checkpoint(folder: Path) -> str:
    """The same of a whole checkpoint, which also knows its step and its stage."""
    state, stage = read_json(folder / "state.json"), folder.parent
    if (state["stage"], f"step-{state['step']:06d}") != (stage.name, folder.name):
        return f"it is that of step {state['step']} of the stage {state['stage']}"
    return misplaced(state, stage)
