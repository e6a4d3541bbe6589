"""Is a run folder whole? Also one that was copied, or zipped and unpacked elsewhere; nothing of the machine is asked.

Every file that the steps wrote with a hash is read once. Records carry their own hash, stamps those of the outputs,
checkpoints and exports a list, log lines a checksum each. A file that nothing lists is missed where another one tells
that it was there: the stamps of earlier steps, what a finished stage leaves, a line of its logs for every step.
"""

import argparse
import contextlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lib.commands import answer, cli
from lib.core import hashes
from lib.core.errors import DONE, FAILED, Stop, nearest
from lib.core.run import SCRIPTS, STEPS, Damaged, existing, read_json, read_log, read_record, whole_record
from lib.core.words import counted
from lib.network import lineage

LOGS = ("log.jsonl", "timing.jsonl")  # of a stage
Found = Iterator[tuple[str, str]]  # (what was looked at, why it is damaged or "")


def main(words: list[str]) -> int:
    """`step5_evaluate.py --verify FOLDER`: one line per kind of file. Returns the exit code."""

    def work() -> int:
        args = parse(words)
        return verify(folder_of(args.verify, args.root), told)

    with answer.given() as told:
        told["exit_code"] = code = cli.ended(work, told)
    return code


def parse(words: list[str]) -> argparse.Namespace:
    parser = cli.Parser(prog=SCRIPTS[5])
    parser.add_argument(
        "--verify", type=cli.folder, metavar="FOLDER", required=True, help="a run's folder, or its name"
    )
    parser.add_argument("--root", type=cli.folder, default=cli.here(), help="holds runs/ (default: the current folder)")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, everything else on stderr")
    return parser.parse_args(words)


def folder_of(named: Path, root: Path) -> Path:
    """A folder with a run.json, or a run of that name."""
    for folder in (named, root / "runs" / named):
        if folder.is_dir() and (any(folder.glob("[1-5]_*.json")) or (folder / "run.json").exists()):
            return folder
    names = [record.parent.name for record in root.glob("runs/*/run.json")]
    raise Stop(f"{named} is not a run's folder: {nearest(str(named), names)}")


def verify(folder: Path, told: dict[str, Any]) -> int:
    kinds = {
        "records": chain(records(folder), lost_records(folder)),
        "outputs": outputs(folder),
        "checkpoints": chain(checkpoints(folder), hashed(folder, "imported/step-*")),
        "exports": hashed(folder, "export/*"),
        "log lines": chain(logs(folder), lost_lines(folder)),
    }
    looked_at = {kind: list(found) for kind, found in kinds.items()}
    whole = [say(kind, found) for kind, found in looked_at.items()]
    mended = "damaged: copy it once more, or put back what is named; a step makes its own outputs again"
    print(f"{folder} is {'whole' if all(whole) else mended}")
    damaged = {name: fault for found in looked_at.values() for name, fault in found if fault}
    told |= {"folder": str(folder), "whole": all(whole), "files": sum(map(len, looked_at.values())), "damaged": damaged}
    return DONE if all(whole) else FAILED


def say(kind: str, found: list[tuple[str, str]]) -> bool:
    """One line of a kind, and one for everything of it that is damaged."""
    damaged = [(name, fault) for name, fault in found if fault]
    print(f"{kind}: {len(found) - len(damaged)} whole, {len(damaged)} damaged" if found else f"{kind}: none")
    for name, fault in damaged:
        print(f"  {name}: {fault}")
    return not damaged


def records(folder: Path) -> Found:
    """run.json and the stamps; what the steps write with a hash of its own."""
    stamps = [f"{number}_{name}.json" for number, name in STEPS.items()]
    beside = [file.relative_to(folder).as_posix() for file in folder.glob("train/*/*.json")]
    for name in ("run.json", *stamps, "split.json", "eval/scores.json", *sorted(beside)):
        if name == "run.json" or (folder / name).exists():
            try:
                record = existing(folder / name)
                yield name, misplaced(record, folder / name)
            except Damaged as damaged:
                yield name, damaged.cause


