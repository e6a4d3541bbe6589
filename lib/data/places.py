"""Where assets lie on this machine: in data/, or in place below the inputs, found by what they hold.

places.json is the only file with paths of this machine. A run that was moved finds its inputs again by their hashes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lib.core import steps
from lib.core.contract import Recipe
from lib.core.errors import Stop
from lib.core.hashes import Memo, expect
from lib.core.records import Asset
from lib.core.run import Run, read_json, read_memo, write_record
from lib.core.shared import alone_at
from lib.core.words import counted
from lib.data import archives, find
from lib.data.recognise import differing, fingerprint, holds, listing

SYSTEMS = ("__macosx", "thumbs.db", "desktop.ini")


def asset_dirs(run: Run, recipe: Recipe, config: Any, inputs: Iterable[Path]) -> dict[str, Path]:
    """Later steps: where each asset of assets.json lies on this machine, checked by its hashes.

    Sizes and times are looked at here; the content of a weight file is compared when it is read (lib.core.hashes).

    Stop: an asset that step 2 recorded is gone or has changed. One that was not required and not there has no entry.
    """
    memo, name, found = Memo(run.cache / "hashes.json"), recipe.name, {}
    entries = recorded(run)
    for asset in recipe.assets(config):
        if asset.name in entries:
            files = entries[asset.name]["files"]
            found[asset.name] = locate_asset(run, name, asset, files, inputs, memo)
            expect(found[asset.name], files, run.command(2, "--force"))
    memo.save()
    return found


def newcomers(run: Run, recipe: Recipe, config: Any) -> str:
    """'data: 2 files came to FOLDER after step 2: a.png, b.png', or "". Of a person's own folders alone."""
    for asset, files, known in noted(run, recipe, config, ("folder",)):
        folder = known or Path(asset.source)
        new = [name for name in listing(folder, asset.files) if name not in files and not of_a_system(name)]
        if new:
            return f"{asset.name}: {counted(len(new), 'file')} came to {folder} after step 2: {', '.join(new[:5])}"
    return ""


def changed(run: Run, recipe: Recipe, config: Any) -> str:
    """'data: 1 file in FOLDER gone or changed since step 2: a.png', or what archives were placed since; "" of neither.

    A file is hashed where its time changed, and not where nobody has hashed it here.
    """
    memo = Memo(run.cache / "hashes.json")
    for asset, files, folder in noted(run, recipe, config, ("folder", "licensed")):
        if folder is None:
            continue
        if other := [name for name in files if memo.is_another(folder / name, files[name])]:
            said = f"{counted(len(other), 'file')} in {folder} gone or changed since step 2"
            return f"{asset.name}: {said}: {', '.join(other[:5])}"
        if later := placed_later(asset, folder) if folder == run.data(recipe.name, asset.name) else "":
            return f"{asset.name}: {later}"
    return ""


def noted(
    run: Run, recipe: Recipe, config: Any, kinds: tuple[str, ...]
) -> Iterator[tuple[Asset, dict[str, str], Path | None]]:
    """Assets of some kinds that step 2 noted: their files with hashes, and the first known folder that is there."""
    entries = recorded(run)
    for asset in recipe.assets(config):
        if asset.kind in kinds and asset.name in entries:
            files = entries[asset.name]["files"]
            known = run.known_places(recipe.name, asset.name, fingerprint(files))
            yield asset, files, next((folder for folder in known if folder.is_dir()), None)


def placed_later(asset: Asset, folder: Path) -> str:
    new = [file.name for file in archives.candidates(asset, folder, ()) if not archives.was_seen(file, folder)]
    return f"{', '.join(new)} in {folder} came after step 2" if new else ""


def of_a_system(name: str) -> bool:
    """What Mac and Windows leave in folders that somebody looked at."""
    return any(part.startswith(".") or part.lower() in SYSTEMS for part in name.split("/"))


def refuse_newcomers(run: Run, recipe: Recipe, config: Any) -> None:
    """Stop: step 3 would take files whose content nobody noted, and never notice that they change."""
    if new := newcomers(run, recipe, config):
        raise Stop(new, run.command(2, "--force"))


def recorded(run: Run) -> dict[str, dict[str, Any]]:
    """The entries of assets.json by asset; {} where there is none, or where it is not what step 2 wrote."""
    stamp, _ = steps.stamp_of(run, 2)
    written = stamp["hashes"].get(run.assets.name) if stamp else None
    if written and written != steps.file_hash(run.assets):
        return {}
    try:
        return {entry["name"]: entry for entry in read_json(run.assets) or []}
    except (ValueError, RecursionError, TypeError, KeyError):  # no stamp tells that it is damaged
        return {}


def locate_asset(
    run: Run, recipe: str, asset: Asset, files: dict[str, str], inputs: Iterable[Path], memo: Memo
) -> Path:
    """The folder that holds exactly the recorded files; remembered when it had to be looked for."""
    content = fingerprint(files)
    faults: dict[Path, list[str]] = {}
    for folder in run.known_places(recipe, asset.name, content):
        if not (differing_here := differing(folder, files, memo)):
            return folder
        faults[folder] = differing_here
    for folder in find.folders_below(find.search_roots(inputs)):
        if (folder / next(iter(files))).is_file() and not differing(folder, files, memo):
            remember(run, recipe, asset.name, content, folder)
            return folder
    nearest = min(faults, key=lambda folder: len(faults[folder]))  # another run's may lie in the others
    gone = f"{counted(len(faults[nearest]), 'file')} gone or changed in {nearest}: {', '.join(faults[nearest][:5])}"
    raise Stop(f"{asset.name}: {gone}", run.command(2, "--force"))


def attached(run: Run, recipe: str, asset: Asset, inputs: Iterable[Path], memo: Memo) -> Path | None:
    """An input's folder that saves the fetching: the remembered one, else one that a search finds.

    None where the asset's own folder below data/ is whole, or where nothing was found.
    """
    if asset.kind in ("made", "shipped") or (asset.kind == "folder" and asset.source):
        return None
    own = run.data(recipe, asset.name)
    for known in (own, *run.known_places(recipe, asset.name)):
        if holds(asset, known, memo):
            return None if known == own else known
    return find_asset(asset, find.search_roots(inputs), memo)


def find_asset(asset: Asset, search_roots: Iterable[Path], memo: Memo) -> Path | None:
    """The folder below some search roots that holds an asset, whole, or None.

    Only files whose names look right are hashed.
    """
    for folder in find.folders_below(search_roots):
        if holds(asset, folder, memo):
            print(f"{asset.name}: found in {folder}", flush=True)
            return folder
    return None


def remember(run: Run, recipe: str, name: str, content: str, path: Path) -> None:
    """Notes where an asset of this content lies: two runs may have different data under one name.

    The asset's own folder is not written down, so that a copied root never points back at the original.
    """
    if path != run.data(recipe, name):
        with alone_at(run.places):
            key = run.place_key(recipe, name, content)
            write_record(run.places, read_memo(run.places) | {key: str(path.absolute())})
