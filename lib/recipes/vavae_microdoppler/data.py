"""A person's folders -> records, a split without leaks, and images at the network's size.

    <root>/<user>/**/*.jpg    any image type, any folder names; each folder directly below the root is one user (label)
    <root>/<user>/**/*.npy    raw complex echoes instead (data.kind=iq): cut into windows and turned into spectrograms

Windows cut from one recording look alike, so a recording is never on both sides. Recordings come from a CSV, else from
the file names; a user whose recordings are unknown is split into blocks in time (by file name) with a gap between them.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.errors import Stop
from lib.core.records import Record, Split
from lib.core.run import atomic, write_json
from lib.data.split import by_share, perceptual_hash
from lib.recipes.vavae_microdoppler.config import Config, DataConfig

if TYPE_CHECKING:
    from PIL import Image

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABELS = "labels.json"


def prepare(config: Config, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """Images as PNG of image_px x image_px in out/images, one record each; what is there already is not made again.

    Stop: no folder, no file, an unknown user, a CSV that does not name a file, spectrograms that would fold.
    """
    root = asset_dirs["data"]
    files = find_files(config.data, root)
    write_labels(sorted(files), out)
    listed = read_recordings(config.data, root)
    for user, paths in files.items():
        for path, group in zip(paths, groups_of(config.data, root, user, paths, listed), strict=True):
            yield from records_of(config, root, user, path, group, out)


def find_files(data: DataConfig, root: Path) -> dict[str, list[Path]]:
    """User -> files in order of their names (natural: 2 before 10). The order of folders is the order of the labels."""
    types = IMAGE_TYPES if data.kind == "images" else (".npy",)
    if not root.is_dir():
        raise Stop(f"there is no folder {root} (data.root)", "set data.root=FOLDER, one folder per user below it")
    shown = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    folders = sorted(shown, key=lambda p: natural(p.name))
    unknown = sorted(set(data.users) - {p.name for p in folders})
    if unknown:
        there = ", ".join(p.name for p in folders[:40])
        raise Stop(f"data.users names {unknown[0]}, which is not a folder in {root}; there are: {there}")
    found = {
        p.name: sorted((f for f in p.rglob("*") if f.suffix.lower() in types), key=natural_path)
        for p in folders
        if not data.users or p.name in data.users
    }
    empty = [user for user, files in found.items() if not files]
    if len(empty) == len(found):
        raise Stop(
            f"no file was found in {root}: looked for <user>/**/*{{{','.join(types)}}} in {len(found)} folders",
            "set data.root to the folder that holds the users' folders",
        )
    return {user: files for user, files in found.items() if files}


def natural(text: str) -> list[Any]:
    """A key for sorting: numbers inside names count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", text)]


def natural_path(path: Path) -> list[Any]:
    return natural(str(path))


def write_labels(users: list[str], out: Path) -> None:
    """labels.json: user -> label, in natural order; the null class of the DiT is not in it."""
    write_json(out / LABELS, {user: number for number, user in enumerate(sorted(users, key=natural))})


def read_labels(out: Path) -> dict[str, int]:
    """User -> label, from the cache of step 3."""
    return json.loads((out / LABELS).read_text(encoding="utf-8"))


def read_recordings(data: DataConfig, root: Path) -> dict[str, str]:
    """The CSV's file -> recording, by path relative to the root; empty without a CSV."""
    if not data.recordings_csv:
        return {}
    path = root / data.recordings_csv
    if not path.is_file():
        raise Stop(f"data.recordings_csv: there is no file {path}")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "recording"} <= rows[0].keys():
        raise Stop(f"{path} needs the columns file and recording")
    return {row["file"]: row["recording"] for row in rows}


def groups_of(data: DataConfig, root: Path, user: str, paths: list[Path], listed: dict[str, str]) -> list[str]:
    """One group per file: user/recording, or user/early, user/gap, user/late where recordings are unknown or one."""
    recordings = [recording_of(data, root, path, listed) for path in paths]
    if data.kind == "images" and (None in recordings or len(set(recordings)) < 2):
        return [f"{user}/{block}" for block in blocks(len(paths), data.val_share, data.gap_images)]
    return [f"{user}/{recording or path.stem}" for path, recording in zip(paths, recordings, strict=True)]


def recording_of(data: DataConfig, root: Path, path: Path, listed: dict[str, str]) -> str | None:
    if listed:
        name = path.relative_to(root).as_posix()
        if name not in listed:
            raise Stop(f"{data.recordings_csv} does not name {name}: every file needs its recording")
        return listed[name]
    match = re.search(data.recording_pattern, path.stem) if data.recording_pattern else None
    return match["recording"] if match else None


def blocks(count: int, val_share: float, gap: int) -> list[str]:
    """The last `val_share` of the images in time is held out, and `gap` images before it are left out."""
    late = max(1, round(count * val_share))
    gap = min(gap, max(0, count - late - 1))
    return ["early"] * (count - late - gap) + ["gap"] * gap + ["late"] * late


