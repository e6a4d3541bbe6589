"""Assets: what step 2 brings, finds or asks for, and the proof that it is whole.

Every file of an asset is known by its sha256 (lib.hashes: checked on every run, computed when the file changed). What the
pipeline fetched or made itself has a `sources.json` with all hashes in its folder; it is written last, so a folder without
one is not complete. Attached inputs are used where they lie; places.json, the only file with paths of this machine, says where.
"""
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from lib import archives, find, hub
from lib.errors import Paused, Stop
from lib.hashes import Memo, sha256_of
from lib.recipes import Asset
from lib.run import Run, atomic_folder, read_json, write_json

SOURCES = "sources.json"
REPOSITORY = Path(__file__).resolve().parent.parent
SPARE_BYTES = 200 << 20  # left free on the disk after a download

ShouldStop = Callable[[], bool]  # asked before every file; True pauses the step


@dataclass(frozen=True)
class AssetRecord:
    """An asset on this machine. `files` maps the relative path to the sha256; `missing` is empty when it can be used."""

    name: str
    kind: str
    path: Path
    source: str = ""
    revision: str = ""
    commit: str = ""  # kind "hub": what the revision named when the files were fetched
    licence: str = ""
    files: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    how_to_get: str = ""

    @property
    def fingerprint(self) -> str:
        """What the asset holds, wherever it lies."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


def bring_all(run: Run, recipe: ModuleType, config: Any, inputs: Iterable[Path], should_stop: ShouldStop) -> list[AssetRecord]:
    """Step 2: every asset of the recipe, each found or brought; what a person must fetch comes back as `missing` (see `require`)."""
    memo, name, records = Memo(run.cache / "hashes.json"), recipe_name(recipe), []
    recorded = {entry["name"]: entry for entry in read_json(run.assets) or []}
    for asset in recipe.assets(config):
        folder, wanted = run.data(name, asset.name), held(asset, recorded.get(asset.name))
        found = attached(run, name, wanted, inputs, memo)
        if not found:
            unpack(wanted, folder, inputs, memo, should_stop)
        records.append(replace(bring(wanted, folder, memo, should_stop, found), revision=asset.revision))
        if not records[-1].missing:
            remember(run, name, asset.name, records[-1].path)
            say_what_would_help(asset, records[-1].path)
    return records


def held(asset: Asset, entry: dict[str, Any] | None) -> Asset:
    """The asset at the commit that this run already has: a branch moves, and with it the base would change in silence."""
    same = entry and (entry["kind"], entry["source"], entry["revision"]) == ("hub", asset.source, asset.revision)
    return replace(asset, revision=entry["commit"]) if same and entry.get("commit") else asset


def unpack(asset: Asset, folder: Path, inputs: Iterable[Path], memo: Memo, should_stop: ShouldStop) -> None:
    """Archives that a person placed in the asset's folder or below the inputs become files in the folder, each once."""
    for file in archives.candidates(asset, folder, find.places(inputs)) if asset.archives else ():
        if not archives.is_unpacked(file, folder, memo):
            pause(should_stop, f"{asset.name}: before unpacking {file.name}")
            wanted = archives.contents(file, asset.files)
            check_space(asset, folder, sum(wanted.values()))
            print(f"{asset.name}: unpacking {len(wanted)} files of {file}", flush=True)
            archives.unpack(file, wanted, folder, memo)
    memo.save()


def say_what_would_help(asset: Asset, folder: Path) -> None:
    if names := archives.missing(asset, folder, required=False):
        print(f"{asset.name}: not here, and not needed: {', '.join(names)}", flush=True)


