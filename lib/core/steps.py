"""The four states of a step (absent, stale, paused, complete), fingerprints and stamps.

A stamp stores what a step was made from: the hashes of its inputs, the settings it reads, and the code that shapes its
output (lib.core.code derives both). A step is stale when one of these differs, and the state says which. Nothing here
imports torch: `--plan` reads the states of all five steps.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core import code
from lib.core import config as configuration
from lib.core.contract import Recipe
from lib.core.run import (
    CACHE,
    LISTED,
    SCRIPTS,
    STEPS,
    Damaged,
    Run,
    existing,
    files_below,
    read_json,
    read_record,
    seal_of,
    write_record,
)
from lib.core.words import counted

UNKNOWN = "what it was made from is not known, because"
ARRAYS = "prepared arrays"  # among the inputs of steps 4 and 5


@dataclass(frozen=True)
class State:
    """`word` is absent, stale, paused or complete; `reasons` say what changed; `progress` is {done, total, unit}."""

    word: str
    reasons: tuple[str, ...] = ()
    progress: dict[str, Any] | None = None

    def __str__(self) -> str:
        done = where(self.progress) if self.word == "paused" else ""
        return self.word + done + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def where(progress: dict[str, Any] | None) -> str:
    """' at 120 of 400 steps', for messages; ' after 1 record' where the total is 0, which is not known yet."""
    if not progress:
        return ""
    if not progress["total"]:
        return f" after {counted(progress['done'], progress['unit'].removesuffix('s'))}"
    return f" at {progress['done']} of {progress['total']} {progress['unit']}"


def state(run: Run, step: int, recipe: Recipe, config: Any) -> State:
    """The state of one step under a configuration, with the reason where it is stale."""
    stamp, damage = stamp_of(run, step)
    if damage:
        return State("stale", (damage,))
    if stamp is None:
        return State("absent")
    reasons = differences(stamp["fingerprint"], fingerprint(run, step, recipe, config)) + lost_outputs(run, step, stamp)
    if reasons:
        return State("stale", tuple(reasons), stamp.get("progress"))
    return State(stamp["state"], (), stamp.get("progress"))


def stamp_of(run: Run, step: int) -> tuple[dict[str, Any] | None, str]:
    """(a step's stamp, ""), or (None, why it cannot be believed); (None, "") where there is none."""
    try:
        return read_record(run.stamp(step)), ""
    except Damaged:
        return None, f"{UNKNOWN} {run.stamp(step).name} is damaged"


def fingerprint(
    run: Run, step: int, recipe: Recipe, config: Any, read: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """What the step would be made from now: {inputs, config, code, sources}.

    While the bytes of a stamp's sources stay, its code stays and no syntax tree is read. read: settings that the step
    was seen reading; those of the stamp count on.
    """
    stamped = (stamp_of(run, step)[0] or {}).get("fingerprint", {})
    sources, hashes = stamped.get("sources", {}), stamped.get("code", {})
    keys = set(stamped.get("config", {})) | set(read)
    if not sources or code.raw_hashes(recipe, sources) != sources:
        script = code.REPOSITORY / SCRIPTS[step]
        modules = code.of_step(script, recipe)
        hashes = code.hashes(recipe, modules)
        sources = code.raw_hashes(recipe, hashes)
        keys |= code.settings_read([script, *modules], config)
    unread = configuration.marked(config, "silent") | (configuration.marked(config, "scored") if step < 5 else set())
    settings = {key: value for key, value in configuration.to_dotted(config).items() if key in keys - unread}
    return {"inputs": inputs(run, step, recipe, config), "config": settings, "code": hashes, "sources": sources}


def inputs(run: Run, step: int, recipe: Recipe, config: Any) -> dict[str, str]:
    """Content hashes of what the step reads from disk."""
    if step == 1:
        return {"requirements.txt": file_hash(code.REPOSITORY / "requirements.txt")}
    if step == 2:
        return {asset.name: asset_hash(asset) for asset in recipe.assets(config)}
    return left_by_others(run, step)


def left_by_others(run: Run, step: int) -> dict[str, str]:
    """`inputs` of steps 3 to 5: what the steps before them left in the run."""
    files = {3: [run.assets], 4: [run.assets, run.manifest, run.split], 5: [run.manifest, *checkpoints(run)]}[step]
    return {str(file.relative_to(run.folder)): file_hash(file) for file in files} | (arrays(run) if step > 3 else {})


def arrays(run: Run) -> dict[str, str]:
    """What step 3 left in the cache, and what it was made with: most of its settings may change every array and no word
    of the manifest. {} where its stamp does not say it.
    """
    stamp = stamp_of(run, 3)[0] or {}
    made = stamp.get("fingerprint", {})
    said = {"holds": stamp.get("lists"), "settings": made.get("config"), "code": made.get("code")}
    return {ARRAYS: json.dumps(said, sort_keys=True, default=str)} if said["holds"] else {}


def state_without_code(run: Run, step: int, config: dict[str, Any]) -> State:
    """Like `state`, of step 4 or 5 by the run's files and settings alone: changed code makes no finished run another
    one, and caches need not be there. config: of run.json. Damaged: there is no stamp.
    """
    stamp = existing(run.stamp(step), run.command(step))
    if stamp["state"] != "complete":
        return State(stamp["state"], (), stamp.get("progress"))
    now = {"inputs": left_by_others(run, step), "config": config, "code": {}}
    lost = [f"{name} is missing" for name in stamp["hashes"] if not (run.folder / name).exists()]
    found = differences({**stamp["fingerprint"], "code": {}}, now) + lost + changed_outputs(run, stamp)
    return State("stale", tuple(found)) if found else State("complete")


def asset_hash(asset: Any) -> str:
    wanted = {key: value for key, value in vars(asset).items() if key not in ("stand_in", "how_to_get", "licence")}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True, default=str).encode()).hexdigest()


