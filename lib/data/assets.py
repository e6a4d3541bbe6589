"""Assets: what step 2 brings, finds or asks for, one kind after another.

Every file of an asset is known by its sha256 (lib.core.hashes: checked on every run, computed when the file changed).
lib.data.recognise says whether a folder holds an asset, lib.data.places where it lies on this machine.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lib.core import code, steps
from lib.core.contract import Recipe
from lib.core.errors import FAILED, Paused, Stop
from lib.core.hashes import Memo, sha256_of
from lib.core.records import Asset
from lib.core.run import Run, atomic_folder
from lib.core.shared import alone_at
from lib.core.words import counted
from lib.data import archives, find, hub
from lib.data.places import attached, recorded, remember
from lib.data.recognise import absent, complete, fingerprint, is_from, known_hashes, listing, write_sources, written_in

SPARE_BYTES = 200 << 20  # left free on the disk after a download

ShouldStop = Callable[[], bool]  # asked before every file; True pauses the step


@dataclass(frozen=True)
class AssetRecord:
    """An asset on this machine. `files`: relative path -> sha256. `missing` is empty when the asset can be used."""

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
        return fingerprint(self.files)


def fetch_all(
    run: Run, recipe: Recipe, config: Any, inputs: Iterable[Path], should_stop: ShouldStop, afresh: bool = False
) -> list[AssetRecord]:
    """Step 2: every asset of the recipe, each found or brought; what the user must fetch comes back as `missing`.

    afresh: what is there is hashed again. Stop: a file that is not what its hash says, no connection, no space.
    Paused: should_stop() said so.
    """
    memo, name, records = Memo(run.cache / "hashes.json", afresh), recipe.name, []
    entries = recorded(run)
    for asset in recipe.assets(config):
        folder, wanted = run.data(name, asset.name), drawn_by(recipe, held(asset, entries.get(asset.name)))
        with alone_at(folder, partial(pause, should_stop, asset.name)):
            found = attached(run, name, wanted, inputs, memo)
            if not found:
                unpack(wanted, folder, inputs, memo, should_stop)
            records.append(replace(bring(wanted, folder, memo, should_stop, found), revision=asset.revision))
        if not records[-1].missing:
            remember(run, name, asset.name, records[-1].fingerprint, records[-1].path)
            say_what_would_help(asset, records[-1].path)
    return records


def held(asset: Asset, entry: dict[str, Any] | None) -> Asset:
    """The asset at the commit that this run already has: a branch moves, and the base would change silently with it."""
    if entry is None or not entry.get("commit"):
        return asset
    same = (entry["kind"], entry["source"], entry["revision"]) == ("hub", asset.source, asset.revision)
    return replace(asset, revision=entry["commit"]) if same else asset


def drawn_by(recipe: Recipe, asset: Asset) -> Asset:
    """Stand-in data belongs to the code that draws it, too: another line of it draws other data."""
    if asset.kind != "made":
        return asset
    behind = code.hashes(recipe, code.closure(recipe, recipe.modules("assets")))
    return replace(asset, made_from=f"{asset.made_from}, code {steps.digest(behind)}")


def unpack(asset: Asset, folder: Path, inputs: Iterable[Path], memo: Memo, should_stop: ShouldStop) -> None:
    """Archives that the user placed in the asset's folder or below the inputs become files in the folder, each once."""
    for file in archives.candidates(asset, folder, find.search_roots(inputs)) if asset.archives else ():
        if not archives.is_unpacked(file, folder, memo):
            pause(should_stop, f"{asset.name}: before unpacking {file.name}")
            wanted = archives.contents(file, asset.files)
            check_space(asset, folder, sum(wanted.values()))
            print(f"{asset.name}: unpacking {counted(len(wanted), 'file')} of {file}", flush=True)
            archives.unpack(file, wanted, folder, memo)
    memo.save()


def say_what_would_help(asset: Asset, folder: Path) -> None:
    if names := archives.missing(asset, folder, required=False):
        print(f"{asset.name}: absent, but not needed: {', '.join(names)}", flush=True)


def bring(
    asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop = lambda: False, found: Path | None = None
) -> AssetRecord:
    """Makes an asset ready, or returns a record whose `missing` says what the user must do (see `require`).

    folder: data/<recipe>/<asset>, written only for the kinds "hub" and "made". found: where lib.data.places saw the
    asset, whole; it is used in place. should_stop is asked before every file; Paused when it says yes, and the next
    call goes on there. Stop: a file that is not what its hash says, no connection, no space.
    """
    try:
        if found:
            return in_place(asset, found, memo, should_stop)
        return KINDS[asset.kind](asset, folder, memo, should_stop)
    finally:
        memo.save()


