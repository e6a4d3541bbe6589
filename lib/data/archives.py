"""Archives (.7z, .zip) that the user fetched, unpacked into an asset's folder: once, whole or not at all.

An archive comes from somebody else: names that lead out of the folder, links and doubled names are refused before a
byte is written. The caller compares the declared sizes with the free space, this module with the real sizes.
`unpacked.json` in the folder says what came from which archive; it is written last, so an interrupted unpacking is done
again.
"""

import contextlib
import errno
import filecmp
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lib.core.errors import Stop
from lib.core.hashes import Memo
from lib.core.records import Archive, Asset
from lib.core.run import read_memo, write_record
from lib.data import find

SUFFIXES = (".7z", ".zip")
UNPACKED = "unpacked.json"


def candidates(asset: Asset, folder: Path, search_roots: Iterable[Path]) -> list[Path]:
    """Archives to unpack: every one in the asset's own folder; below the search roots those that the asset names."""
    known = {name for archive in asset.archives for name in (archive.name, archive.within)}
    names = {Path(name).with_suffix(suffix).name for name in known if name for suffix in SUFFIXES}
    own = [file for file in sorted(folder.glob("*")) if file.suffix in SUFFIXES and file.is_file()]
    beside = [
        below / name for below in find.folders_below(search_roots) for name in sorted(names) if (below / name).is_file()
    ]
    chosen: dict[str, Path] = {}
    for file in [*own, *beside]:
        chosen.setdefault(file.name, file)  # of several with one name the first one counts
    return list(chosen.values())


def missing(asset: Asset, folder: Path, required: bool = True) -> list[str]:
    """The asset's archives whose files are not all in the folder, in words (see `label`)."""
    wanted = [archive for archive in asset.archives if archive.required == required]
    return [label(archive) for archive in wanted if not all(any(folder.glob(one)) for one in archive.brings)]


def label(archive: Archive) -> str:
    """'facade.7z (4100 MB) or all.7z': its name, its size where that is known, and what also holds its files."""
    size = f" ({archive.size_bytes / 1e6:.0f} MB)" if archive.size_bytes else ""
    return archive.name + size + (f" or {archive.within}" if archive.within else "")


def is_unpacked(file: Path, folder: Path, memo: Memo) -> bool:
    """Did this very archive give the files that lie in the folder? Their sizes are looked at, not their content."""
    entry = read_memo(folder / UNPACKED).get(file.name)
    if not entry or entry["sha256"] != memo.sha256(file):
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in entry["files"].items()
    )


def was_seen(file: Path, folder: Path) -> bool:
    """Did an archive of this name give files that lie in the folder?"""
    return file.name in read_memo(folder / UNPACKED)


def contents(file: Path, patterns: Iterable[str]) -> dict[str, int]:
    """Relative path -> size in bytes of the archive's files that the patterns want (by the text before their first *).

    Some programs write ./ before every name, and an entry for the folder itself: paths come without. Stop: the archive
    cannot be read, or any entry of it could be written elsewhere.
    """
    with opened(file) as archive:
        found = entries_of_zip(archive) if isinstance(archive, zipfile.ZipFile) else entries_of_7z(archive)
        entries = list(found)
    prefixes = tuple(pattern.partition("*")[0] for pattern in patterns)
    wanted: dict[str, int] = {}
    for written, size, kind in entries:
        name = plain(written)
        if reason := unsafe(written, kind, name in wanted):
            raise Stop(
                f"{file} is refused: its entry {written!r} {reason}", "fetch the archive again from its official page"
            )
        if kind == "file" and name.startswith(prefixes):
            wanted[name] = size
    return wanted


def entries_of_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, int, str]]:
    for entry in archive.infolist():
        linked = stat.S_ISLNK(entry.external_attr >> 16)
        yield entry.filename.rstrip("/"), entry.file_size, "link" if linked else "folder" if entry.is_dir() else "file"


def entries_of_7z(archive: Any) -> Iterator[tuple[str, int, str]]:
    for entry in archive.files:
        special = entry.is_symlink or entry.is_junction or entry.is_socket
        yield entry.filename, entry.uncompressed, "link" if special else "folder" if entry.is_directory else "file"


def plain(name: str) -> str:
    """An entry's name without ./ before it or within."""
    return PurePosixPath(name).as_posix()


def unsafe(name: str, kind: str, is_there: bool) -> str:
    """Why an entry must not be unpacked; "" if it may. is_there: another one had its name."""
    path = PurePosixPath(name)
    colon = any(":" in part for part in path.parts[:1])
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or colon or "\0" in name:
        return "leads out of the folder"
    if kind == "link":
        return "is a link"
    return "comes twice" if is_there else ""


def unpack(file: Path, wanted: dict[str, int], folder: Path, memo: Memo) -> None:
    """Puts the wanted files (see `contents`) into the folder and notes them in unpacked.json.

    Stop: the archive is corrupt, a file is not as long as declared, or the folder has another file of that name.
    """
    temporary = folder / f".{file.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        extract(file, wanted, temporary)
        for name, size in wanted.items():
            check(file, temporary / name, size, folder / name)
        for name in wanted:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary)
    others = read_memo(folder / UNPACKED)
    write_record(folder / UNPACKED, others | {file.name: {"sha256": memo.sha256(file), "files": wanted}})


def extract(file: Path, wanted: Collection[str], folder: Path) -> None:
    with opened(file) as archive:
        if isinstance(archive, zipfile.ZipFile):
            archive.extractall(folder, [name for name in archive.namelist() if plain(name) in wanted])
        else:
            archive.extract(folder, targets={name for name in archive.getnames() if plain(name) in wanted})


def check(file: Path, made: Path, size: int, target: Path) -> None:
    real = made.stat().st_size if made.is_file() else 0
    if real != size:
        raise Stop(
            f"{file} is corrupt: {target.name} has {real} bytes, the archive declares {size}", "fetch the archive again"
        )
    made.chmod(0o644)  # an archive may hold files that nobody may read
    if target.exists() and not filecmp.cmp(made, target, shallow=False):
        raise Stop(
            f"{file} holds another {target.name} than {target.parent}", "remove the archive or the file that is wrong"
        )


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The archive for reading; whatever a reader says of a damaged one becomes a Stop that names it."""
    import py7zr
    from py7zr.exceptions import ArchiveError, PasswordRequired

    # What zipfile, py7zr and the decompressors raise on damaged bytes, found by flipping each byte of small archives.
    damaged = (
        zipfile.BadZipFile,
        ArchiveError,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        RuntimeError,
        AssertionError,
        AttributeError,
    )
    try:
        with zipfile.ZipFile(file) if file.suffix == ".zip" else py7zr.SevenZipFile(file) as archive:
            yield archive
    except PasswordRequired as error:
        raise Stop(f"{file} is encrypted", "unpack it yourself, into the folder that it lies in") from error
    except damaged as error:
        raise Stop(f"{file} is corrupt: {error or type(error).__name__}", "fetch the archive again") from error
    except OSError as error:
        if error.errno not in (errno.EINVAL, None):  # a seek to a place before the file's begin; bz2's own words
            raise
        why = "it points outside of itself" if error.errno else str(error)
        raise Stop(f"{file} is corrupt: {why}", "fetch the archive again") from error
