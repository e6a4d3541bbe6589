"""Foreign pickles (MANO_RIGHT.pkl, the .data.pyd members of HaMeR's tars) through a closed list of names.

A pickle may name any function and have it called. Here only what builds numpy arrays exists, plus chumpy's and scipy's
classes as empty shells that keep their state; any other name ends the reading before anything of the file was called.
"""

import io
import pickle
import pickletools
from typing import Any, BinaryIO

import numpy as np

from lib.core.errors import Stop


class Shell:
    """Stands for a class that is not installed and not wanted: keeps the state, does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Ch(Shell):
    """chumpy.ch.Ch: its value is state["x"]."""


class Select(Shell):
    """chumpy.reordering.Select: entries `idxs` of the flattened state["a"], in `preferred_shape`."""


class Csc(Shell):
    """scipy.sparse.csc_matrix: data, indices, indptr and the shape."""


def latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1", "iso-8859-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


def no_bytes(*arguments: Any) -> bytes:
    """How Python 3 writes b"" for Python 2: the content of an array without numbers."""
    if arguments:
        raise pickle.UnpicklingError("bytes that are made and not stored")
    return b""


# A pickle calls what follows with whatever it holds: hence `Any`.


class Kind:
    """numpy's dtype, made from a name and a byte order alone.

    A dtype takes any state that a pickle gives it: damaged flags make numpy take numbers for references to objects.
    """

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        self.dtype = np.dtype(code if isinstance(code, str) else "V")
        if self.dtype.kind not in "biufcOSU":
            raise pickle.UnpicklingError(f"an array of {code!r}")

    def __setstate__(self, state: Any) -> None:
        _, order, *parts = state[:5]
        if order not in ("<", ">", "=", "|") or parts != [None, None, None]:
            raise pickle.UnpicklingError(f"an array of records, or in the byte order {order!r}")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class Array(np.ndarray):
    """An array as a pickle builds it; np.asarray makes a plain one of it."""

    def __new__(cls, *arguments: Any) -> "Array":
        raise pickle.UnpicklingError("an array that is made without its content")

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, by_columns, content = state
        super().__setstate__((version, shape, kind.dtype, by_columns, content))


def rebuild(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """numpy's _reconstruct, for plain arrays alone. Shape and bytes come with the state, as many as there are."""
    if kind is not Array or shape != (0,):
        raise pickle.UnpicklingError(f"an array of the class {kind!r} that starts with the shape {shape!r}")
    return np.ndarray.__new__(Array, (0,), np.int8)


def scalar(kind: Any, content: Any = None) -> Any:
    if kind.dtype.hasobject:
        raise pickle.UnpicklingError("a scalar of Python objects")
    return np.frombuffer(content, kind.dtype)[0]


def from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


ARRAYS = {
    f"numpy.{core}.{name}": value
    for core in ("core", "_core")
    for name, value in {
        "multiarray._reconstruct": rebuild,
        "multiarray.scalar": scalar,
        "numeric._frombuffer": from_buffer,
    }.items()
} | {"numpy.ndarray": Array, "numpy.dtype": Kind, "_codecs.encode": latin1, "__builtin__.bytes": no_bytes}
CHUMPY = {
    "chumpy.ch.Ch": Ch,
    "chumpy.reordering.Select": Select,
    "scipy.sparse.csc.csc_matrix": Csc,
    "scipy.sparse._csc.csc_matrix": Csc,
    "__builtin__.set": set,
    "builtins.set": set,
}
# What a truncated or damaged pickle raises, at whatever place it is damaged.
DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    ImportError,
)
MOST_CELLS = 100_000_000  # of a matrix that is stored in few numbers


class Closed(pickle.Unpickler):
    def __init__(self, file: BinaryIO, names: dict[str, Any]) -> None:
        super().__init__(file, encoding="latin1")
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.names:
            raise ForeignName(f"{module}.{name}")
        return self.names[f"{module}.{name}"]


class ForeignName(pickle.UnpicklingError):
    pass


def read(file: BinaryIO, label: str, names: dict[str, Any] = ARRAYS) -> Any:
    """The content of a pickle that names nothing outside `names`; `label` is the file in messages.

    Stop: it names something else, or it is damaged.
    """
    again = "get the file from its publisher again"
    content = file.read()
    try:
        refuse_large_memo(content)
        return Closed(io.BytesIO(content), names).load()
    except ForeignName as error:
        raise Stop(f"{label} is refused: it names {error}, which could run code", again) from error
    except DAMAGED as error:
        raise Stop(f"{label} is not a complete pickle ({error})", again) from error


def refuse_large_memo(content: bytes) -> None:
    """UnpicklingError: a damaged pickle stores something at so high a place that the table would fill the memory."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name.endswith("PUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"it stores something at place {argument} of its memory")


def value(content: Any) -> np.ndarray:
    """The array behind chumpy's and scipy's shells."""
    if isinstance(content, Select):
        chosen = value(content.state["a"]).ravel()[np.asarray(content.state["idxs"])]
        return chosen.reshape(content.state["preferred_shape"])
    if isinstance(content, Ch):
        return np.asarray(content.state["x"])
    if isinstance(content, Csc):
        return dense(content.state)
    return np.asarray(content)


def dense(state: dict[str, Any]) -> np.ndarray:
    """A compressed-column matrix as a full one."""
    rows, columns_there = state["_shape"] if "_shape" in state else state["shape"]
    if not 0 < rows * columns_there <= MOST_CELLS:
        raise ValueError(f"a matrix of {rows} x {columns_there}")
    matrix = np.zeros((rows, columns_there))
    columns = np.repeat(np.arange(matrix.shape[1]), np.diff(state["indptr"]))
    np.add.at(matrix, (np.asarray(state["indices"]), columns), state["data"])
    return matrix