def checkpoints(run: Run) -> list[Path]:
    """The hash lists of the checkpoints that step 5 may score: the best and the last of each stage."""
    return sorted(run.folder.glob("train/*/step-*/sha256.json"))


def lost_outputs(run: Run, step: int, stamp: dict[str, Any]) -> list[str]:
    """Outputs that are gone (a deleted cache, a moved run folder) or changed: they are made again."""
    lost = [f"{name} is missing" for name in stamp.get("outputs", []) if not run.output(name).exists()]
    lost += [loss for name, count in stamp.get("counts", {}).items() if (loss := lost_files(run.output(name), count))]
    differing = changed_outputs(run, stamp)
    return lost + differing + (unplaced_assets(run) if step == 2 and not differing else [])


def changed_outputs(run: Run, stamp: dict[str, Any]) -> list[str]:
    """Files of a step that are there and hold something else, such as those of another run."""
    return [
        f"{name} is not what the step wrote"
        for name, sha256 in stamp["hashes"].items()
        if (run.folder / name).exists() and file_hash(run.folder / name) != sha256
    ]


def lost_files(folder: Path, count: int) -> str:
    """'3 of 90 files of prepared-… are missing', or "": what a look at the names tells without reading a byte."""
    there = sum(1 for _ in files_below(folder))
    lost = folder.is_dir() and there < count
    return f"{count - there} of {counted(count, 'file')} of {folder.name} are missing" if lost else ""


def unplaced_assets(run: Run) -> list[str]:
    """Assets that are not on this machine, because the run came from another one or a mount is gone."""
    recipe = (read_record(run.record) or {}).get("recipe", "")
    recorded = {made["name"]: made["fingerprint"] for made in read_json(run.assets) or []}
    places = {name: run.known_places(recipe, name, content) for name, content in recorded.items()}
    return [f"the asset {name} is missing" for name, known in places.items() if not any(map(Path.exists, known))]


def differences(old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]) -> list[str]:
    """What changed, in words: the input, the setting with both values, or the file."""
    settings = sorted(old["config"].keys() & new["config"].keys())  # another set of keys comes from other code
    return [
        *(f"the input {key} changed" for key in changed(old["inputs"], new["inputs"]) if key != ARRAYS),
        *other_arrays(old["inputs"].get(ARRAYS), new["inputs"].get(ARRAYS)),
        *(
            f"{key} was {old['config'][key]!r}, is {new['config'][key]!r}"
            for key in settings
            if old["config"][key] != new["config"][key]
        ),
        *(f"the code of {key} changed" for key in changed(old["code"], new["code"])),
    ]


def other_arrays(old: str | None, new: str | None) -> list[str]:
    """Why the prepared arrays are other ones: a setting of step 3, or its code. Of the same code and settings another
    machine may round otherwise; that is no other data.
    """
    was, now = (json.loads(said) if said else {} for said in (old, new))
    if not was or not now or was["holds"] == now["holds"]:
        return []
    settings = [(key, was["settings"][key], now["settings"][key]) for key in was["settings"] if key in now["settings"]]
    return [
        *(f"{key} was {a!r}, is {b!r}, and with it the {ARRAYS}" for key, a, b in settings if a != b),
        *(f"the code of {key} changed, and with it the {ARRAYS}" for key in changed(was["code"], now["code"])),
    ]


def changed(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The names whose hash differs, or that only one side has."""
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def only_code(reasons: tuple[str, ...]) -> bool:
    return all(reason.startswith(("the code of", UNKNOWN)) for reason in reasons)


def harmful(reasons: tuple[str, ...], config: Any) -> tuple[str, ...]:
    """The reasons for which a training may not just go on: not a setting that moves no sample and no noise, and not an
    output that is gone.
    """
    free = tuple(f"{key} was" for key in configuration.marked(config, "free"))
    return tuple(reason for reason in reasons if not reason.startswith(free) and not reason.endswith("is missing"))


def write_stamp(
    run: Run,
    step: int,
    word: str,
    made_from: dict[str, Any],
    progress: dict[str, Any] | None,
    outputs: list[str],
    seconds: float,
) -> None:
    """The stamp is written last: a step without one never happened.

    Files among the outputs are known by their hashes; run.json carries its own, because later steps add to it.
    """
    following = step if word == "paused" else step + 1
    made = [run.folder / name for name in outputs if (run.folder / name).is_file()]
    hashes = {str(file.relative_to(run.folder)): file_hash(file) for file in made if file != run.record}
    caches = [name for name in outputs if name.startswith(f"{CACHE}/")]
    write_record(run.stamp(step), {
        "state": word, "fingerprint": made_from, "progress": progress, "outputs": outputs, "seconds": round(seconds, 1),
        "hashes": hashes, "counts": {name: sum(1 for _ in files_below(run.output(name))) for name in caches},
        "lists": [held_by(run.output(name)) for name in caches],
        "next": run.portable_command(following) if following in STEPS else "",
    })  # fmt: skip


def held_by(folder: Path) -> str:
    """What tells the arrays of a prepared folder from others, whatever it is called; "" before it is finished."""
    listed = read_record(folder / LISTED)
    return seal_of(listed["files"]) if listed else ""


def digest(made_from: dict[str, Any], *more: str) -> str:
    """A short name for what a fingerprint says: folders of caches are called so."""
    said = {key: value for key, value in made_from.items() if key != "sources"}  # comments change nothing
    return hashlib.sha256(json.dumps([said, *more], sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The sha256 of a small file; "" where there is none. Large files are hashed with a memo (lib.core.hashes)."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