def places(run: Run, recipe: ModuleType, config: Any, inputs: Iterable[Path]) -> dict[str, Path]:
    """Later steps: where each asset of assets.json lies on this machine, checked. A moved run finds its inputs again by hash.

    Stop: an asset that step 2 recorded is gone or has changed. One that was not required and not there has no entry.
    """
    memo, name, found = Memo(run.cache / "hashes.json"), recipe_name(recipe), {}
    recorded = {entry["name"]: entry["files"] for entry in read_json(run.assets) or []}
    for asset in recipe.assets(config):
        if asset.name in recorded:
            found[asset.name] = place(run, name, asset, recorded[asset.name], inputs, memo)
    memo.save()
    return found


def place(run: Run, recipe: str, asset: Asset, files: dict[str, str], inputs: Iterable[Path], memo: Memo) -> Path:
    """The folder that holds exactly the recorded files; remembered when it had to be looked for."""
    known = recall(run, recipe, asset.name) or run.data(recipe, asset.name)
    faults = differing(known, files, memo)
    if not faults:
        return known
    for folder in find.folders_below(find.places(inputs)):
        if (folder / next(iter(files))).is_file() and not differing(folder, files, memo):
            remember(run, recipe, asset.name, folder)
            return folder
    raise Stop(f"{asset.name}: {len(faults)} files in {known} are gone or have changed: {', '.join(faults[:5])}", run.command(2, "--force"))


def differing(folder: Path, files: dict[str, str], memo: Memo) -> list[str]:
    """Which of the files are absent from a folder or have another hash; costs a `stat` each while nothing changes."""
    return [name for name, sha256 in files.items() if not (folder / name).is_file() or memo.sha256(folder / name) != sha256]


def bring(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop = lambda: False, found: Path | None = None) -> AssetRecord:
    """Makes an asset ready, or returns a record whose `missing` says what a person must do (see `require`).

    folder: data/<recipe>/<asset>, written only for the kinds "hub" and "made". found: where `find_asset` saw the asset,
    whole; it is used in place. should_stop is asked before every file; Paused when it says yes, and the next call goes on
    there. Stop: a file that is not what its hash says, no connection, no space.
    """
    try:
        return in_place(asset, found, memo, should_stop) if found else KINDS[asset.kind](asset, folder, memo, should_stop)
    finally:
        memo.save()


def require(records: Iterable[AssetRecord]) -> None:
    """One stop that names everything a person must fetch, with licence, page and target folder."""
    lacking = [made for made in records if made.missing]
    if lacking:
        said = "\n".join(f"  {made.name}: {made.how_to_get}{f' [{made.licence}]' if made.licence else ''}\n"
                         f"    put into {made.path}: {', '.join(made.missing)}" for made in lacking)  # fmt: skip
        raise Stop(f"{len(lacking)} assets are missing\n{said}", "python step2_download.py, once they are there (--demo: stand-in data)")


def to_json(made: AssetRecord) -> dict[str, Any]:
    """The record for assets.json; where the asset lies is left out, because only places.json holds machine paths."""
    kept = {key: value for key, value in asdict(made).items() if key not in ("path", "missing", "how_to_get")}
    return kept | {"fingerprint": made.fingerprint}


# ---------------------------------------------------------------------------------------------- the kinds


