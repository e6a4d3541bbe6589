"""Readers of labelled hands: FreiHAND's official layout, HaMeR's evaluation files and training tars, plain folders.

Each yields `Hand`s in a fixed order. Conventions meet here and nowhere else: keypoints in pixels of the whole image, OpenPose
order; metres in camera axes (x right, y down, z forward); poses relative to the flat hand; boxes as centre and side of a square.
"""
import csv
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from lib.errors import Stop
from lib.recipes.hamer import pickles
from lib.recipes.hamer.config import DataConfig
from lib.recipes.hamer.crop import Labels, square

FREIHAND_VERSIONS = 4  # of each picture: green screen and three other backgrounds, stored one after another
FREIHAND_BLOCK = 1000  # neighbouring pictures show one person; FreiHAND does not say whom
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LABEL_FILES = ("hands.json", "hands.csv")
CONFIDENT, MIN_CONFIDENT_POINTS, MAX_REPROJECTION = 0.3, 5, 31000  # HaMeR's filters of training records
LABELS = (("hand_keypoints_2d", (21, 3)), ("hand_keypoints_3d", (21, 4)), ("hand_pose", (48,)), ("betas", (10,)))  # of its evaluation files
NO_PICKLE = (
    "where you trust the file, save it again without objects: "
    "python -c \"import numpy as n; d=n.load('F.npz',allow_pickle=True); "
    "n.savez('G.npz',**{k:n.array(d[k].tolist()) for k in d if k!='extra_info'})\""
)


@dataclass
class Hand:
    name: str  # unique in the data set
    group: str  # subject or sequence
    image: Path | bytes
    source: str  # path below the root
    right: bool
    centre: numpy.ndarray  # (2,) px
    side_px: float  # of the square crop
    labels: Labels


def hands(data: DataConfig, root: Path, hands_mean: numpy.ndarray) -> Iterator[Hand]:
    """Every hand below `root` in the format `data.format`; `hands_mean` (45,) is MANO's, which FreiHAND's poses leave out."""
    if not root.exists():
        raise Stop(f"the data folder {root} does not exist", "set data.root to your data")
    reader = {"made": evaluation, "hamer_npz": evaluation, "hamer_tar": tars, "folder": folder}.get(data.format)
    found = freihand(data, root, hands_mean) if reader is None else reader(data, root)
    seen = set()
    for hand in found:
        if hand.name in seen:
            raise Stop(f"two hands are called {hand.name}", "rename one of them")
        seen.add(hand.name)
        yield hand


def group_of(data: DataConfig, name: str, otherwise: str) -> str:
    """`data.group_pattern` names the subject or sequence; a name that it does not match is refused, not guessed."""
    if not data.group_pattern:
        return otherwise
    match = re.search(data.group_pattern, name)
    if not match or not match.groups():
        cause = f"data.group_pattern={data.group_pattern!r} finds no group in {name!r}"
        raise Stop(cause, "correct the pattern: its first parentheses are the group")
    return match.group(1)


# ---------------------------------------------------------------------------------------------- FreiHAND


def freihand(data: DataConfig, root: Path, hands_mean: numpy.ndarray) -> Iterator[Hand]:
    """The official layout. Its evaluation set is a group of its own, and held out if no other group is named."""
    for part in ("training", "evaluation"):
        tables = {name: load_json(root / f"{part}_{name}.json") for name in ("xyz", "K", "mano") if (root / f"{part}_{name}.json").exists()}
        if part == "training" and ("xyz" not in tables or "K" not in tables):
            cause = f"{root} is no FreiHAND folder: training_xyz.json or training_K.json is missing"
            raise Stop(cause, "set data.root to the unpacked FreiHAND_pub_v2")
        if "xyz" not in tables or "K" not in tables:
            continue
        count = len(tables["xyz"])
        for number in range(count * (FREIHAND_VERSIONS if part == "training" else 1)):
            path = root / part / "rgb" / f"{number:08d}.jpg"
            if path.exists() or number < count:
                yield freihand_hand(data, part, number, number % count, path, tables, hands_mean)


