"""Foreign pickles: every array that numpy can write comes back as numpy reads it, and nothing else of a file acts."""

import io
import pickle

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.recipes.hamer import pickles

FLAGS = b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"  # the end of a dtype's state: size, alignment, flags
ARRAYS = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "by columns": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    "complex": np.arange(3, dtype=np.complex64),
    "texts": np.array(["a", "bcd"]),
    "bytes": np.array(b"abc"),
    "yes": np.array(True),
    "none": np.zeros((0, 3)),
    "objects": np.array(["x", None, {"loss": 1}], object),
    "one object": np.array({"loss": 1}, object),
    "scalar": np.float32(3),
}


def read(content: bytes):
    return pickles.read(io.BytesIO(content), "FILE")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_is_read_as_numpy_reads_it(name, protocol):
    content = pickle.dumps(ARRAYS[name], protocol)
    ours, theirs = np.asarray(read(content)), np.asarray(pickle.loads(content))
    assert type(ours) is np.ndarray
    assert (ours.dtype, ours.shape, ours.tolist()) == (theirs.dtype, theirs.shape, theirs.tolist())


def plainly(value) -> bytes:
    """A pickle in which nothing refers to what came before, so that each part of it can be another."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 3)
    pickler.fast = True
    pickler.dump(value)
    return stream.getvalue()


def test_damaged_flags_do_not_make_references_of_numbers():
    """With them numpy takes each number for the address of an object; a SystemError was the mildest end."""
    content = plainly(np.arange(3.0))
    assert content.count(FLAGS) == 1
    found = read(content.replace(FLAGS, FLAGS[:-2] + b"\x3ft"))
    assert found.dtype.flags == 0 and (found.astype(np.float32) + 1).tolist() == [1, 2, 3]


@pytest.mark.parametrize(("part", "instead", "message"), [
    (b"\x01\x00\x00\x00<NNN", b"\x01\x00\x00\x00xNNN", "in the byte order 'x'"),
    (b"<NNN", b"<K\x01NN", "an array of records"),
    (b"\x02\x00\x00\x00f8", b"\x02\x00\x00\x00M8", "an array of 'M8'"),
    (b"\x02\x00\x00\x00f8", b"\x05\x00\x00\x00i4,f8", "an array of 'i4,f8'"),
    (b"\x02\x00\x00\x00f8", b"\x02\x00\x00\x00f4", "is not a complete pickle"),  # half of the bytes would do
    (b"K\x00\x85", b"K\x09\x85", r"starts with the shape \(9,\)"),
])  # fmt: skip
def test_a_state_that_numpy_never_writes_is_refused(part, instead, message):
    content = plainly(np.arange(3.0))
    assert content.count(part) == 1 and read(content).tolist() == [0, 1, 2]
    with pytest.raises(Stop, match=message):
        read(content.replace(part, instead))


@pytest.mark.parametrize("content", [
    b"cnumpy\nndarray\n(K\x05\x85tR.",  # numpy.ndarray((5,)): memory as it was found
    b"cnumpy\nndarray\n)\x81.",
    b"c__builtin__\nbytes\n(J\xff\xff\xff\x7ftR.",
])  # fmt: skip
def test_nothing_is_made_without_its_content(content):
    with pytest.raises(Stop, match="is not a complete pickle"):
        read(content)


def test_pickle_that_would_fill_the_memory_is_refused_before_it_is_read():
    """LONG_BINPUT at place 2 ** 31 - 1: Python's reader would make room for as many entries."""
    with pytest.raises(Stop, match=r"FILE is not a complete pickle .*stores something at place 2147483647"):
        read(b"\x80\x02}r\xff\xff\xff\x7f.")
