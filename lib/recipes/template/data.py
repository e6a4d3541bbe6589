"""Step 3: files -> records with arrays, the split, and what the user should see of the data before training.

CHANGE: how your files are read, what makes one unusable, and what a group is. A group (here: a camera) is what the
model will meet when it is used; nothing of a held-out group is trained on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.hashes import sha256_of
from lib.core.records import Record, Split
from lib.core.run import atomic
from lib.data import pictures
from lib.data.pictures import Unreadable
from lib.data.split import by_share, perceptual_hash

from .config import Config


def prepare(config: Config, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
    """A record for every picture, one by one: step 3 may pause after any of them.

    An array that lies in `out` already was made before the pause.
    """
    root = asset_dirs["pictures"]
    for file in sorted(root.glob("*/noisy/*.png")):
        camera = file.parent.parent.name
        record = Record(
            sample_id=f"{camera}-{file.stem}",
            group=camera,
            source=f"asset:pictures/{file.relative_to(root).as_posix()}",
            sha256=sha256_of(file),
        )
        fill(config, record, file, out / f"{record.sample_id}.npy")
        yield record


def fill(config: Config, record: Record, file: Path, array: Path) -> None:
    """Writes the pair (2, side_px, side_px) uint8, noisy and clean, or says in the record why it is skipped."""
    try:
        noisy, clean = read_grey(file), read_grey(file.parent.with_name("clean") / file.name)
    except Unreadable as error:
        record.status, record.reason = "skipped", f"the noisy or the clean picture cannot be used: {error}"
        return
    if {noisy.shape, clean.shape} != {(config.data.side_px, config.data.side_px)}:
        record.status, record.reason = "skipped", f"not {config.data.side_px} px square"
        return
    if not array.exists():
        with atomic(array) as temporary, open(temporary, "wb") as stream:
            np.save(stream, np.stack([noisy, clean]))
    record.perceptual_hash = perceptual_hash(noisy)  # finds near-duplicates on both sides of the split
    record.columns["noise"] = round(float(np.abs(noisy - clean.astype(float)).mean()), 2)


def read_grey(file: Path) -> np.ndarray:
    """(h, w) uint8. Training and prediction read through the same function, or the network sees two versions of a file.

    Unreadable: the file is missing, damaged, or no picture.
    """
    return np.asarray(pictures.read(file, upright=True).convert("L"))


def split(config: Config, records: list[Record], out: Path) -> Split:
    """Which groups are held out for the test. lib.data.split takes some of the others to choose the checkpoint, and
    proves that no two sides share anything.
    """
    return by_share(records, "camera", config.data.val_share, config.train.seed)


def summarise_data(config: Config, records: list[Record]) -> dict[str, Any]:
    """Step 3 prints it. An odd number here is the cheapest place to find a mistake."""
    usable = [record for record in records if record.status == "ok"]
    noise = sum(record.columns["noise"] for record in usable) / max(1, len(usable))
    return {"pictures": len(usable), "noise in grey levels, mean": f"{noise:.1f}"}