def freihand_hand(data: DataConfig, part: str, number: int, frame: int, path: Path, tables: dict, hands_mean: numpy.ndarray) -> Hand:
    joints, camera = numpy.array(tables["xyz"][frame]), numpy.array(tables["K"][frame])
    points = joints @ camera.T
    labels = Labels(confident(points[:, :2] / points[:, 2:]), confident(joints))
    if "mano" in tables:
        pose_shape = numpy.array(tables["mano"][frame], numpy.float32).ravel()
        labels.hand_pose = numpy.concatenate([pose_shape[:3], pose_shape[3:48] + hands_mean]).astype(numpy.float32)
        labels.betas, labels.has_pose, labels.has_betas = pose_shape[48:58], True, True
    name = f"{part}/{number:08d}"
    group = group_of(data, name, "evaluation" if part == "evaluation" else f"frames-{frame // FREIHAND_BLOCK:02d}")
    return Hand(name, group, path, f"{part}/rgb/{path.name}", True, *box_of(labels.keypoints_2d, data.box_factor), labels)


def load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Stop(f"{path} is not complete JSON ({error})", "fetch it again") from error


def confident(points: numpy.ndarray) -> numpy.ndarray:
    """Coordinates with confidence 1 as a last column."""
    return numpy.hstack([points, numpy.ones((len(points), 1))]).astype(numpy.float32)


def box_of(keypoints_2d: numpy.ndarray, factor: float) -> tuple[numpy.ndarray, float]:
    """Centre and side of the crop around the confident keypoints."""
    points = keypoints_2d[keypoints_2d[:, 2] > 0, :2]
    if not len(points):
        return numpy.zeros(2), 0.0
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, square(*(factor * (high - low)))


# ---------------------------------------------------------------------------------------------- HaMeR's own files


def evaluation(data: DataConfig, root: Path) -> Iterator[Hand]:
    """HaMeR's evaluation .npz beside its images: `root` is the file, or a folder with one .npz and `images/`."""
    files = [root] if root.is_file() else sorted(root.glob("*.npz"))
    if len(files) != 1:
        raise Stop(f"{root} holds {len(files)} .npz files instead of one", "set data.root to the .npz itself")
    base = files[0].parent / "images" if (files[0].parent / "images").is_dir() else files[0].parent
    columns = read_columns(files[0])
    for i, name in enumerate(columns["imgname"].astype(str)):
        cell = {key: column[i] for key, column in columns.items()}
        labels = Labels(*(array(cell, *key) for key in LABELS))
        labels.has_pose, labels.has_betas = (key in cell and bool(cell.get(f"has_{key}", 1)) for key in ("hand_pose", "betas"))
        side_px = square(*numpy.broadcast_to(cell["scale"], 2))  # px here; in the tars px / 200
        group = group_of(data, name, str(Path(name).parent))
        relative = (base / name).relative_to(files[0].parent)
        right, centre = bool(cell.get("right", 1)), numpy.asarray(cell["center"], float)
        yield Hand(f"{name}#{i}", group, base / name, str(relative), right, centre, side_px, labels)


def read_columns(path: Path) -> dict[str, numpy.ndarray]:
    """The arrays of the file; a column of Python objects would need a pickle and is refused (`extra_info` is never read)."""
    columns = {}
    try:
        with numpy.load(path, allow_pickle=False) as content:
            for name in content.files:
                if name != "extra_info":
                    columns[name] = content[name]
    except ValueError as error:
        raise Stop(f"{path}: {name} is an array of Python objects, which only a pickle could give", NO_PICKLE) from error
    missing = {"imgname", "center", "scale"} - set(columns)
    if missing:
        raise Stop(f"{path} is no HaMeR evaluation file: it lacks {', '.join(sorted(missing))}", "set data.root to one")
    return columns


def array(cell: dict, key: str, shape: tuple[int, ...]) -> numpy.ndarray:
    return numpy.asarray(cell[key], numpy.float32).reshape(shape) if key in cell else numpy.zeros(shape, numpy.float32)


def tars(data: DataConfig, root: Path) -> Iterator[Hand]:
    """HaMeR's training tars: KEY.jpg and KEY.data.pyd, a pickle of one dictionary per hand, with HaMeR's own filters."""
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
                if member.isfile() and (ending == "data.pyd" or f".{ending}" in IMAGES):
                    samples.setdefault(f"{folder}/{key}".lstrip("/"), {})[ending] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Stop(f"{file} ends in the middle{f' of {member.name}' if member else ''} ({error})", "fetch the tar again") from error
    return samples