def records_of(config: Config, root: Path, user: str, path: Path, group: str, out: Path) -> Iterator[Record]:
    """The records of one file: one image, or the windows of one echo. An unreadable file is skipped with the reason."""
    content, name = path.read_bytes(), path.relative_to(root).as_posix()
    source, sha256 = f"asset:data/{name}", hashlib.sha256(content).hexdigest()
    try:
        images = [read_image(path)] if config.data.kind == "images" else spectrograms(config, path)
    except (OSError, ValueError, SyntaxError) as error:
        reason = "the file is empty" if not content else f"cannot be read: {error}"
        yield Record(sample_name(name, None), group, source, sha256, "skipped", reason[:200], columns={"user": user})
        return
    for number, (pixels, seen) in enumerate(images):
        sample_id = sample_name(name, number if config.data.kind == "iq" else None)
        columns = {"user": user, "label": read_labels(out)[user], **seen}
        picture_hash = keep(pixels, config.model.image_px, out, sample_id)
        yield Record(sample_id, group, source, sha256, perceptual_hash=picture_hash, columns=columns)


def sample_name(name: str, window: int | None) -> str:
    return name.rsplit(".", 1)[0] + ("" if window is None else f"#{window}")


def image_path(out: Path, sample_id: str) -> Path:
    return out / "images" / f"{sample_id.replace('#', '_window')}.png"


def read_image(path: Path) -> tuple["Image.Image", dict[str, Any]]:
    """(RGB picture, what it was). Grey, palette and alpha are converted, and counted through the columns.

    OSError, SyntaxError: not a picture, or a broken one.
    """
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB"), {"mode": image.mode, "width_px": image.width, "height_px": image.height}


def spectrograms(config: Config, path: Path) -> list[tuple["Image.Image", dict[str, Any]]]:
    """The windows of a raw echo (t,) complex, as data.* says: (RGB picture of image_px x image_px, what it was).

    ValueError: the file does not hold one row of finite complex numbers that is long enough. Stop: velocities fold.
    """
    import numpy as np
    from PIL import Image

    from lib.recipes.vavae_microdoppler import radar

    signal = np.load(path, allow_pickle=False)
    if signal.ndim != 1 or not np.iscomplexobj(signal):
        raise ValueError(f"shape {signal.shape} of {signal.dtype} is not one row of complex numbers")
    if not np.isfinite(signal).all():
        raise ValueError("it holds NaN or infinity")
    d = config.data
    how = radar.Spectrogram(
        d.prf_hz, d.wavelength_m, d.window_s, d.duration_s, d.low_m_s, d.high_m_s, d.range_db,
        config.model.image_px, colours=d.colours,
    )  # fmt: skip
    how.check()
    power = radar.power(signal, how)
    firsts = radar.windows(power.shape[1], how, d.stride_s)
    shares = [radar.levels(power[:, first : first + how.side_px], how.range_db) for first in firsts]
    seen = {"mode": "iq", "width_px": how.side_px, "height_px": how.side_px}
    return [(Image.fromarray(radar.colour(share, how.colours)), seen) for share in shares]


def keep(image: "Image.Image", side_px: int, out: Path, sample_id: str) -> str:
    """Writes the resized picture unless it is there; returns its perceptual hash (lib.data.split.perceptual_hash)."""
    import numpy as np
    from PIL import Image

    target = image_path(out, sample_id)
    if image.size != (side_px, side_px):
        image = image.resize((side_px, side_px), Image.Resampling.LANCZOS)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
    return perceptual_hash(np.asarray(image.convert("L")))


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Whole recordings of every user, in a seeded order, until they make val_share of that user's images.

    Stop: a user whose only recording would be on both sides.
    """
    held: list[str] = []
    for user in sorted({r.columns["user"] for r in records}, key=natural):
        mine = [r for r in records if r.columns["user"] == user and not r.group.endswith("/gap")]
        groups = {r.group for r in mine if r.status == "ok"}
        if groups == {f"{user}/early", f"{user}/late"}:
            held.append(f"{user}/late")
        elif len(groups) > 1:
            held += by_share(mine, "recording", config.data.val_share, config.train.seed).val_groups
        elif groups:
            raise Stop(
                f"user {user} has one recording only, which would be on both sides",
                "bring a second recording of this user, or name the others in data.users",
            )
    reason = "between the blocks of one user, where windows may overlap"
    gap = {r.sample_id: reason for r in records if r.group.endswith("/gap")}
    return Split("recording", tuple(held), gap)


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    """Counts that a person wants to see before hours of training: balance, sizes, what was converted."""
    usable = [r for r in records if r.status == "ok"]
    users = Counter(r.columns["user"] for r in usable)
    sizes = Counter(f"{r.columns['width_px']}x{r.columns['height_px']}" for r in usable)
    return {
        "users": len(users),
        "recordings": len({r.group for r in usable}),
        "images": len(usable),
        "train": sum(r.split == "train" for r in usable),
        "val": sum(r.split == "val" for r in usable),
        "fewest images of a user": min(users.values(), default=0),
        "most": max(users.values(), default=0),
        "converted to RGB": sum(r.columns["mode"] not in ("RGB", "iq") for r in usable),
        "sizes": dict(sizes.most_common(5)),
    }
