"""MATLAB's files: what scipy writes comes back, in every version and type; what is damaged ends in a sentence."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from lib.recipes.vavae_microdoppler import matlab
from lib.recipes.vavae_microdoppler.echo_files import Unusable, opened

TYPES = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c8", "c16")


def saved(values, **options):
    stream = io.BytesIO()
    savemat(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_of_every_type_come_back(packed):
    values = {
        f"a_{kind}": (np.arange(24).reshape(2, 3, 4) + (0.5j if kind[0] == "c" else 0)).astype(kind) for kind in TYPES
    }
    others = {
        "text": "no numbers",
        "cell": np.array([1, "x"], object),
        "empty": np.zeros((0, 3)),
        "yes": np.array([True]),
    }
    content = saved(values | others, do_compression=packed)
    found = {name: read() for name, read in matlab.arrays(content).items()}
    assert found.keys() == values.keys() | {"empty", "yes"}
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert found["empty"].shape == (0, 3) and found["yes"].tolist() == [[1]]


def test_arrays_of_version_4_come_back():
    values = {"a": np.arange(6.0).reshape(2, 3), "z": np.arange(4) + 1j, "text": "none", "i": np.arange(3, dtype="i2")}
    content = saved(values, format="4")
    found = {name: read() for name, read in matlab.arrays(content).items()}
    assert found.keys() == {"a", "z", "i"}
    for name, value in found.items():
        np.testing.assert_array_equal(value, loadmat(io.BytesIO(content))[name])


def test_numbers_of_a_machine_with_the_other_order_of_bytes_come_back():
    """MATLAB keeps whole numbers in the smallest type, here two doubles in two bytes beside their type."""
    inside = (
        struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 1, 2) + struct.pack(">HH4s", 1, 1, b"a\0\0\0")
    )
    inside += struct.pack(">HHBBxx", 2, 2, 7, 9)
    content = (
        b"MATLAB 5.0 MAT-file".ljust(124)
        + struct.pack(">H", 0x0100)
        + b"MI"
        + struct.pack(">II", 14, len(inside))
        + inside
    )
    [(name, read)] = matlab.arrays(content).items()
    assert name == "a" and read().tolist() == [[7, 9]] and read().dtype == np.float64
    np.testing.assert_array_equal(loadmat(io.BytesIO(content))["a"], read())


@pytest.fixture
def whole(tmp_path):
    (tmp_path / "e.mat").write_bytes(saved({"echo": np.exp(0.1j * np.arange(40))}))
    return tmp_path / "e.mat"


def test_a_type_of_numbers_that_does_not_exist_is_refused(whole):
    """It took scipy down, and the process with it."""
    content = bytearray(whole.read_bytes())
    second = content.rindex(struct.pack("<II", 9, 320))
    content[second : second + 4] = bytes(4)
    whole.write_bytes(content)
    with pytest.raises(Unusable, match="it is not a MATLAB file, or damaged"):
        opened(whole)


@pytest.mark.parametrize("format", ["4", "5"])
def test_what_is_cut_anywhere_is_refused(whole, format):
    content = saved({"echo": np.exp(0.1j * np.arange(40))}, format=format)
    begin = {"4": 1, "5": matlab.HEADER_BYTES + 1}[format]  # a file that ends before any array holds none
    for length in (*range(begin, begin + 80), *range(begin + 80, len(content), 40), len(content) - 1):
        whole.write_bytes(content[:length])
        with pytest.raises(Unusable, match="or damaged"):
            opened(whole)


@pytest.mark.parametrize("change", [
    (struct.pack("<ii", 1, 40), struct.pack("<ii", 1, 2**31 - 1)),  # more numbers than there are
    (struct.pack("<ii", 1, 40), struct.pack("<ii", 1, 30)),  # or fewer
    (struct.pack("<ii", 1, 40), struct.pack("<ii", 1, -40)),
    (struct.pack("<II", 5, 8), struct.pack("<II", 5, 2**31)),
    (b"echo", b"\x01\x02\x03\x04"),
    (b"IM", b"XY"),
])  # fmt: skip
def test_sizes_and_names_that_cannot_be_are_refused(whole, change):
    content = whole.read_bytes()
    assert content.count(change[0]) == 1
    whole.write_bytes(content.replace(*change))
    with pytest.raises(Unusable, match="or damaged"):
        opened(whole)


def test_what_inflates_to_more_than_its_array_holds_is_not_inflated(monkeypatch):
    """Fifty megabytes of zeros behind an array of three numbers."""
    content, sizes, inflated = saved({"a": np.arange(3.0)}), [], matlab.inflated
    packed = zlib.compress(content[matlab.HEADER_BYTES :] + bytes(50_000_000))
    content = content[: matlab.HEADER_BYTES] + struct.pack("<II", matlab.COMPRESSED, len(packed)) + packed

    def counted(part, most_bytes):
        sizes.append(len(inflated(part, most_bytes)))
        return inflated(part, most_bytes)

    monkeypatch.setattr(matlab, "inflated", counted)
    assert matlab.arrays(content)["a"]().tolist() == [[0, 1, 2]] and 0 < max(sizes) < 10_000


def test_names_of_any_length_are_shown_in_one_line(tmp_path):
    np.savez(tmp_path / "e.npz", **{"x\ny" + str(number) * 2000: np.zeros(3) for number in range(20)})
    with pytest.raises(Unusable, match="it holds 20 arrays, not one") as caught:
        opened(tmp_path / "e.npz")
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_a_member_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("s.npy", b"no array")
    with pytest.raises(Unusable, match="s in it is no array of NumPy"):
        opened(tmp_path / "e.npz")