def tar_hand(name: str, group: str, image: bytes, source: str, found: dict) -> Hand:
    """HaMeR's filters, in its order: faint keypoints, impossible shapes, both parameters or none; unusable ones lose their labels."""
    points = numpy.array(found["keypoints_2d"], numpy.float32)
    points[points[:, 2] < CONFIDENT, 2] = 0
    betas, pose = numpy.array(found["betas"], numpy.float32), numpy.array(found["hand_pose"], numpy.float32).ravel()
    both = bool(found["has_hand_pose"]) and bool(found["has_betas"]) and bool((numpy.abs(betas) <= 3).all())
    if (points[:, 2] > 0).sum() < MIN_CONFIDENT_POINTS or reprojection(found.get("extra_info")) >= MAX_REPROJECTION:
        points[:, 2], both = 0, False
    labels = Labels(points, numpy.array(found["keypoints_3d"], numpy.float32), pose, betas, both, both)
    side_px = float(numpy.max(found["scale"])) * 200  # no growth to the backbone's aspect here
    return Hand(name, group, image, source, bool(found["right"]), numpy.array(found["center"], float), side_px, labels)


def reprojection(extra: Any) -> float:
    """extra_info["fitting_loss"] is a 0-d object array around a dictionary with an optional "reprojection_loss"."""
    loss = (extra or {}).get("fitting_loss")
    loss = loss.item() if isinstance(loss, numpy.ndarray) and loss.shape == () else loss
    return float(loss.get("reprojection_loss", 0)) if isinstance(loss, dict) and loss.get("reprojection_loss") is not None else 0.0


# ---------------------------------------------------------------------------------------------- a plain folder


def folder(data: DataConfig, root: Path) -> Iterator[Hand]:
    """Images with `hands.json` or `hands.csv`: file, hand (left|right), box (x0, y0, x1, y1 px), group, and in JSON also
    keypoints_2d (21 x 2 or 3 px), keypoints_3d (21 x 3 or 4 m), hand_pose (48 axis-angle), betas (10).

    A box is tight and grows by `data.box_factor`; without one the keypoints give it, and without those the whole image is the crop.
    """
    for number, entry in enumerate(entries(root)):
        path = root / entry["file"]
        labels = Labels()
        for name, columns in (("keypoints_2d", 3), ("keypoints_3d", 4)):
            if entry.get(name) is not None:
                points = numpy.array(entry[name], numpy.float32)
                points = points if points.ndim == 2 and points.shape[1] == columns else confident(points)
                if points.shape != (21, columns):
                    cause = f"{root}: {name} of {entry['file']} has the shape {points.shape} instead of (21, {columns})"
                    raise Stop(cause, "correct the label file")
                setattr(labels, name, points)
        for name, flag in (("hand_pose", "has_pose"), ("betas", "has_betas")):
            if entry.get(name) is not None:
                setattr(labels, name, numpy.array(entry[name], numpy.float32).ravel())
                setattr(labels, flag, True)
        centre, side_px = entry_box(entry, path, labels, data.box_factor)
        group = str(entry.get("group") or group_of(data, entry["file"], str(Path(entry["file"]).parent)))
        yield Hand(f"{entry['file']}#{number}", group, path, entry["file"], side_of(entry) == "right", centre, side_px, labels)


def side_of(entry: dict) -> str:
    hand = str(entry.get("hand", "")).lower()
    if hand not in ("left", "right"):
        raise Stop(f"{entry['file']}: hand is {hand!r}, but only left and right are known", "correct the label file")
    return hand


def entry_box(entry: dict, path: Path, labels: Labels, factor: float) -> tuple[numpy.ndarray, float]:
    if entry.get("box") is not None:
        box = numpy.array(entry["box"], float)
        return (box[:2] + box[2:]) / 2, square(*(factor * (box[2:] - box[:2])).clip(0))
    if labels.keypoints_2d[:, 2].any():
        return box_of(labels.keypoints_2d, factor)
    from PIL import Image

    with Image.open(path) as image:
        return numpy.array(image.size) / 2 - 0.5, float(max(image.size))


def entries(root: Path) -> list[dict[str, Any]]:
    """The label file as dictionaries; boxes of a CSV are its columns x0, y0, x1, y1."""
    file = next((root / name for name in LABEL_FILES if (root / name).exists()), None)
    if file is None:
        raise Stop(f"{root} holds neither {' nor '.join(LABEL_FILES)}", "write one: a row per hand with file, hand, x0, y0, x1, y1, group")
    if file.suffix == ".json":
        content = load_json(file)
        found = content["hands"] if isinstance(content, dict) and "hands" in content else content
    else:
        with open(file, newline="", encoding="utf-8") as lines:
            box = lambda row: [row[side] for side in ("x0", "y0", "x1", "y1")] if row.get("x0") else None
            found = [row | {"box": box(row)} for row in csv.DictReader(lines)]
    if not isinstance(found, list) or not all(isinstance(entry, dict) and entry.get("file") for entry in found):
        raise Stop(f"{file} is no list of hands with a file each", "see the docstring of lib/recipes/hamer/formats.py")
    return found
