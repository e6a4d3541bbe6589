"""HaMeR's training tars: KEY.jpg and KEY.data.pyd, a pickle of one dictionary for each hand in the picture."""

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.data.pictures import PHOTOS
from lib.recipes.hamer import pickles
from lib.recipes.hamer.conventions import BadLabel, certain, weighted
from lib.recipes.hamer.crop import Labels
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.labelled import MOST_BYTES, Hand, attempt, flag, group_of, is_name, table

CONFIDENT, MIN_CONFIDENT_POINTS, MAX_REPROJECTION = 0.3, 5, 31000  # HaMeR's filters of training records


def tars(data: DataConfig, root: Path) -> Iterator[Hand]:
    """The hands of every tar, with HaMeR's own filters.

    Stop: a tar or a pickle that is damaged, and a pickle that could run code.
    """
    files = [root] if root.is_file() else sorted(root.rglob("*.tar"))
    if not files:
        raise Stop(f"there is no .tar below {root}", "set data.root to the folder with HaMeR's tars")
    for file in files:
        relative = file.name if root.is_file() else str(file.relative_to(root))
        for key, members in tar_samples(file).items():
            yield from tar_hands(data, file, relative, key, members)


def tar_hands(data: DataConfig, file: Path, relative: str, key: str, members: dict[str, bytes]) -> Iterator[Hand]:
    """The hands of one picture; one that says why where the picture or its labels are missing."""
    group = str(Path(key).parent) if "/" in key else relative
    image = next((content for ending, content in members.items() if f".{ending}" in PHOTOS), b"")
    found: Any = [None]
    if "data.pyd" in members:
        found = pickles.read(io.BytesIO(members["data.pyd"]), f"{file}, {key}.data.pyd")
    if not isinstance(found, list | tuple):
        found = [found]
    for number, each in enumerate(found):
        name = f"{relative}/{key}#{number}"

        def fill(hand: Hand, each: Any = each) -> None:
            if not image or each is None:
                raise BadLabel(f"the tar holds no {'picture' if not image else 'data.pyd'} for it")
            if not isinstance(each, dict):
                raise BadLabel("its labels in data.pyd are not a dictionary")
            tar_hand(hand, each, data.confidence)

        yield attempt(name, group_of(data, name, group), image, f"{relative}!{key}", fill)


def tar_samples(file: Path) -> dict[str, dict[str, bytes]]:
    """Key -> ending -> bytes. One tar (about 1000 pictures, 100 MB) is held at a time."""
    samples: dict[str, dict[str, bytes]] = {}
    member, total = None, 0
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                key, _, ending = base.partition(".")
                wanted = member.isfile() and (ending == "data.pyd" or f".{ending}" in PHOTOS) and is_name(member.name)
                content = archive.extractfile(member) if wanted else None
                total += member.size if content is not None else 0
                if total > MOST_BYTES:
                    raise Stop(
                        f"{file} holds more than {MOST_BYTES // 10**9} GB", "split it into tars of 1000 pictures"
                    )
                if content is not None:
                    samples.setdefault(f"{folder}/{key}".lstrip("/"), {})[ending] = content.read()
    except (tarfile.TarError, EOFError, OSError, ValueError, MemoryError, zlib.error, lzma.LZMAError) as error:
        place = f" of {member.name}" if member else ""
        raise Stop(f"{file} ends in the middle{place} ({error})", "fetch the tar again") from error
    return samples


def tar_hand(hand: Hand, found: dict[str, Any], confidence: str) -> None:
    """HaMeR's filters, in its order: faint keypoints, impossible shapes, pose and shape together or neither.

    Hands that cannot be used lose their labels.
    """
    asked = confidence if confidence != "auto" else "unit"  # HaMeR's own scale
    flat, solid = (
        table(found["keypoints_2d"], "keypoints_2d", (21, 3)),
        table(found["keypoints_3d"], "keypoints_3d", (21, 4)),
    )
    try:
        points, joints = (weighted(each, certain(each[:, -1], asked, hand.name)) for each in (flat, solid))
    except Stop as error:  # of one hand among many
        raise BadLabel(error.cause) from error
    points[points[:, 2] < CONFIDENT, 2] = 0
    betas, pose = table(found["betas"], "betas", (10,), (1, 10)).ravel(), table(found["hand_pose"], "hand_pose").ravel()
    both = flag(found, "has_hand_pose") and flag(found, "has_betas") and bool((np.abs(betas) <= 3).all())
    if (points[:, 2] > 0).sum() < MIN_CONFIDENT_POINTS or reprojection(found.get("extra_info")) >= MAX_REPROJECTION:
        points[:, 2], both = 0, False
    hand.right, hand.centre = flag(found, "right"), table(found["center"], "center", (2,)).astype(float)
    hand.side_px = float(table(found["scale"], "scale").max()) * 200  # no growth to the backbone's aspect here
    hand.given = Labels(points, joints, pose, betas, both, both)


def reprojection(extra: Any) -> float:
    """extra_info["fitting_loss"] is a 0-d object array around a dictionary with an optional "reprojection_loss"."""
    loss = (extra or {}).get("fitting_loss")
    loss = loss.item() if isinstance(loss, np.ndarray) and loss.shape == () else loss
    return float(loss.get("reprojection_loss") or 0) if isinstance(loss, dict) else 0.0
