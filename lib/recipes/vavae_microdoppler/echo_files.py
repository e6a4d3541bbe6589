"""Arrays of numbers in the formats that radars and their toolboxes write: .npy .npz .mat .h5 .hdf5 .csv.

A file is opened, not read: `.npy`, `.mat` of version 7.3 and `.h5` give the slices that are asked for, so that an hour
of echoes takes no more memory than one image. Older `.mat`, `.npz` and `.csv` can only be read as a whole, on each core
that prepares: large ones are refused.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from lib.core.errors import Stop
from lib.data import arrays
from lib.recipes.vavae_microdoppler import matlab
from lib.recipes.vavae_microdoppler.stored import printable
from lib.recipes.vavae_microdoppler.walk import some

if TYPE_CHECKING:
    import numpy as np

NUMPY = b"\x93NUMPY"  # what a .npy begins with
MOST_WHOLE_BYTES = 1_000_000_000  # of a file without windows, and of one window
# Names under which files state what two of our settings say. "fs" is none: it may be that of the range samples.
SAID = dict.fromkeys(("prf", "prf_hz", "prfhz"), "prf_hz") | dict.fromkeys(
    ("wavelength", "wavelength_m"), "wavelength_m"
)
SAID |= dict.fromkeys(("fc", "f_c", "carrier", "carrier_hz", "carrier_frequency", "center_frequency"), "carrier")
LIGHT_M_S = 299_792_458.0
FEWEST_COUNTED = 8  # rows in which equal steps are no chance
COUNTER = "rises in equal steps: it counts the rows, or is the time (leave it out)"
MOST_SHOWN = 60  # letters of an array's name in a message
Array = Any  # of NumPy, or what is sliced like it: a dataset of h5py


class Unusable(Exception):
    """A file that cannot be used. The text is the reason."""


def opened(path: Path, variable: str = "") -> Array:
    """The array of a file, of one dimension or more. `variable` names it where the file holds several.

    Unusable: the file is empty, damaged or cut, holds no array of numbers, or several and none is named. Stop: h5py is
    needed and not installed.
    """
    if not path.stat().st_size:
        raise Unusable("the file is empty")
    with reading(path):
        return READERS[path.suffix.lower()](path, variable)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Unusable instead of whatever a reader raises of a damaged file."""
    try:
        yield
    except (Unusable, Stop):
        raise
    except Exception as error:  # readers raise almost any exception on a damaged header, tokenize.TokenError among them
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise Unusable(f"{WHAT[path.suffix.lower()]}, or damaged ({said})") from error


def of_numpy(path: Path, variable: str) -> Array:
    with open(path, "rb") as file:
        if file.read(len(NUMPY)) != NUMPY:  # NumPy would suspect a pickle, and advise to trust it
            raise ValueError("it does not begin as one")
    return arrays.mapped(path)


def of_zip(path: Path, variable: str) -> Array:
    import numpy as np

    refuse_large(path)
    with np.load(path, allow_pickle=False) as stored:
        found = stored[name := chosen(stored.files, variable)]
    if not isinstance(found, np.ndarray):  # NumPy hands out the bytes of what does not begin as an array
        raise Unusable(f"{shown([name])} in it is no array of NumPy, or damaged")
    return found


def of_matlab(path: Path, variable: str) -> Array:
    """Version 7.3 is HDF5, in which MATLAB's axes lie the other way round."""
    if is_hdf5(path):
        return of_hdf5(path, variable, turned=True)
    refuse_large(path)
    found = matlab.arrays(path.read_bytes())
    return found[chosen(list(found), variable)]()


def is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(19) == b"MATLAB 7.3 MAT-file"


def of_hdf5(path: Path, variable: str, turned: bool = False) -> Array:
    try:
        import h5py
    except ImportError as error:
        raise Stop(
            f"{path.name} is an HDF5 file, which h5py reads and nothing else here does", "pip install h5py"
        ) from error
    file = h5py.File(path, "r")
    name = chosen([name for name, one in held(file).items() if is_array(name, one)], variable)
    return Slices(file[name], path, turned)


