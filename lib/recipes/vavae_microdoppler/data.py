"""A person's folders -> records, a split without leaks, and images at the network's size.

    <root>/<user>/**/*.jpg      any image type, any folder names; each folder directly below the root is one user (label)
    <root>/<user>/**/*.npy      raw complex echoes instead (data.kind=iq): cut into windows and turned into spectrograms

Windows cut from one recording look alike, so a recording is never on both sides. Recordings come from a CSV, else from the
file names; a user whose recordings are unknown is split into blocks in time (by file name) with a gap between them. There is
no augmentation on purpose: a flip reverses time or the sign of the Doppler shift.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.errors import Stop
from lib.recipes import Manifest, Record, Sampler, Split, Stage
from lib.recipes.vavae_microdoppler.config import Config, DataConfig

IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABELS = "labels.json"


def prepare(cfg: Config, places: dict[str, Path], out: Path) -> Iterator[Record]:
    """Images as PNG of image_px x image_px in out/images, one record each; what is there already is not made again."""
    root = places["data"]
    files = find_files(cfg.data, root)
    write_labels(sorted(files), out)
    listed = read_recordings(cfg.data, root)
    for user, paths in files.items():
        for path, group in zip(paths, groups_of(cfg.data, root, user, paths, listed), strict=True):
            yield from records_of(cfg, root, user, path, group, out)


def find_files(data: DataConfig, root: Path) -> dict[str, list[Path]]:
    """User -> files in order of their names (natural: 2 before 10). The order of folders is the order of the labels."""
    types = IMAGE_TYPES if data.kind == "images" else (".npy",)
    if not root.is_dir():
        raise Stop(f"there is no folder {root} (data.root)", "set data.root=FOLDER, one folder per user below it")
    folders = sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: natural(p.name))
    unknown = sorted(set(data.users) - {p.name for p in folders})
    if unknown:
        raise Stop(f"data.users names {unknown[0]}, which is no folder in {root}; there are: {', '.join(p.name for p in folders[:40])}")
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
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", text)]


def natural_path(path: Path) -> list[Any]:
    return natural(str(path))


def write_labels(users: list[str], out: Path) -> None:
    """labels.json: user -> label, in natural order; the null class of the DiT is not in it."""
    from lib.run import write_json

    write_json(out / LABELS, {user: number for number, user in enumerate(sorted(users, key=natural))})


def read_labels(out: Path) -> dict[str, int]:
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
    """One group per file: user/recording, or user/early, user/gap, user/late where recordings are unknown or there is only one."""
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


def records_of(cfg: Config, root: Path, user: str, path: Path, group: str, out: Path) -> Iterator[Record]:
    """The records of one file: one image, or the windows of one echo. A file that cannot be read is skipped with the reason."""
    content = path.read_bytes()
    name = path.relative_to(root).as_posix()
    common = {"group": group, "source": f"asset:data/{name}", "sha256": hashlib.sha256(content).hexdigest()}
    try:
        images = [read_image(path)] if cfg.data.kind == "images" else spectrograms(cfg, path)
    except (OSError, ValueError, SyntaxError) as error:
        reason = "the file is empty" if not content else f"cannot be read: {error}"
        yield Record(sample_id=sample_name(name, None), status="skipped", reason=reason[:200], columns={"user": user}, **common)
        return
    for number, (pixels, seen) in enumerate(images):
        window = number if cfg.data.kind == "iq" else None
        columns = {"user": user, "label": read_labels(out)[user], **seen}
        yield Record(
            sample_id=sample_name(name, window),
            look=keep(pixels, cfg.model.image_px, out, sample_name(name, window)),
            columns=columns,
            **common,
        )


def sample_name(name: str, window: int | None) -> str:
    return name.rsplit(".", 1)[0] + ("" if window is None else f"#{window}")


def image_path(out: Path, sample_id: str) -> Path:
    return out / "images" / f"{sample_id.replace('#', '_window')}.png"


def read_image(path: Path):
    """(RGB picture, what it was). Grey, palette and alpha are converted, and counted through the columns."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB"), {"mode": image.mode, "width_px": image.width, "height_px": image.height}


