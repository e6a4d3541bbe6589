"""Where assets lie on this machine: in data/, or in place below the inputs, found by what they hold.

places.json is the only file with paths of this machine. A run that was moved finds its inputs again by their hashes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib.core import steps
from lib.core.contract import Recipe
from lib.core.errors import Stop
from lib.core.hashes import Memo
from lib.core.records import Asset
from lib.core.run import Run, read_json, read_memo, write_record
from lib.core.words import counted
from lib.data import find
from lib.data.recognise import differing, holds


def asset_dirs(run: Run, recipe: Recipe, config: Any, inputs: Iterable[Path]) -> dict[str, Path]:
    """Later steps: where each asset of assets.json lies on this machine, checked by its hashes.

    Stop: an asset that step 2 recorded is gone or has changed. One that was not required and not there has no entry.
    """
    memo, name, found = Memo(run.cache / "hashes.json"), recipe.name, {}
    entries = recorded(run)
    for asset in recipe.assets(config):
        if asset.name in entries:
            found[asset.name] = locate_asset(run, name, asset, entries[asset.name]["files"], inputs, memo)
    memo.save()
    return found


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
    known = recall(run, recipe, asset.name) or run.data(recipe, asset.name)
    faults = differing(known, files, memo)
    if not faults:
        return known
    for folder in find.folders_below(find.search_roots(inputs)):
        if (folder / next(iter(files))).is_file() and not differing(folder, files, memo):
            remember(run, recipe, asset.name, folder)
            return folder
    raise Stop(
        f"{asset.name}: {counted(len(faults), 'file')} gone or changed in {known}: {', '.join(faults[:5])}",
        run.command(2, "--force"),
    )


def attached(run: Run, recipe: str, asset: Asset, inputs: Iterable[Path], memo: Memo) -> Path | None:
    """An input's folder that saves the fetching: the remembered one, else one that a search finds.

    None where the asset's own folder below data/ is whole, or where nothing was found.
    """
    if asset.kind in ("made", "shipped") or (asset.kind == "folder" and asset.source):
        return None
    for known in (run.data(recipe, asset.name), recall(run, recipe, asset.name)):
        if known and holds(asset, known, memo):
            return None if known == run.data(recipe, asset.name) else known
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


def recall(run: Run, recipe: str, name: str) -> Path | None:
    """Where an earlier step found the asset outside data/, if that place is still there."""
    path = read_memo(run.places).get(f"{recipe}/{name}")
    return Path(path) if path and Path(path).is_dir() else None


def remember(run: Run, recipe: str, name: str, path: Path) -> None:
    """The asset's own folder is not written down, so that a copied root never points back at the original."""
    key = f"{recipe}/{name}"
    known = {other: place for other, place in read_memo(run.places).items() if other != key}
    write_record(run.places, known if path == run.data(recipe, name) else known | {key: str(path.absolute())})
