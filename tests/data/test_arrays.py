"""NumPy's files of other people: whole ones are mapped, damaged headers are refused before NumPy believes them."""

import numpy as np
import pytest

from lib.data import arrays


def written(path, kind: str, shape: str):
    """A .npy whose header states this kind and shape, and 800 bytes."""
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(800))
    return path


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.array(3), np.zeros((0, 3)), np.ones(3, "c8")], ids=str
)
def test_a_whole_file_is_mapped(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = arrays.mapped(tmp_path / "a.npy")
    assert np.array_equal(found, array) and found.dtype == array.dtype


@pytest.mark.parametrize(("kind", "shape"), [("0<u8", "(-1,)"), ("0<u8", "(4,)"), ("<f8", "(-1,)"), ("<U0", "(9,)")])
def test_numbers_without_bytes_and_negative_lengths_are_refused(tmp_path, kind, shape):
    """The first of them was a division by zero in NumPy, and the process was gone."""
    with pytest.raises(ValueError, match="its header states the shape"):
        arrays.mapped(written(tmp_path / "a.npy", kind, shape))


def test_more_than_the_file_holds_and_objects_are_refused(tmp_path):
    for kind, shape in (("<f8", "(10000000000000,)"), ("|O", "(3,)")):
        with pytest.raises(ValueError, match=r".+"):
            arrays.mapped(written(tmp_path / "a.npy", kind, shape))