def held(file: Any) -> dict[str, Any]:
    """The groups and datasets of an open HDF5 file by their paths, "radar/pulses"; "" is the file itself."""
    found = {"": file}
    file.visititems(lambda name, one: found.update({name: one}))
    return found


def is_array(name: str, one: Any) -> bool:
    """A dataset of numbers; MATLAB and h5py both keep complex ones as pairs of fields. MATLAB's texts are numbers too,
    and so is what its cells refer to.
    """
    if name.startswith("#refs#/") or not hasattr(one, "dtype") or one.ndim == 0 or not is_plain(one.dtype):
        return False
    marks, mark = one.attrs, "MATLAB_class"
    return not (mark in marks and marks.get_id(mark).dtype.kind == "S" and marks[mark] == b"char")


def is_plain(kind: Any) -> bool:
    """Is this a dtype of numbers as receivers store them? For fields that overlap, and floats of 16 bytes in 8, as
    damage makes them, libhdf5 writes beyond the array that it fills.
    """
    if kind.names is None:
        return kind.kind in "fiuc" and kind.itemsize <= (16 if kind.kind == "c" else 8)
    (first, place), *others = [kind.fields[name][:2] for name in kind.names]
    packed = place == 0 and others == [(first, first.itemsize)] and kind.itemsize == 2 * first.itemsize
    return packed and first.kind in "fiu" and is_plain(first)


def of_text(path: Path, variable: str) -> Array:
    """Columns of numbers, split by commas, semicolons, tabs or blanks; a line of names above them; i or j for roots.

    Beside semicolons or tabs a comma is a decimal one, as spreadsheets of half the world write it.
    """
    import numpy as np

    refuse_large(path)
    text = re.sub(r"(?<=[\d.]) +([+-]) +(?=[\d.])", r"\1", path.read_text(encoding="utf-8-sig"))  # 1 + 2i
    marks = ";\t" if re.search(r"[;\t]", text) else ","
    text = text.replace(",", ".") if "," not in marks else text
    rows = [re.sub(f"[{marks}]", " ", line).split() for line in text.splitlines() if line.strip()]
    rows = rows[1:] if rows and not is_number(rows[0][0]) else rows
    if len({len(row) for row in rows}) > 1:
        raise Unusable("its lines have different numbers of columns")
    found = np.array([[number(word) for word in row] for row in rows])
    refuse_counter(found)
    return found if found.imag.any() else found.real


def refuse_counter(found: Array) -> None:
    """Unusable: the first column says which row it is, or when; it would be taken for an echo."""
    is_table = found.ndim == 2 and found.shape[1] > 1 and len(found) >= FEWEST_COUNTED
    if is_table and not found[:, 0].imag.any() and counts(found[:, 0].real, 0.01):
        raise Unusable(f"its first column {COUNTER}")


def counts(values: "np.ndarray", slack: float) -> bool:
    """Do values (n,) rise or fall in equal steps, but for a share of the whole way?"""
    import numpy as np

    way = abs(values[-1] - values[0])
    return bool(way and np.abs(values - np.linspace(values[0], values[-1], len(values))).max() < slack * way)


def refuse_large(path: Path) -> None:
    size = path.stat().st_size
    if size > MOST_WHOLE_BYTES:
        cause = f"it has {size / 1e9:.1f} GB and its format is read as a whole"
        raise Unusable(f"{cause}: save it as .npy, .h5 or .mat of version 7.3 (MATLAB: save -v7.3), or cut it")


def is_number(word: str) -> bool:
    try:
        number(word)
    except ValueError:
        return False
    return True


def number(word: str) -> complex:
    """3, -4e2, nan, 3+4j, 3+4i. ValueError: a word; the heading "i" is one, and no root of -1."""
    if re.fullmatch(r"[+-]?(nan|inf)", word, re.IGNORECASE):
        return float(word)
    if not re.search(r"\d", word):
        raise ValueError(f"{word!r} is no number")
    return complex(re.sub("i$", "j", word))


