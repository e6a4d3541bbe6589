"""What a reader of foreign files is to the fuzzer, and the small things that several whole files hold.

`read` is the project's own reader. It may end with one of ENDS (one sentence) and with nothing else; where it gives a
value, `wrong` says what cannot be true of it. `damaged` names the files that the fuzzer changes, by a pattern.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lib.core.errors import Stop
from lib.data import pictures
from lib.recipes.vavae_microdoppler import echo_files

ENDS = (Stop, pictures.Unreadable, echo_files.Unusable)  # a sentence: of the step, or of one record


class Reader(NamedTuple):
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    wrong: Callable[[Any], str] = lambda value: ""
    damaged: str = "**/*"  # which of the files
    shared: str = ""  # the beginning of the names of folders with inputs for this reader, where it is another name
    reasons: Callable[[Any], list[str]] = lambda value: []  # why single records of a value are left out


def finite(arrays: Iterable[np.ndarray]) -> str:
    return next((f"numbers that are not finite: {one.shape}" for one in arrays if not np.isfinite(one).all()), "")


def save_picture(path: Path, side_px: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (side_px, side_px, 3), np.uint8)).save(path)


def points(columns: int) -> np.ndarray:
    return np.cumsum(np.full((21, columns), 0.01), 0)
