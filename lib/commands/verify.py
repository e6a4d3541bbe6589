"""Is a run folder whole? Also one that was copied, or zipped and unpacked elsewhere; nothing of the machine is asked.

Every file that the steps wrote with a hash is read once. Records carry their own hash, stamps those of the outputs,
checkpoints and exports a list, log lines a checksum each.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lib.commands import answer, cli
from lib.core import hashes
from lib.core.errors import DONE, FAILED, Stop, nearest
from lib.core.run import SCRIPTS, STEPS, Damaged, existing, read_record, whole_record

Found = Iterator[tuple[str, str]]  # (what was looked at, why it is damaged or "")


def main(words: list[str]) -> int:
    """`step5_evaluate.py --verify FOLDER`: one line per kind of file. Returns the exit code."""
    parser = cli.Parser(prog=SCRIPTS[5])
    parser.add_argument("--verify", type=Path, metavar="FOLDER", required=True, help="a run's folder, or its name")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="holds runs/ (default: the current folder)")
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, everything else on stderr")
    with answer.given() as told:
        try:
            args = parser.parse_args(words)
            told["exit_code"] = verify(folder_of(args.verify, args.root), told)
        except Stop as stop:
            told["exit_code"] = cli.say(stop, told)
    return int(told["exit_code"])


def folder_of(named: Path, root: Path) -> Path:
    """A folder with a run.json, or a run of that name."""
    for folder in (named, root / "runs" / named):
        if folder.is_dir() and (any(folder.glob("[1-5]_*.json")) or (folder / "run.json").exists()):
            return folder
    names = [record.parent.name for record in root.glob("runs/*/run.json")]
    raise Stop(f"{named} is not a run's folder: {nearest(str(named), names)}")


def verify(folder: Path, told: dict[str, Any]) -> int:
    kinds = {
        "records": records(folder),
        "outputs": outputs(folder),
        "checkpoints": chain(hashed(folder, "train/*/step-*"), hashed(folder, "imported/step-*")),
        "exports": hashed(folder, "export/*"),
        "log lines": logs(folder),
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
                existing(folder / name)
                yield name, ""
            except Damaged as damaged:
                yield name, damaged.cause


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


def logs(folder: Path) -> Found:
    """A last line without its end is what a kill leaves; the next session cuts it off."""
    for log in sorted(folder.glob("train/*/*.jsonl")):
        for number, line in enumerate(log.read_bytes().split(b"\n")[:-1], 1):
            fault = "" if whole_record(line) is not None else "the line does not have its checksum"
            yield f"{log.relative_to(folder).as_posix()}, line {number}", fault
