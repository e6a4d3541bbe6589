"""Readers of published data: FreiHAND's official layout and HaMeR's evaluation files."""

import math
import sys
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.recipes.hamer.conventions import certain, confident, weighted
from lib.recipes.hamer.crop import Labels, square
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.labelled import (
    MOST_BYTES,
    Hand,
    attempt,
    box_of,
    flag,
    group_of,
    is_name,
    load_json,
    table,
)
from lib.recipes.hamer.list_fields import refuse_unclear
from lib.recipes.hamer.mano_file import BROKEN

FREIHAND_VERSIONS = 4  # of each picture: green screen and three other backgrounds, stored one after another
FREIHAND_BLOCK = 1000  # neighbouring pictures show one person; FreiHAND does not say whom
KEYPOINTS = ("hand_keypoints_2d", "hand_keypoints_3d")
# What one hand has in each column of an evaluation file. hand_pose may be components of MANO's poses.
CELLS: dict[str, list[tuple[int, ...]]] = {
    "imgname": [()], "center": [(2,)], "scale": [(), (1,), (2,)], "right": [(), (1,)],
    "hand_keypoints_2d": [(21, 3), (21, 2)], "hand_keypoints_3d": [(21, 4), (21, 3)],
    "hand_pose": [(count,) for count in range(4, 49)] + [(16, 3)], "betas": [(10,)],
    "has_hand_pose": [(), (1,)], "has_betas": [(), (1,)],
}  # fmt: skip
NO_PICKLE = (
    "where you trust the file, save it again without objects: "
    "python -c \"import numpy as n; d=n.load('F.npz',allow_pickle=True); "
    "n.savez('G.npz',**{k:n.array(d[k].tolist()) for k in d if k!='extra_info'})\""
)


# ---------------------------------------------------------------------------------------------- FreiHAND


def freihand(data: DataConfig, root: Path) -> Iterator[Hand]:
    """The official layout. Its evaluation set is a group of its own, and held out if no other group is named."""
    for part in ("training", "evaluation"):
        files = {name: root / f"{part}_{name}.json" for name in ("xyz", "K", "mano")}
        tables = {name: listed(file) for name, file in files.items() if file.exists()}
        if part == "training" and ("xyz" not in tables or "K" not in tables):
            cause = f"{root} is not a FreiHAND folder: training_xyz.json or training_K.json is missing"
            raise Stop(cause, "set data.root to the unpacked FreiHAND_pub_v2")
        if "xyz" not in tables or "K" not in tables:
            continue
        count = len(tables["xyz"])
        for number in range(count * (FREIHAND_VERSIONS if part == "training" else 1)):
            path = root / part / "rgb" / f"{number:08d}.jpg"
            if path.exists() or number < count:
                yield freihand_hand(data, part, number, number % count, path, tables)


def listed(file: Path) -> list[Any]:
    content = load_json(file)
    if not isinstance(content, list):
        raise Stop(f"{file} is not a list with an entry for each picture", "fetch it again")
    return content


def freihand_hand(
    data: DataConfig, part: str, number: int, frame: int, path: Path, tables: dict[str, list[Any]]
) -> Hand:
    def fill(hand: Hand) -> None:
        joints = table(tables["xyz"][frame], "xyz", (21, 3), kind=np.float64)
        points = joints @ table(tables["K"][frame], "K", (3, 3), kind=np.float64).T
        with np.errstate(divide="ignore", invalid="ignore"):  # a depth of 0: the checks refuse what is not finite
            hand.given = Labels(confident(points[:, :2] / points[:, 2:]), confident(joints))
        if "mano" in tables:
            numbers = table(tables["mano"][frame], "mano", (61,), (1, 61)).ravel()
            hand.given.hand_pose, hand.given.betas = numbers[:48], numbers[48:58]
            hand.given.has_pose = hand.given.has_betas = True
        hand.centre, hand.side_px = box_of(hand.given.keypoints_2d, data.box_factor)

    name = f"{part}/{number:08d}"
    group = group_of(data, name, "evaluation" if part == "evaluation" else f"frames-{frame // FREIHAND_BLOCK:02d}")
    return attempt(name, group, path, f"{part}/rgb/{path.name}", fill)


# ---------------------------------------------------------------------------------------------- HaMeR's evaluation