def spectrograms(cfg: Config, path: Path) -> list[tuple[Any, dict[str, Any]]]:
    """The windows of a raw echo (t,) complex, as data.* says."""
    import numpy as np
    from PIL import Image

    from lib.recipes.vavae_microdoppler import radar

    signal = np.load(path, allow_pickle=False)
    if signal.ndim != 1 or not np.iscomplexobj(signal):
        raise ValueError(f"shape {signal.shape} of {signal.dtype} is not one row of complex numbers")
    if not np.isfinite(signal).all():
        raise ValueError("it holds NaN or infinity")
    d = cfg.data
    how = radar.Spectrogram(
        d.prf_hz, d.wavelength_m, d.window_s, d.duration_s, d.low_m_s, d.high_m_s, d.range_db, cfg.model.image_px, colours=d.colours
    )
    how.check()
    power = radar.power(signal, how)
    firsts = radar.windows(power.shape[1], how, d.stride_s)
    images = [radar.colour(radar.levels(power[:, first : first + how.side_px], how.range_db), how.colours) for first in firsts]
    return [(Image.fromarray(image), {"mode": "iq", "width_px": how.side_px, "height_px": how.side_px}) for image in images]


def keep(image, side_px: int, out: Path, sample_id: str) -> str:
    """Writes the resized picture unless it is there; returns its look (lib.split.look)."""
    from PIL import Image

    from lib.run import atomic
    from lib.split import look

    target = image_path(out, sample_id)
    if image.size != (side_px, side_px):
        image = image.resize((side_px, side_px), Image.Resampling.LANCZOS)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as temporary:
            image.save(temporary, format="PNG", compress_level=1)
    return look(image.convert("L"))


def split(cfg: Config, records: list[Record], out: Path) -> Split:
    """Whole recordings of every user, in a seeded order, until they make val_share of that user's images."""
    from lib.split import by_share

    held, users = [], sorted({r.columns["user"] for r in records}, key=natural)
    for user in users:
        mine = [r for r in records if r.columns["user"] == user and not r.group.endswith("/gap")]
        groups = {r.group for r in mine if r.status == "ok"}
        if groups == {f"{user}/early", f"{user}/late"}:
            held.append(f"{user}/late")
        elif len(groups) > 1:
            held += by_share(mine, "recording", cfg.data.val_share, cfg.train.seed).val_groups
        elif groups:
            raise Stop(
                f"user {user} has one recording only, which would be on both sides",
                "bring a second recording of this user, or name the others in data.users",
            )
    gap = {r.sample_id: "between the blocks of one user, where windows may overlap" for r in records if r.group.endswith("/gap")}
    return Split("recording", tuple(held), gap)


def summarise_data(cfg: Config, records: list[Record]) -> dict[str, Any]:
    """Counts that a person wants to see before hours of training: balance, sizes, what was converted."""
    usable = [r for r in records if r.status == "ok"]
    users = Counter(r.columns["user"] for r in usable)
    sizes = Counter(f"{r.columns['width_px']}x{r.columns['height_px']}" for r in usable)
    return {
        "users": len(users), "recordings": len({r.group for r in usable}), "images": len(usable),
        "train": sum(r.split == "train" for r in usable), "val": sum(r.split == "val" for r in usable),
        "fewest images of a user": min(users.values(), default=0), "most": max(users.values(), default=0),
        "converted to RGB": sum(r.columns["mode"] not in ("RGB", "iq") for r in usable), "sizes": dict(sizes.most_common(5)),
    }  # fmt: skip


def sampler(cfg: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    """Single images; the key is not used, because nothing is augmented."""
    records = manifest.side("train" if side == "train" else "val")
    if side == "select" and len(records) > cfg.eval.select_samples:
        records = [records[i * len(records) // cfg.eval.select_samples] for i in range(cfg.eval.select_samples)]
    return Sampler(len(records), lambda index, key: sample(manifest.arrays, records[index]))


def sample(arrays: Path, record: Record) -> dict[str, Any]:
    """image (3, h, w) float32 in [-1, 1]."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(image_path(arrays, record.sample_id)), dtype=np.float32)
    image = (pixels / 127.5 - 1).transpose(2, 0, 1)
    return {
        "sample_id": record.sample_id,
        "group": record.group,
        "label": int(record.columns["label"]),
        "sha256": record.sha256,
        "image": image,
    }


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Arrays are stacked, numbers become a tensor, names stay a list; of the prefix, one unit is the image's feature."""
    import numpy as np
    import torch

    batch: dict[str, Any] = {}
    for name, first in samples[0].items():
        values = [s[name] for s in samples]
        if isinstance(first, np.ndarray):
            batch[name] = torch.from_numpy(np.stack(values))
        elif name == "prefix":
            batch["feature"] = torch.stack([value[0] for value in values])
        else:
            batch[name] = values if isinstance(first, str) else torch.tensor(values)
    return batch
