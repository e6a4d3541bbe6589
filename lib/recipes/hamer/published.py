"""Readers of published data: FreiHAND's official layout, HaMeR's evaluation files and its training tars."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer import pickles
from lib.recipes.hamer.config import DataConfig
from lib.recipes.hamer.crop import Labels, square
from lib.recipes.hamer.labelled import IMAGES, Hand, box_of, confident, group_of, load_json

FREIHAND_VERSIONS = 4  # of each picture: green screen and three other backgrounds, stored one after another
FREIHAND_BLOCK = 1000  # neighbouring pictures show one person; FreiHAND does not say whom
CONFIDENT, MIN_CONFIDENT_POINTS, MAX_REPROJECTION = 0.3, 5, 31000  # HaMeR's filters of training records
NO_PICKLE = (
    "where you trust the file, save it again without objects: "
    "python -c \"import numpy as n; d=n.load('F.npz',allow_pickle=True); "
    "n.savez('G.npz',**{k:n.array(d[k].tolist()) for k in d if k!='extra_info'})\""
)


# ---------------------------------------------------------------------------------------------- FreiHAND


def freihand(data: DataConfig, root: Path, hands_mean: np.ndarray) -> Iterator[Hand]:
    """The official layout; `hands_mean` (45,) rad is MANO's.

    Its evaluation set is a group of its own, and held out if no other group is named.
    """
    for part in ("training", "evaluation"):
        files = {name: root / f"{part}_{name}.json" for name in ("xyz", "K", "mano")}
        tables = {name: load_json(file) for name, file in files.items() if file.exists()}
        if part == "training" and ("xyz" not in tables or "K" not in tables):
            cause = f"{root} is not a FreiHAND folder: training_xyz.json or training_K.json is missing"
            raise Stop(cause, "set data.root to the unpacked FreiHAND_pub_v2")
        if "xyz" not in tables or "K" not in tables:
            continue
        count = len(tables["xyz"])
        for number in range(count * (FREIHAND_VERSIONS if part == "training" else 1)):
            path = root / part / "rgb" / f"{number:08d}.jpg"
            if path.exists() or number < count:
                yield freihand_hand(data, part, number, number % count, path, tables, hands_mean)


def freihand_hand(
    data: DataConfig, part: str, number: int, frame: int, path: Path, tables: dict[str, Any], hands_mean: np.ndarray
) -> Hand:
    joints, camera = np.array(tables["xyz"][frame]), np.array(tables["K"][frame])
    points = joints @ camera.T
    labels = Labels(confident(points[:, :2] / points[:, 2:]), confident(joints))
    if "mano" in tables:
        pose_shape = np.array(tables["mano"][frame], np.float32).ravel()
        labels.hand_pose = np.concatenate([pose_shape[:3], pose_shape[3:48] + hands_mean]).astype(np.float32)
        labels.betas, labels.has_pose, labels.has_betas = pose_shape[48:58], True, True
    name = f"{part}/{number:08d}"
    group = group_of(data, name, "evaluation" if part == "evaluation" else f"frames-{frame // FREIHAND_BLOCK:02d}")
    box = box_of(labels.keypoints_2d, data.box_factor)
    return Hand(name, group, path, f"{part}/rgb/{path.name}", True, *box, labels)


# ---------------------------------------------------------------------------------------------- HaMeR's evaluation


def evaluation(data: DataConfig, root: Path) -> Iterator[Hand]:
    """HaMeR's evaluation .npz beside its images: `root` is the file, or a folder with one .npz and `images/`."""
    files = [root] if root.is_file() else sorted(root.glob("*.npz"))
    if len(files) != 1:
        raise Stop(f"{root} holds {len(files)} .npz files instead of one", "set data.root to the .npz itself")
    base = files[0].parent / "images" if (files[0].parent / "images").is_dir() else files[0].parent
    columns = read_columns(files[0])
    for i, name in enumerate(columns["imgname"].astype(str)):
        cell = {key: column[i] for key, column in columns.items()}
        width_px, height_px = np.broadcast_to(cell["scale"], 2)  # px here; in the tars px / 200
        group = group_of(data, name, str(Path(name).parent))
        relative = (base / name).relative_to(files[0].parent)
        right, centre = bool(cell.get("right", 1)), np.asarray(cell["center"], float)
        side_px = square(width_px, height_px)
        yield Hand(f"{name}#{i}", group, base / name, str(relative), right, centre, side_px, labels_of(cell))


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file.

    Stop: a column of Python objects, which would need a pickle (`extra_info` is never read), or one that is missing.
    """
    columns: dict[str, np.ndarray] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as content:
            for name in content.files:
                if name != "extra_info":
                    columns[name] = content[name]
    except ValueError as error:
        cause = f"{path}: {name} is an array of Python objects, which only a pickle could give"
        raise Stop(cause, NO_PICKLE) from error
    missing = {"imgname", "center", "scale"} - set(columns)
    if missing:
        cause = f"{path} is not a HaMeR evaluation file: it lacks {', '.join(sorted(missing))}"
        raise Stop(cause, "set data.root to one")
    return columns


def labels_of(cell: dict[str, np.ndarray]) -> Labels:
    """One row of an evaluation file; what the file does not have is not annotated."""

    def array(key: str, *shape: int) -> np.ndarray:
        return np.asarray(cell[key], np.float32).reshape(shape) if key in cell else np.zeros(shape, np.float32)

    return Labels(
        keypoints_2d=array("hand_keypoints_2d", 21, 3),
        keypoints_3d=array("hand_keypoints_3d", 21, 4),
        hand_pose=array("hand_pose", 48),
        betas=array("betas", 10),
        has_pose="hand_pose" in cell and bool(cell.get("has_hand_pose", 1)),
        has_betas="betas" in cell and bool(cell.get("has_betas", 1)),
    )


# ---------------------------------------------------------------------------------------------- HaMeR's training tars


def tars(data: DataConfig, root: Path) -> Iterator[Hand]:
    """HaMeR's training tars, with HaMeR's own filters: KEY.jpg and KEY.data.pyd, a pickle of one dictionary per hand.

    Stop: a tar or a pickle that is damaged, and a pickle that could run code.
    """
    files = [root] if root.is_file() else sorted(root.rglob("*.tar"))
    if not files:
        raise Stop(f"there is no .tar below {root}", "set data.root to the folder with HaMeR's tars")
    for file in files:
        relative = file.name if root.is_file() else str(file.relative_to(root))
        for key, members in tar_samples(file).items():
            image = next((content for ending, content in members.items() if f".{ending}" in IMAGES), None)
            if image is None or "data.pyd" not in members:
                raise Stop(f"{file}: {key} has no image or no data.pyd", "fetch the tar again")
            for number, found in enumerate(pickles.read(io.BytesIO(members["data.pyd"]), f"{file}, {key}.data.pyd")):
                name = f"{relative}/{key}#{number}"
                group = group_of(data, name, str(Path(key).parent) if "/" in key else relative)
                yield tar_hand(name, group, image, f"{relative}!{key}", found)


def tar_samples(file: Path) -> dict[str, dict[str, bytes]]:
    """Key -> ending -> bytes. One tar (about 1000 pictures, 100 MB) is held at a time."""
    samples: dict[str, dict[str, bytes]] = {}
    member = None
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                key, _, ending = base.partition(".")
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and (ending == "data.pyd" or f".{ending}" in IMAGES):
                    samples.setdefault(f"{folder}/{key}".lstrip("/"), {})[ending] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        place = f" of {member.name}" if member else ""
        raise Stop(f"{file} ends in the middle{place} ({error})", "fetch the tar again") from error
    return samples


def tar_hand(name: str, group: str, image: bytes, source: str, found: dict[str, Any]) -> Hand:
    """HaMeR's filters, in its order: faint keypoints, impossible shapes, pose and shape together or neither.

    Hands that cannot be used lose their labels.
    """
    points = np.array(found["keypoints_2d"], np.float32)
    points[points[:, 2] < CONFIDENT, 2] = 0
    betas, pose = np.array(found["betas"], np.float32), np.array(found["hand_pose"], np.float32).ravel()
    both = bool(found["has_hand_pose"]) and bool(found["has_betas"]) and bool((np.abs(betas) <= 3).all())
    if (points[:, 2] > 0).sum() < MIN_CONFIDENT_POINTS or reprojection(found.get("extra_info")) >= MAX_REPROJECTION:
        points[:, 2], both = 0, False
    labels = Labels(points, np.array(found["keypoints_3d"], np.float32), pose, betas, both, both)
    side_px = float(np.max(found["scale"])) * 200  # no growth to the backbone's aspect here
    return Hand(name, group, image, source, bool(found["right"]), np.array(found["center"], float), side_px, labels)


def reprojection(extra: Any) -> float:
    """extra_info["fitting_loss"] is a 0-d object array around a dictionary with an optional "reprojection_loss"."""
    loss = (extra or {}).get("fitting_loss")
    loss = loss.item() if isinstance(loss, np.ndarray) and loss.shape == () else loss
    return float(loss.get("reprojection_loss") or 0) if isinstance(loss, dict) else 0.0