def require(records: Iterable[AssetRecord]) -> None:
    """One stop that names everything the user must fetch, with licence, page and target folder."""
    lacking = [made for made in records if made.missing]
    if lacking:
        said = "\n".join(f"  {made.name}: {made.how_to_get}{f' [{made.licence}]' if made.licence else ''}\n"
                         f"    put into {made.path}: {', '.join(made.missing)}" for made in lacking)  # fmt: skip
        raise Stop(
            f"{counted(len(lacking), 'asset')} missing\n{said}",
            "python step2_download.py, once everything is there (--demo: stand-in data)",
        )


def to_json(made: AssetRecord) -> dict[str, Any]:
    """The record for assets.json; where the asset lies is left out, because only places.json holds machine paths."""
    kept = {key: value for key, value in asdict(made).items() if key not in ("path", "missing", "how_to_get")}
    return kept | {"fingerprint": made.fingerprint}


# ---------------------------------------------------------------------------------------------- the kinds


def from_folder(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """The user's own data, used where it is; without a path, what the user placed in the asset's folder."""
    if asset.source and not Path(asset.source).is_dir():
        raise Stop(f"{asset.name}: there is no folder {asset.source}", asset.how_to_get or "give the right folder")
    return in_place(asset, Path(asset.source) if asset.source else folder, memo, should_stop)


def from_person(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """A licensed asset: nothing is fetched; what the user placed is checked."""
    return in_place(asset, folder, memo, should_stop)


def from_repository(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    return in_place(asset, code.REPOSITORY / asset.source, memo, should_stop)


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
            hashes = f"its sha256 is {made.files[name][:16]}…, not {sha256[:16]}…"
            cause = f"{folder / name} is not the file that {asset.name} needs: {hashes}"
            raise Stop(cause, asset.how_to_get or "fetch it again")
    return made


def from_stand_in(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """Stand-in data: made once in a temporary folder, then renamed; other parameters and other code make it again."""
    folder = stand_in_folder(asset, folder, memo)
    if complete(asset, folder, memo):
        return record(asset, folder, memo, should_stop)
    if asset.stand_in is None:
        raise Stop(f"the recipe gives no stand_in that could make the asset {asset.name}", code=FAILED)
    with atomic_folder(folder) as temporary:
        asset.stand_in(temporary)
        write_sources(asset, temporary, {name: sha256_of(temporary / name) for name in listing(temporary, {})})
    return record(asset, folder, memo, should_stop)


def stand_in_folder(asset: Asset, folder: Path, memo: Memo) -> Path:
    """The asset's own folder, or one beside it where that holds what another run made with other parameters."""
    beside = folder.with_name(f"{folder.name}-{hashlib.sha256(asset.made_from.encode()).hexdigest()[:8]}")
    if complete(asset, beside, memo):
        return beside
    written = written_in(folder)
    return beside if written and not is_from(written, asset) else folder


def from_hub(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """One commit of a hub repository, file by file; what is there and has its hash is not fetched again."""
    if complete(asset, folder, memo):
        return record(asset, folder, memo, should_stop)
    pinned = replace(asset, revision=hub.commit(asset))
    wanted = hub.listing(pinned)
    needed = [entry for entry in wanted if not hub.is_whole(folder / entry.path, entry, asset, memo)]
    check_space(asset, folder, sum(entry.size for entry in needed))
    for leftover in (folder / ".cache" / "huggingface" / "download").rglob("*.incomplete"):
        leftover.unlink()  # of a killed process; the hub client never takes one up again
    for entry in needed:
        pause(should_stop, f"{asset.name}: before {entry.path}")
        hub.fetch(pinned, entry, folder, memo)
    write_sources(asset, folder, {entry.path: memo.sha256(folder / entry.path) for entry in wanted}, pinned.revision)
    return record(asset, folder, memo, should_stop)


KINDS = {
    "hub": from_hub,
    "folder": from_folder,
    "licensed": from_person,
    "shipped": from_repository,
    "made": from_stand_in,
}


# ---------------------------------------------------------------------------------------------- shared by the kinds


def record(asset: Asset, folder: Path, memo: Memo, should_stop: ShouldStop) -> AssetRecord:
    """The record of a usable folder: what its sources.json lists, or what the recipe's patterns match."""
    written = written_in(folder)
    names = list(written["files"]) if written and asset.kind in ("hub", "made") else listing(folder, asset.files)
    hashes = {}
    for name in names:
        pause(should_stop, f"{asset.name}: before checking {name}")
        hashes[name] = memo.sha256(folder / name)
    source = asset.source if asset.kind != "folder" else ""  # a path of this machine
    commit = written.get("commit", "") if written and asset.kind == "hub" else ""
    return AssetRecord(asset.name, asset.kind, folder, source, asset.revision, commit, asset.licence, hashes)


def lacking(asset: Asset, folder: Path, missing: tuple[str, ...]) -> AssetRecord:
    return AssetRecord(
        asset.name, asset.kind, folder, asset.source, asset.revision, "", asset.licence, {}, missing, asset.how_to_get
    )


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