def evaluation(data: DataConfig, root: Path) -> Iterator[Hand]:
    """HaMeR's evaluation .npz beside its images: `root` is the file, or a folder with one .npz and `images/`."""
    files = [root] if root.is_file() else sorted(root.glob("*.npz"))
    if len(files) != 1:
        raise Stop(f"{root} holds {len(files)} .npz files instead of one", "set data.root to the .npz itself")
    folder = files[0].parent
    base = folder / "images" if (folder / "images").is_dir() else folder
    columns = read_columns(files[0])
    tops = {}
    for name, depth in zip(KEYPOINTS, (3, 4), strict=True):
        if name in columns and columns[name].shape[2] == depth:
            tops[name] = certain(columns[name][..., -1], data.confidence, f"{name} in {files[0].name}")
    names = names_in(files[0], columns["imgname"])
    if data.format == "hamer_npz" and not data.group_pattern:
        refuse_unclear(sorted({str(Path(name).parent) for name in names}))
    for i, name in enumerate(names):
        group = group_of(data, name, str(Path(name).parent))
        source = str((base / name).relative_to(folder)) if (base / name).is_relative_to(folder) else name
        cell = {key: column[i] for key, column in columns.items()}
        yield attempt(f"{name}#{i}", group, base / name, source, partial(fill_cell, cell=cell, tops=tops))


def fill_cell(hand: Hand, cell: dict[str, np.ndarray], tops: dict[str, float]) -> None:
    """A row of an evaluation file; what the file does not have is not annotated."""
    width_px, height_px = np.broadcast_to(cell["scale"], 2)  # px here; in the tars px / 200
    hand.right, hand.centre = flag(cell, "right"), np.asarray(cell["center"], float)
    hand.side_px = square(width_px, height_px)
    for key, name in zip(KEYPOINTS, ("keypoints_2d", "keypoints_3d"), strict=True):
        if key in cell:
            points = table(cell[key], key)
            setattr(hand.given, name, weighted(points, tops[key]) if key in tops else confident(points))
    for name in ("hand_pose", "betas"):
        if name in cell:
            setattr(hand.given, name, table(cell[name], name).ravel())
            setattr(hand.given, f"has_{name.removeprefix('hand_')}", flag(cell, f"has_{name}"))


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file, one row a hand; `extra_info` and unknown ones are not read.

    Stop: a file that is damaged, a column that is missing, or of another shape.
    """
    columns = arrays_in(path, CELLS)
    refuse_other_columns(path, columns)
    return columns


def arrays_in(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those arrays of an .npz that it has. Stop: it is damaged, or one holds Python objects, which need a pickle."""
    found: dict[str, np.ndarray] = {}
    name = ""
    try:
        if not zipfile.is_zipfile(path):
            raise Stop(f"{path} is damaged: an .npz is a zip archive, and this is none", "fetch it again")
        with np.load(path, allow_pickle=False) as content:
            for name in [name for name in names if name in content.files]:
                refuse_large(content.zip, f"{name}.npy", path)
                found[name] = content[name]
    except BROKEN as error:
        if "allow_pickle" not in str(error):
            raise Stop(f"{path} is damaged ({name}: {error})", "fetch it again") from error
        cause = f"{path}: {name} is an array of Python objects, which only a pickle could give"
        raise Stop(cause, NO_PICKLE) from error
    return found


def refuse_large(archive: zipfile.ZipFile, member: str, path: Path) -> None:
    """Stop: an array that claims more bytes than the file holds for it, or too many."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = reader(stream)
    size, there = math.prod(shape) * kind.itemsize, archive.getinfo(member).file_size
    if size > min(there, MOST_BYTES) and not kind.hasobject:
        raise Stop(f"{path} is damaged ({member} claims {size} bytes, {there} are there)", "fetch it again")


def refuse_other_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    missing = {"imgname", "center", "scale"} - set(columns)
    if missing:
        cause = f"{path} is not a HaMeR evaluation file: it lacks {', '.join(sorted(missing))}"
        raise Stop(cause, "set data.root to one")
    count = columns["imgname"].shape[:1]
    for name, column in columns.items():
        text = name == "imgname"
        if column.shape[:1] != count or not count or column.shape[1:] not in CELLS[name]:
            row = " or ".join(str(shape) for shape in CELLS[name][:2])
            cause = (
                f"{path}: {name} has the shape {column.shape}; a row for each imgname is expected, of the shape {row}"
            )
            raise Stop(cause, "correct the file")
        if column.dtype.kind not in ("US" if text else "fiub"):
            raise Stop(f"{path}: {name} holds {column.dtype} instead of {'text' if text else 'numbers'}", "correct it")


def names_in(path: Path, column: np.ndarray) -> list[str]:
    """The names of the pictures. Stop: one that no file can have."""
    try:
        if column.dtype.kind == "U" and column.size and column.dtype.itemsize:
            letters = np.ascontiguousarray(column, column.dtype.newbyteorder("=")).view(np.uint32)
            if letters.max() > sys.maxunicode:  # numpy makes text of them with which Python breaks later
                raise ValueError(f"a letter with the number {letters.max()}")
        names: list[str] = column.astype(str).tolist()
    except ValueError as error:
        raise Stop(f"{path}: imgname holds text that cannot be read ({error})", "correct it") from error
    for number, name in enumerate(names):
        if not is_name(name):
            raise Stop(f"{path}: imgname number {number} is {name!r}, which names no file", "correct it")
    return names
