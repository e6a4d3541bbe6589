"""HDF5, which MATLAB 7.3 is too: slices of a file, each of which may be damaged, and headers that state any size."""

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler import data, echo_files, level_arrays
from lib.recipes.vavae_microdoppler.echo_files import Unusable
from lib.recipes.vavae_microdoppler.recordings import Recording
from lib.recipes.vavae_microdoppler.walk import File
from tests.recipes.vavae_microdoppler.test_layouts import GATED, PAIRS, WALK, expected, images
from tests.recipes.vavae_microdoppler.test_level_arrays import POWER, configured

__all__ = ["expected"]  # a fixture


def saved(path: Path, array: np.ndarray, **how) -> Path:
    """As h5py writes it; as MATLAB does (axes the other way round, 512 bytes of its own in front) where it is .mat."""
    is_matlab = path.suffix == ".mat"
    with h5py.File(path, "w", userblock_size=512 * is_matlab) as file:
        file.create_dataset("pulses", data=array.T if is_matlab else array, **how)
    if is_matlab:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(512))
    return path


def test_matlab_7_3_is_read_slice_by_slice_with_its_axes_as_in_matlab(tmp_path, expected, monkeypatch):
    stored = np.zeros(GATED.shape, [("real", "f8"), ("imag", "f8")])
    stored["real"], stored["imag"] = GATED.real, GATED.imag
    path = saved(tmp_path / "e.mat", stored)
    read, whole = [], echo_files.Slices.__getitem__
    monkeypatch.setattr(echo_files.Slices, "__getitem__", lambda self, key: read.append(key) or whole(self, key))
    [image] = images(path, iq_layout="range_time")
    assert np.array_equal(image, expected)
    assert all(key[1].stop - key[1].start <= 4200 for key in read)  # pulses of one image, not of the file


def test_texts_and_cells_of_matlab_are_no_echoes(tmp_path, expected):
    path = saved(tmp_path / "e.mat", PAIRS)
    with h5py.File(path, "r+") as file:
        file["unit"] = np.array([[86]], np.uint16)
        file["unit"].attrs["MATLAB_class"] = np.bytes_("char")
        file["#refs#/a"] = np.ones((1, 5))
    [image] = images(path)
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("name", ["a.h5", "a.mat"])
def test_levels_are_those_of_the_same_array_in_numpys_format(tmp_path, name):
    np.save(tmp_path / "a.npy", 10 * np.log10(POWER))
    found = [
        level_arrays.levels(configured(), path)
        for path in (tmp_path / "a.npy", saved(tmp_path / name, 10 * np.log10(POWER)))
    ]
    assert np.array_equal(*found)


def test_a_damaged_piece_ends_the_file_in_one_reason(tmp_path):
    """The header is whole, and so are the first images."""
    path = saved(tmp_path / "e.h5", np.tile(WALK, 4), chunks=(len(WALK),), compression="gzip")
    with h5py.File(path) as file:
        piece = file["pulses"].id.get_chunk_info(2)
    with path.open("r+b") as file:
        file.seek(piece.byte_offset + piece.size // 2)
        file.write(b"\xff" * 64)
    with pytest.raises(Unusable, match="it is not an HDF5 file, or damaged"):
        images(path)
    given = (File(path, "u/e.h5", "u", "e"), Recording("u/e", "file"))
    [record] = data.records_of(configured(kind="iq"), given, tmp_path / "out")
    assert record.status == "skipped" and "it is not an HDF5 file, or damaged" in record.reason


@pytest.mark.parametrize(("kind", "is_plain"), [
    ("f8", True), ("i2", True), ("c8", True), ("c16", True), ("f16", False), ("c32", False), ("S4", False),
    ([("real", "f8"), ("imag", "f8")], True), ([("real", "i2"), ("imag", "i2")], True),
    ([("real", "f8"), ("imag", "f4")], False), ([("r", "f8")], False), ([("r", "S4"), ("i", "S4")], False),
    ({"names": ["r", "i"], "formats": ["f8", "f8"], "offsets": [8, 0], "itemsize": 16}, False),
    ({"names": ["r", "i"], "formats": ["f16", "f8"], "offsets": [0, 8], "itemsize": 16}, False),
], ids=str)  # fmt: skip
def test_numbers_are_as_receivers_store_them(kind, is_plain):
    """Into an array of the last kind libhdf5 wrote beyond its end: "double free", and the process was gone."""
    if isinstance(kind, dict) and kind["formats"][0] == "f16":
        first, second = (
            np.dtype("f16"),
            np.dtype("f8"),
        )  # NumPy makes no such dtype itself; h5py does, of a damaged file
        made = SimpleNamespace(names=("r", "i"), fields={"r": (first, 0), "i": (second, 8)}, itemsize=16)
    else:
        made = np.dtype(kind)
    assert echo_files.is_plain(made) == is_plain


def test_floats_of_sixteen_bytes_are_no_echo(tmp_path):
    path = saved(tmp_path / "e.h5", np.ones(9000, np.longdouble))
    with h5py.File(path, "r+") as file:
        file.attrs["prf"] = np.longdouble(2000)
    with pytest.raises(Unusable, match="it holds 0 arrays"):
        images(path)
    assert echo_files.stated(path) == {}


@pytest.mark.parametrize(("shape", "read"), [
    ((10**6, 10**7, 2), images), ((10**6, 10**7), lambda path: level_arrays.levels(configured(), path)),
])  # fmt: skip
def test_a_header_that_states_terabytes_allocates_nothing(tmp_path, shape, read):
    path = tmp_path / "e.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("pulses", shape, np.float64, chunks=(10, 10, 2)[: len(shape)])
    assert path.stat().st_size < 10_000
    with pytest.raises(Unusable, match=r"shape \(1000000, 10000000.* of float64 is more than can be read at once"):
        read(path)


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "e.h5").write_bytes(b"\x89HDF")
    with pytest.raises(Stop, match="h5py reads and nothing else here") as stop:
        images(tmp_path / "e.h5")
    assert stop.value.command == "pip install h5py"
