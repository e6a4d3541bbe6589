"""MANO's arrays (Romero et al., SIGGRAPH Asia 2017), and how MANO_RIGHT.pkl or MANO_RIGHT.npz is read and checked.

The file is licensed: it is read where it lies, never copied or converted on disk.
"""

import hashlib
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import Stop
from lib.core.hashes import checked
from lib.recipes.hamer import pickles
from lib.recipes.hamer.config import MANO_MD5

VERTICES, FACES, JOINTS = 778, 1538, 16
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)  # wrist; index, middle, PINKY, RING, thumb
# Vertices of thumb, index, middle, ring, pinky; FreiHAND's ground truth has 555 and 672 for the last two.
TIPS = (744, 320, 443, 554, 671)
NAMES = ("MANO_RIGHT.pkl", "MANO_RIGHT.npz")
AGAIN = "fetch MANO_RIGHT.pkl again from https://mano.is.tue.mpg.de (Models & Code)"
LARGEST_BYTES = 100_000_000  # of one array; MANO's largest has 2.5 MB
# What numpy and zipfile raise on a damaged file, wherever the damage is; RuntimeError where it is encrypted.
BROKEN = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, EOFError, OSError, MemoryError,
    SyntaxError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
HAND_M = (0.1, 0.4)  # of the longest side of the hand; MANO's has 0.19
SHAPES = {
    "v_template": (VERTICES, 3),
    "shapedirs": (VERTICES, 3, 10),
    "posedirs": (VERTICES, 3, 135),
    "J_regressor": (JOINTS, VERTICES),
    "weights": (VERTICES, JOINTS),
    "f": (FACES, 3),
    "hands_components": (45, 45),
    "hands_mean": (45,),
    "kintree_table": (2, JOINTS),
}


@dataclass(frozen=True)
class ManoModel:
    """The arrays of a MANO file, checked by `read`. `name` says whether this is MANO or the stand-in hand."""

    name: str
    v_template: np.ndarray  # (778, 3) m, right hand
    shapedirs: np.ndarray  # (778, 3, 10)
    posedirs: np.ndarray  # (778, 3, 135)
    J_regressor: np.ndarray  # (16, 778), rows sum to 1
    weights: np.ndarray  # (778, 16), rows sum to 1
    f: np.ndarray  # (1538, 3)
    hands_components: np.ndarray  # (45, 45)
    hands_mean: np.ndarray  # (45,) radians; FreiHAND's poses are relative to it, HaMeR's are not
    of_freihand: bool = True  # the version of MANO that FreiHAND's labels were made with
    version: str = ""  # what is to be said of the file's version, where it is not known to be that one

    @property
    def stand_in(self) -> bool:
        return self.name != "MANO"


def find(folder: Path) -> Path:
    """The file of NAMES that lies in a folder; the first one where none does."""
    return next((folder / name for name in NAMES if (folder / name).exists()), folder / NAMES[0])


def read(path: Path) -> ManoModel:
    """The hand of a MANO file.

    Stop: a file that is absent, names anything but arrays, or holds arrays that cannot be a right hand.
    """
    if not path.is_file():
        raise Stop(f"the MANO file {path} does not exist", "python step2_download.py")
    checked(path)
    try:
        arrays = from_npz(path) if path.suffix == ".npz" else from_pickle(path)
        check(path, arrays)
    except BROKEN as error:
        raise Stop(f"{path} is damaged ({type(error).__name__}: {error})", AGAIN) from error
    refuse_left(path, arrays)
    kept: dict[str, Any] = {name: arrays[name] for name in SHAPES if name != "kintree_table"}
    known, said = version_of(path)
    return ManoModel(name="MANO", of_freihand=known, version=said, **kept)


def version_of(path: Path) -> tuple[bool, str]:
    """Is this the version that FreiHAND's labels were made with, as far as is known, and what is to be said of it?"""
    if path.suffix != ".pkl":
        return True, f"which version {path.name} holds cannot be told, because it was saved again"
    found = hashlib.md5(path.read_bytes()).hexdigest()
    if found == MANO_MD5:
        return True, ""
    versions = f"that of MANO 1.2, with which FreiHAND's labels were made, is {MANO_MD5}"
    return False, f"{path.name} has the unknown MD5 {found}; {versions}; other versions move vertices by up to 6 mm"


def from_pickle(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        content = pickles.read(file, str(path), pickles.ARRAYS | pickles.CHUMPY)
    refuse_missing(path, content)
    return {name: pickles.value(content[name]) for name in SHAPES}


def from_npz(path: Path) -> dict[str, np.ndarray]:
    """Stop: a member that is far larger than MANO's, before it is read."""
    if not zipfile.is_zipfile(path):
        raise Stop(f"{path} is damaged: an .npz is a zip archive, and this is none", AGAIN)
    with np.load(path, allow_pickle=False) as content:
        refuse_missing(path, dict.fromkeys(content.files))
        for member in content.zip.infolist():
            if member.file_size > LARGEST_BYTES:
                raise Stop(f"{path} is not a MANO file: {member.filename} has {member.file_size} bytes", AGAIN)
        return {name: content[name] for name in SHAPES}


def refuse_missing(path: Path, content: Any) -> None:
    missing = [name for name in SHAPES if not isinstance(content, dict) or name not in content]
    if missing:
        raise Stop(f"{path} is not a MANO file: it lacks {', '.join(missing)}", AGAIN)


def refuse_left(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Stop: the thumb is on the left hand's side, seen along the fingers with the palm down (-y, in both files)."""
    joints = arrays["J_regressor"] @ arrays["v_template"]
    fingers, thumb = joints[[1, 4, 7, 10]].mean(0) - joints[0], joints[14] - joints[0]
    if np.cross(fingers, thumb)[1] < 0:
        cause = f"{path} holds a left hand (its thumb is on the other side): MANO_LEFT under another name?"
        raise Stop(cause, f"put MANO_RIGHT there; {AGAIN}")


def check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Stop: a shape that is not MANO's, a number that is not finite, shares that do not sum to 1, another tree."""
    for name, shape in SHAPES.items():
        if arrays[name].dtype.kind not in "fiu":
            raise Stop(f"{path}: {name} holds {arrays[name].dtype} instead of numbers", AGAIN)
        if arrays[name].shape != shape:
            raise Stop(f"{path}: {name} has the shape {arrays[name].shape} instead of {shape}", AGAIN)
        if not np.isfinite(arrays[name].astype(float)).all():
            raise Stop(f"{path}: {name} holds numbers that are not finite", AGAIN)
    for name in ("weights", "J_regressor"):
        sums = arrays[name].sum(1)
        worst = sums[np.abs(sums - 1).argmax()]
        if abs(worst - 1) > 1e-3:
            raise Stop(f"{path}: a row of {name} sums to {worst:.3f} instead of 1", AGAIN)
    if not np.array_equal(arrays["kintree_table"][0, 1:].astype(int), PARENTS[1:]):
        raise Stop(f"{path}: kintree_table is not MANO's tree of joints", AGAIN)
    long_m = float(np.ptp(arrays["v_template"].astype(float), axis=0).max())
    if not HAND_M[0] < long_m < HAND_M[1]:
        raise Stop(f"{path}: its hand is {long_m:.3g} long, and metres are expected", AGAIN)
    if arrays["f"].min() < 0 or arrays["f"].max() >= VERTICES:
        raise Stop(f"{path}: f names vertices that do not exist", AGAIN)