def from_folder(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """The user's own data, used where it is; without a path, what a person placed in the asset's folder."""
    if asset.source and not Path(asset.source).is_dir():
        raise Stop(f"{asset.name}: there is no folder {asset.source}", asset.how_to_get or "give the right folder")
    return in_place(asset, Path(asset.source) if asset.source else folder, memo, should_stop)


def from_person(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """A licensed asset: nothing is fetched; what a person placed is checked."""
    return in_place(asset, folder, memo, should_stop)


def from_repository(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    return in_place(asset, REPOSITORY / asset.source, memo, should_stop)


def in_place(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """Files that lie where they are: absent ones are named, one with another hash than the recipe's is refused."""
    missing = absent(asset, folder)
    if missing or not folder.is_dir():
        return lacking(asset, folder, missing or ("all of it",))
    made = record(asset, folder, memo, should_stop)
    if not made.files:
        raise Stop(f"{asset.name}: {folder} holds no files", "give the right folder")
    for name, sha256 in known_hashes(asset).items():
        if made.files[name] != sha256:
            cause = f"{folder / name} is not the file that {asset.name} needs: sha256 {made.files[name][:16]}…, wanted {sha256[:16]}…"
            raise Stop(cause, asset.how_to_get or "fetch it again")
    return made


def from_stand_in(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """Stand-in data: made once into a temporary folder and renamed; other parameters make it anew."""
    if complete(asset, folder, memo):
        return record(asset, folder, memo, should_stop)
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as temporary:
        asset.stand_in(temporary)
        write_sources(asset, temporary, {name: sha256_of(temporary / name) for name in listing(temporary, {})})
    return record(asset, folder, memo, should_stop)


def from_hub(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """One commit of a hub repository, file by file; what is there and has its hash is not fetched again."""
    if complete(asset, folder, memo):
        return record(asset, folder, memo, should_stop)
    pinned = replace(asset, revision=hub.commit(asset))
    wanted = hub.listing(pinned)
    absent = [entry for entry in wanted if not hub.is_whole(folder / entry.path, entry, asset, memo)]
    check_space(asset, folder, sum(entry.size for entry in absent))
    for leftover in (folder / ".cache" / "huggingface" / "download").rglob("*.incomplete"):
        leftover.unlink()  # of a killed process; the hub client never takes one up again
    for entry in absent:
        pause(should_stop, f"{asset.name}: before {entry.path}")
        hub.fetch(pinned, entry, folder, memo)
    write_sources(asset, folder, {entry.path: memo.sha256(folder / entry.path) for entry in wanted}, pinned.revision)
    return record(asset, folder, memo, should_stop)


KINDS = {"hub": from_hub, "folder": from_folder, "licensed": from_person, "shipped": from_repository, "made": from_stand_in}


# ---------------------------------------------------------------------------------------------- finding, remembering


def attached(run: Run, recipe: str, asset: Asset, inputs: Iterable[Path], memo: Memo) -> Path | None:
    """An input's folder that serves instead of fetching: the remembered one, else a search. None when the own folder is whole."""
    if asset.kind in ("made", "shipped") or asset.kind == "folder" and asset.source:
        return None
    for known in (run.data(recipe, asset.name), recall(run, recipe, asset.name)):
        if known and holds(asset, known, memo):
            return None if known == run.data(recipe, asset.name) else known
    return find_asset(asset, find.places(inputs), memo)


def find_asset(asset: Asset, places: Iterable[Path], memo: Memo) -> Path | None:
    """The folder below some places that holds an asset, whole, or None. Only what looks right by its names is hashed."""
    for folder in find.folders_below(places):
        if holds(asset, folder, memo):
            print(f"{asset.name}: found in {folder}", flush=True)
            return folder
    return None


def holds(asset: Asset, folder: Path, memo: Memo) -> bool:
    """Is this folder the asset? A hub asset by hash alone; what a person supplies by its names and the hashes that are known."""
    if asset.kind == "hub":
        return complete(asset, folder, memo)
    return bool(asset.files) and not absent(asset, folder) and not differing(folder, known_hashes(asset), memo)


def recall(run: Run, recipe: str, name: str) -> Path | None:
    """Where an earlier step found the asset outside data/, if that place is still there."""
    path = (read_json(run.places) or {}).get(f"{recipe}/{name}")
    return Path(path) if path and Path(path).is_dir() else None


def remember(run: Run, recipe: str, name: str, path: Path) -> None:
    """The asset's own folder is not written down, so that a copied root never points back at the original."""
    others = {key: value for key, value in (read_json(run.places) or {}).items() if key != f"{recipe}/{name}"}
    write_json(run.places, others if path == run.data(recipe, name) else others | {f"{recipe}/{name}": str(path.absolute())})


def recipe_name(recipe: ModuleType) -> str:
    return recipe.__name__.rpartition(".")[2]


# ---------------------------------------------------------------------------------------------- shared by the kinds


def complete(asset: Asset, folder: Path, memo: Memo) -> bool:
    """Is the folder this asset, whole? Without a connection, from its sources.json or the recipe's own hashes."""
    written = read_json(folder / SOURCES)
    if written and is_from(written, asset):
        return not differing(folder, written["files"] | known_hashes(asset), memo)
    return bool(asset.files) and known_hashes(asset) == asset.files and not differing(folder, asset.files, memo)


def is_from(written: dict[str, Any], asset: Asset) -> bool:
    """Does a sources.json name this asset? Its revision may be asked for as it was then (a branch) or by its commit."""
    asked = origin(asset)
    return all(written.get(key) == asked[key] or key == "revision" and written.get("commit") == asked[key] for key in asked)


def absent(asset: Asset, folder: Path) -> tuple[str, ...]:
    """What a person must still bring: the archives that are required, else the patterns that match nothing."""
    patterns = (pattern for pattern in asset.files if not matching(folder, pattern))
    return tuple(archives.missing(asset, folder) or patterns)


def known_hashes(asset: Asset) -> dict[str, str]:
    return {name: sha256 for name, sha256 in asset.files.items() if sha256}


def record(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """The record of a usable folder: what its sources.json lists, or what the recipe's patterns match."""
    written = read_json(folder / SOURCES)
    names = list(written["files"]) if written and asset.kind in ("hub", "made") else listing(folder, asset.files)
    hashes = {}
    for name in names:
        pause(should_stop, f"{asset.name}: before checking {name}")
        hashes[name] = memo.sha256(folder / name)
    source = asset.source if asset.kind != "folder" else ""  # a path of this machine
    commit = written.get("commit", "") if written and asset.kind == "hub" else ""
    return AssetRecord(asset.name, asset.kind, folder, source, asset.revision, commit, asset.licence, hashes)


def lacking(asset: Asset, folder: Path, missing: tuple[str, ...]) -> AssetRecord:
    return AssetRecord(asset.name, asset.kind, folder, asset.source, asset.revision, "", asset.licence, {}, missing, asset.how_to_get)


def listing(folder: Path, patterns: Iterable[str]) -> list[str]:
    """The relative paths of an asset's files, sorted; without patterns, all of them."""
    return sorted({name for pattern in patterns or ["**/*"] for name in matching(folder, pattern)})


def matching(folder: Path, pattern: str) -> list[str]:
    """What a relative path or glob finds in a folder; our own records and the hub client's notes are no part of an asset."""
    found = [folder / pattern] if not set(pattern) & set("*?[") else folder.glob(pattern)
    names = [file.relative_to(folder).as_posix() for file in found if file.is_file()]
    return [name for name in names if name != SOURCES and not name.startswith(".cache/")]


def origin(asset: Asset) -> dict[str, Any]:
    """What sources.json must say for a folder to be this asset."""
    return {"name": asset.name, "source": asset.source, "revision": asset.revision, "made_from": asset.made_from}


def write_sources(asset: Asset, folder: Path, hashes: dict[str, str], commit: str = "") -> None:
    write_json(folder / SOURCES, origin(asset) | {"commit": commit, "licence": asset.licence, "files": hashes})


def check_space(asset: Asset, folder: Path, needed_bytes: int) -> None:
    """Before anything is written: a full disk also truncates the notebook that is being saved."""
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes and free_bytes < needed_bytes + SPARE_BYTES:
        cause = f"{asset.name} needs {needed_bytes / 1e9:.2f} GB in {folder}, {free_bytes / 1e9:.2f} GB are free"
        raise Stop(cause, "free some space, or give a --root on another disk")


def pause(should_stop: ShouldStop, where: str) -> None:
    if should_stop():
        raise Paused(where)