def misplaced(record: dict[str, Any], file: Path) -> str:
    """Is best.json or done.json of another training?"""
    with contextlib.suppress(Damaged):  # run.json, as the records say
        return lineage.misplaced(record, file.parent) if file.name in ("best.json", "done.json") else ""
    return ""


def lost_records(folder: Path) -> Found:
    """Records that must be there because of others. Without best.json another checkpoint would pass for the best."""
    stamps = [folder / f"{number}_{name}.json" for number, name in STEPS.items()]
    last = max((number for number, stamp in enumerate(stamps) if stamp.exists()), default=0)
    wanted = stamps[:last]
    for stage in stages(folder):
        wanted += [stage / "done.json"] * is_trained(folder) + [stage / "best.json"] * has_chosen(stage)
    for file in wanted:
        if not file.exists():
            yield file.relative_to(folder).as_posix(), f"{file} is missing"


def stages(folder: Path) -> list[Path]:
    return sorted({place.parent for place in folder.glob("train/*/step-*") if place.is_dir()})


def has_chosen(stage: Path) -> bool:
    """Whether the newest checkpoint notes a best one that is kept."""
    # step-1000000 comes after step-999999
    newest = max(stage.glob("step-*/state.json"), key=lambda file: (len(file.parent.name), file), default=None)
    with contextlib.suppress(ValueError, RecursionError, AttributeError):  # damaged, as the checkpoints say
        return bool(newest and read_json(newest).get("leaders"))
    return False


def is_trained(folder: Path) -> bool:
    with contextlib.suppress(Damaged):
        return (read_record(folder / f"4_{STEPS[4]}.json") or {}).get("state") == "complete"
    return False


def outputs(folder: Path) -> Found:
    """What the stamps of complete steps list. Caches are not in a run folder; a training's checkpoints have a list."""
    for step, word in STEPS.items():
        try:
            stamp = read_record(folder / f"{step}_{word}.json")
        except Damaged:
            continue  # said among the records
        for name, sha256 in (stamp or {"hashes": {}})["hashes"].items():
            yield name, hashes.fault(folder / name, sha256)
        for name in stamp["outputs"] if stamp and step == 4 else []:
            yield name, "" if (folder / name).is_dir() else f"{folder / name} is missing"


def hashed(folder: Path, pattern: str) -> Found:
    for place in sorted(folder.glob(pattern)):
        if place.is_dir() and not place.name.startswith("."):
            yield place.relative_to(folder).as_posix(), hashes.folder_fault(place)


def checkpoints(folder: Path) -> Found:
    """Those that are whole must be of the step, the stage and the training that they lie under."""
    for name, fault in hashed(folder, "train/*/step-*"):
        with contextlib.suppress(Damaged):
            fault = fault or lineage.misplaced_checkpoint(folder / name)
        yield name, fault


def logs(folder: Path) -> Found:
    """A last line without its end is what a kill leaves; the next session cuts it off."""
    for log in sorted(folder.glob("train/*/*.jsonl")):
        for number, line in enumerate(log.read_bytes().split(b"\n")[:-1], 1):
            fault = "" if whole_record(line) is not None else "the line does not have its checksum"
            yield f"{log.relative_to(folder).as_posix()}, line {number}", fault


def lost_lines(folder: Path) -> Found:
    """Of a finished stage each log has a line of every step, and is as it was left."""
    for stage in stages(folder):
        try:
            done = read_record(stage / "done.json")
        except Damaged:
            continue  # said among the records
        trained = done["trained_steps"] if done else 0
        for name, sha256 in (done or {}).get("files", {}).items():
            if fault := hashes.fault(stage / name, sha256):
                yield (stage / name).relative_to(folder).as_posix(), fault
        for log in (stage / name for name in LOGS):
            lost = set(range(1, trained + 1)) - {line["step"] for line in read_log(log) if "eval" not in line}
            if lost:
                fault = f"{counted(len(lost), 'step')} of {trained:,} missing, the first is {min(lost)}"
                yield log.relative_to(folder).as_posix(), fault
