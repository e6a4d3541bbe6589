"""MANO_RIGHT.pkl or MANO_RIGHT.npz -> checked arrays. The file is licensed: read where it lies, never copied or converted on disk."""
import hashlib
from pathlib import Path
from typing import Any

import numpy

from lib.errors import Stop
from lib.recipes.hamer import pickles
from lib.recipes.hamer.mano import FACES, JOINTS, PARENTS, VERTICES, ManoModel

NAMES = ("MANO_RIGHT.pkl", "MANO_RIGHT.npz")
MD5 = "fd5a9d35f914987cf1cc04ffe338caa1"  # of the .pkl that FreiHAND's labels were made with; older versions differ by up to 6 mm
AGAIN = "fetch MANO_RIGHT.pkl again from https://mano.is.tue.mpg.de (Models & Code)"
SHAPES = {
    "v_template": (VERTICES, 3), "shapedirs": (VERTICES, 3, 10), "posedirs": (VERTICES, 3, 135), "J_regressor": (JOINTS, VERTICES),
    "weights": (VERTICES, JOINTS), "f": (FACES, 3), "hands_components": (45, 45), "hands_mean": (45,), "kintree_table": (2, JOINTS),
}  # fmt: skip


def read(path: Path) -> ManoModel:
    """Stop: a file that is absent, names anything but arrays, or holds arrays that cannot be a hand."""
    if not path.is_file():
        raise Stop(f"the MANO file {path} does not exist", "python step2_download.py")
    arrays = {name: numpy.asarray(array) for name, array in (from_npz(path) if path.suffix == ".npz" else from_pickle(path)).items()}
    check(path, arrays)
    return ManoModel(name="MANO", of_freihand=known_version(path), **{name: arrays[name] for name in SHAPES if name != "kintree_table"})


def known_version(path: Path) -> bool:
    """Is this the version that FreiHAND's labels were made with? A re-saved .npz cannot be told."""
    return path.suffix != ".pkl" or hashlib.md5(path.read_bytes()).hexdigest() == MD5


def from_pickle(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        content = pickles.read(file, str(path), pickles.ARRAYS | pickles.CHUMPY)
    refuse_missing(path, content)
    return {name: pickles.value(content[name]) for name in SHAPES}


def from_npz(path: Path) -> dict[str, Any]:
    with numpy.load(path, allow_pickle=False) as content:
        refuse_missing(path, content)
        return {name: content[name] for name in SHAPES}


def refuse_missing(path: Path, content: Any) -> None:
    missing = [name for name in SHAPES if name not in content]
    if missing:
        raise Stop(f"{path} is no MANO file: it lacks {', '.join(missing)}", AGAIN)


def check(path: Path, arrays: dict[str, numpy.ndarray]) -> None:
    for name, shape in SHAPES.items():
        if arrays[name].shape != shape:
            raise Stop(f"{path}: {name} has the shape {arrays[name].shape} instead of {shape}", AGAIN)
        if not numpy.isfinite(arrays[name].astype(float)).all():
            raise Stop(f"{path}: {name} holds numbers that are not finite", AGAIN)
    for name in ("weights", "J_regressor"):
        sums = arrays[name].sum(1)
        if numpy.abs(sums - 1).max() > 1e-3:
            raise Stop(f"{path}: a row of {name} sums to {sums[numpy.abs(sums - 1).argmax()]:.3f} instead of 1", AGAIN)
    if not numpy.array_equal(arrays["kintree_table"][0, 1:].astype(int), PARENTS[1:]):
        raise Stop(f"{path}: kintree_table is not MANO's tree of joints", AGAIN)
    if arrays["f"].min() < 0 or arrays["f"].max() >= VERTICES:
        raise Stop(f"{path}: f names vertices that do not exist", AGAIN)
