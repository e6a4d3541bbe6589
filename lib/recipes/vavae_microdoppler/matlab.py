"""The arrays of numbers in MATLAB's files up to version 7; those of version 7.3 are HDF5.

They are read here and not by scipy, which a damaged file takes down with the whole process: it looks up the type of the
numbers in a table without looking whether there is such a type. Every size is compared with the bytes that are there.
Format: MathWorks, "MAT-File Format"; version 4 is its appendix.
"""

import math
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

# Types of stored numbers (miINT8, …), and classes of arrays (mxDOUBLE_CLASS, …), which may be stored in a smaller type.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
STORED_4 = {0: "f8", 1: "f4", 2: "i4", 3: "i2", 4: "u2", 5: "u1"}
MATRIX, COMPRESSED = 14, 15  # elements that hold others
COMPLEX = 0x800  # a flag beside the class
HEADER_BYTES = 128
HEAD_BYTES = 4096  # of a compressed array, in which its shape and name are
LONGEST_NAME = 63  # MATLAB's own limit
CUT = "it ends in the middle of an array"

Bytes = bytes | memoryview
Arrays = dict[str, Callable[[], "np.ndarray"]]  # name -> what reads it


def arrays(content: bytes) -> Arrays:
    """The arrays of numbers of a file. ValueError, KeyError, struct.error, zlib.error: damaged, or no such file."""
    return (version_4 if b"\0" in content[:4] else version_5)(memoryview(content))


def named(name: Bytes) -> str:
    text = bytes(name).rstrip(b"\0").decode("ascii")
    if not text.isprintable() or len(text) > LONGEST_NAME:
        raise ValueError("an array has a name that is none")
    return text


def numbers(content: Bytes, stored: str, shape: tuple[int, ...], start: int, end: int) -> "np.ndarray":
    """Column by column, as MATLAB stores them."""
    import numpy as np

    kind = np.dtype(stored)
    if math.prod(shape) * kind.itemsize != end - start or end > len(content):
        raise ValueError(CUT)
    return np.frombuffer(content, kind, math.prod(shape), start).reshape(shape, order="F")


# ---------------------------------------------------------------------------------------------- version 5 to 7


class Element(NamedTuple):
    """What lies between two places of a file; `after` is where the next one begins."""

    kind: int
    start: int
    end: int
    after: int


class Head(NamedTuple):
    """Of an array: `at` is where its numbers begin."""

    name: str
    kind: int
    is_complex: bool
    shape: tuple[int, ...]
    at: int


def version_5(content: memoryview) -> Arrays:
    order, at = {b"IM": "<", b"MI": ">"}[bytes(content[HEADER_BYTES - 2 : HEADER_BYTES])], HEADER_BYTES
    found: Arrays = {}
    while at < len(content):
        element = element_at(content, at, order)
        part = content[element.start : element.end]
        if len(part) < element.end - element.start:
            raise ValueError(CUT)
        packed = element.kind == COMPRESSED
        head = head_of(inflated(part, HEAD_BYTES) if packed else content[at : element.end], order)
        if head and head.name and head.kind in CLASSES:
            found[head.name] = reader(content[at : element.end] if not packed else part, packed, head, order)
        at = element.end if packed else element.after  # what is compressed is not filled up to eight bytes
    return found


def element_at(content: Bytes, at: int, order: str) -> Element:
    """A type and a number of bytes, then these bytes; up to four of them lie beside both in eight bytes."""
    kind, size = struct.unpack_from(f"{order}II", content, at)
    if small := kind >> 16:
        if small > 4:
            raise ValueError("it says that a small part is a large one")
        return Element(kind & 0xFFFF, at + 4, at + 4 + small, at + 8)
    return Element(kind, at + 8, at + 8 + size, at + 8 + size + -size % 8)


def inflated(packed: Bytes, most_bytes: int) -> bytes:
    return zlib.decompressobj().decompress(packed, most_bytes)


def head_of(content: Bytes, order: str) -> Head | None:
    """Flags, shape and name of an array, which may be cut after them; None for an element of another type."""
    matrix = element_at(content, 0, order)
    if matrix.kind != MATRIX:
        return None
    flags = element_at(content, matrix.start, order)
    [word] = struct.unpack_from(f"{order}I", content, flags.start)
    sizes = element_at(content, flags.after, order)
    name = element_at(content, sizes.after, order)
    if name.end > len(content) or sizes.kind != 5 or not 8 <= sizes.end - sizes.start <= 32 * 4:
        raise ValueError("an array has no shape or no name")
    shape = struct.unpack_from(f"{order}{(sizes.end - sizes.start) // 4}i", content, sizes.start)
    if min(shape) < 0:
        raise ValueError(f"an array has the shape {shape}")
    text = named(content[name.start : name.end])
    return Head(text, word & 0xFF, bool(word & COMPLEX), shape, name.after)


def reader(part: Bytes, packed: bool, head: Head, order: str) -> Callable[[], "np.ndarray"]:
    def read() -> "np.ndarray":
        import numpy as np

        most = head.at + 16 * math.prod(head.shape) + 64  # two numbers of eight bytes, and what stands before them
        content, at, kind, found = inflated(part, most) if packed else part, head.at, np.dtype(CLASSES[head.kind]), []
        for _ in range(1 + head.is_complex):
            element = element_at(content, at, order)
            stored = order + STORED[element.kind]
            found.append(numbers(content, stored, head.shape, element.start, element.end).astype(kind))
            at = element.after
        return found[0] + 1j * found[1] if head.is_complex else found[0]

    return read


# ---------------------------------------------------------------------------------------------- version 4


def version_4(content: memoryview) -> Arrays:
    """Five numbers, a name and the numbers, one array after another."""
    order, at = "<" if 0 <= int.from_bytes(content[:4], "little") < 5000 else ">", 0
    found: Arrays = {}
    while at < len(content):
        kind, rows, columns, imaginary, letters = struct.unpack_from(f"{order}5i", content, at)
        if min(rows, columns) < 0 or not 0 < letters <= LONGEST_NAME + 1:
            raise ValueError(f"an array has {rows} x {columns} numbers and a name of {letters} letters")
        name, at = named(content[at + 20 : at + 20 + letters]), at + 20 + letters
        stored = order + STORED_4[kind // 10 % 10]
        end = at + rows * columns * int(stored[-1])
        after = end + (end - at if imaginary else 0)
        if after > len(content):
            raise ValueError(CUT)
        if kind % 10 == 0:  # neither text nor a sparse one
            found[name] = reader_4(content, stored, (rows, columns), (at, end, after))
        at = after
    return found


def reader_4(
    content: Bytes, stored: str, shape: tuple[int, int], places: tuple[int, int, int]
) -> Callable[[], "np.ndarray"]:
    def read() -> "np.ndarray":
        real = numbers(content, stored, shape, *places[:2])
        return real if places[1] == places[2] else real + 1j * numbers(content, stored, shape, *places[1:])

    return read
