"""Foreign pickled checkpoints through torch's weights-only loader, which runs no code of the file.

Lightning checkpoints (HaMeR, VA-VAE) hold configuration objects, paths and counters beside the weights. Their classes
are read as empty dictionaries; a file that names any other class outside torch's own list is refused.
"""

import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.core.errors import Stop, first_line

# The classes beside the weights that are read as empty dictionaries.
INERT = re.compile(
    r"(omegaconf|yacs|pytorch_lightning|lightning|lightning_fabric|pathlib|typing|enum|numpy)\..+"
    r"|argparse\.Namespace|collections\.defaultdict|(builtins|__builtin__)\.(dict|list|int|float|str|bool|tuple|object)"
    r"|copy_reg\._reconstructor|copyreg\._reconstructor"
)

# What torch's loader raises for a damaged or foreign file, wherever the damage is.
DAMAGED = (
    pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
    AssertionError, MemoryError, OSError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Empty(OrderedDict[Any, Any]):
    """Stands for a class of INERT: building one gives an empty ordered dictionary, which torch's loader may fill."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return OrderedDict()  # and not an Empty: the loader fills exact OrderedDicts alone


class Ignored:
    """Stands for numpy's classes, whose state is a tuple that no dictionary could take."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load(file: Path) -> Any:
    """What a .pt, .pth or .ckpt file holds, with its tensors on the CPU; a zipped one is mapped, not read.

    Stop: the file is damaged, or names a class that may run code.
    """
    import torch

    zipped = is_zip(file)
    inert = inert_classes(file) if zipped else []
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except DAMAGED as error:
        raise Stop(
            f"{file} cannot be read as weights: {first_line(error)}", "fetch it again: python step2_download.py --force"
        ) from error


def is_zip(file: Path) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # a directory of several volumes, which torch never writes
        return False


def inert_classes(file: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """The file's classes that are read as empty dictionaries; a class outside INERT ends the run."""
    import torch

    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except DAMAGED as error:
        raise Stop(
            f"{file} is not a complete PyTorch checkpoint ({error})", "fetch it again: python step2_download.py --force"
        ) from error
    refused = sorted(name for name in foreign if not INERT.fullmatch(name))
    if refused:
        cause = f"{file} is refused: besides weights it names {', '.join(refused[:5])}, which could run code"
        raise Stop(cause, "get the weights as safetensors from their publisher")
    return [(Ignored if name.startswith("numpy.") else Empty, name) for name in foreign]