def stated(path: Path) -> dict[str, float]:
    """What a file says of its radar beside its echo, as our settings: {"prf_hz": 500.0}. Unusable: it is damaged."""
    with reading(path):
        found = {name.rpartition("/")[2].lower(): one for name, one in beside(path).items()}
    numbers = {name: one for name, one in found.items() if one.size == 1 and one.dtype.kind in "fiu"}
    single = {SAID[name]: float(one.item()) for name, one in numbers.items()}
    if carrier := single.pop("carrier", 0.0):
        single["wavelength_m"] = LIGHT_M_S / (carrier * (1e9 if carrier < 1000 else 1))  # in GHz, or in Hz
    return single


def beside(path: Path) -> dict[str, "np.ndarray"]:
    """What has one of the names of SAID in a file: arrays, and what HDF5 keeps as attributes of anything."""
    import numpy as np

    suffix = path.suffix.lower()
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if name.lower() in SAID}
    if suffix == ".mat" and not is_hdf5(path):
        return {name: read() for name, read in matlab.arrays(path.read_bytes()).items() if name.lower() in SAID}
    if suffix not in (".mat", ".h5", ".hdf5"):
        return {}
    import h5py

    with h5py.File(path, "r") as file:
        objects = held(file)
        said = [(name, one.attrs) for one in objects.values() for name in one.attrs if name.lower() in SAID]
        found = {name: np.asarray(marks[name]) for name, marks in said if is_number_of(marks.get_id(name))}
        named = {name: one for name, one in objects.items() if name.rpartition("/")[2].lower() in SAID}
        return found | {name: one[()] for name, one in named.items() if hasattr(one, "dtype") and is_number_of(one)}


def is_number_of(one: Any) -> bool:
    """Is this attribute or dataset of HDF5 a single number?"""
    return one.shape is not None and math.prod(one.shape) == 1 and is_plain(one.dtype)


def chosen(names: list[str], variable: str) -> str:
    """Unusable: the file holds no array, another one than is asked for, or several."""
    if variable and variable not in names:
        raise Unusable(f"it holds no array {variable!r} (data.variable); there are: {shown(names)}")
    if not variable and len(names) != 1:
        raise Unusable(f"it holds {len(names)} arrays, not one ({shown(names)}): name it, data.variable=")
    return variable or names[0]


def shown(names: list[str]) -> str:
    """Some of the names, of which a damaged file may have thousands, each of any length and of any bytes."""
    return some([printable(name)[:MOST_SHOWN] for name in names], 8) or "none"


class Slices:
    """A dataset of HDF5. A slice of it is a slice of the file, and may be damaged where others are not.

    turned: its axes are named in the other order.
    """

    def __init__(self, stored: Array, path: Path, turned: bool):
        self.stored, self.path, self.turned = stored, path, turned
        self.shape, self.dtype, self.ndim = stored.shape[:: -1 if turned else 1], stored.dtype, stored.ndim
        self.size = stored.size

    def __getitem__(self, key: "tuple[slice, ...] | EllipsisType") -> "np.ndarray":
        where = key if isinstance(key, tuple) else (slice(None),) * self.ndim
        cells = math.prod(len(range(*one.indices(length))) for one, length in zip(where, self.shape, strict=True))
        if cells * self.dtype.itemsize > MOST_WHOLE_BYTES:  # a file of some bytes may state any size
            raise Unusable(f"shape {self.shape} of {self.dtype} is more than can be read at once")
        with reading(self.path):
            part: np.ndarray = self.stored[where[::-1]].T if self.turned else self.stored[where]
        return part


READERS: dict[str, Callable[[Path, str], Array]] = {
    ".npy": of_numpy, ".npz": of_zip, ".mat": of_matlab, ".h5": of_hdf5, ".hdf5": of_hdf5, ".csv": of_text,
}  # fmt: skip
WHAT = {
    ".npy": "it is not a NumPy array", ".npz": "it is no archive of NumPy arrays", ".mat": "it is not a MATLAB file",
    ".h5": "it is not an HDF5 file", ".hdf5": "it is not an HDF5 file", ".csv": "it is not a table of numbers",
}  # fmt: skip
