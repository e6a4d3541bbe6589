"""Is this folder the asset, whole? By the hashes of its files, never by where it lies or what it is called.

What the pipeline fetched or made itself has a `sources.json` with all hashes in its folder; it is written last, so a
folder without one is not complete. What the user brought is known by the names and the hashes that the recipe states.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.core.hashes import Memo
from lib.core.records import Asset
from lib.core.run import Damaged, read_record, write_record
from lib.data import archives

SOURCES = "sources.json"


def holds(asset: Asset, folder: Path, memo: Memo) -> bool:
    """Is this folder the asset? A hub asset by hash alone; what the user brings by its names and the known hashes."""
    if asset.kind == "hub":
        return complete(asset, folder, memo)
    return bool(asset.files) and not absent(asset, folder) and not differing(folder, known_hashes(asset), memo)


def complete(asset: Asset, folder: Path, memo: Memo) -> bool:
    """Is the folder this asset, whole? Without a connection, from its sources.json or the recipe's own hashes."""
    written = written_in(folder)
    if written and is_from(written, asset):
        return not differing(folder, written["files"] | known_hashes(asset), memo)
    return bool(asset.files) and known_hashes(asset) == asset.files and not differing(folder, asset.files, memo)


def written_in(folder: Path) -> dict[str, Any] | None:
    """The sources.json of a folder; None where there is none, or one that is damaged or not ours."""
    try:
        return read_record(folder / SOURCES)
    except (Damaged, OSError):
        return None


def is_from(written: dict[str, Any], asset: Asset) -> bool:
    """Does a sources.json name this asset? Its revision may be asked for as it was then (a branch) or by its commit."""
    asked = origin(asset)
    return all(
        written.get(key) == asked[key] or (key == "revision" and written.get("commit") == asked[key]) for key in asked
    )


def absent(asset: Asset, folder: Path) -> tuple[str, ...]:
    """What the user must still bring: the archives that are required, else the patterns that match nothing."""
    patterns = (pattern for pattern in asset.files if not matching(folder, pattern))
    return tuple(archives.missing(asset, folder) or patterns)


def differing(folder: Path, files: dict[str, str], memo: Memo) -> list[str]:
    """Which of the files are absent from a folder or have another hash; costs a `stat` each while nothing changes."""
    return [
        name for name, sha256 in files.items() if not (folder / name).is_file() or memo.sha256(folder / name) != sha256
    ]


def fingerprint(files: Mapping[str, str]) -> str:
    """What an asset holds, wherever it lies; files: relative path -> sha256."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def known_hashes(asset: Asset) -> dict[str, str]:
    return {name: sha256 for name, sha256 in asset.files.items() if sha256}


def listing(folder: Path, patterns: Iterable[str]) -> list[str]:
    """The relative paths of an asset's files, sorted; without patterns, all of them."""
    return sorted({name for pattern in patterns or ["**/*"] for name in matching(folder, pattern)})


def matching(folder: Path, pattern: str) -> list[str]:
    """What a relative path or glob finds in a folder, without our own records and the hub client's notes."""
    found = [folder / pattern] if not set(pattern) & set("*?[") else folder.glob(pattern)
    names = [file.relative_to(folder).as_posix() for file in found if file.is_file()]
    return [name for name in names if name != SOURCES and not name.startswith(".cache/")]


def origin(asset: Asset) -> dict[str, Any]:
    """What sources.json must say for a folder to be this asset."""
    return {"name": asset.name, "source": asset.source, "revision": asset.revision, "made_from": asset.made_from}


def write_sources(asset: Asset, folder: Path, hashes: dict[str, str], commit: str = "") -> None:
    write_record(folder / SOURCES, origin(asset) | {"commit": commit, "licence": asset.licence, "files": hashes})
