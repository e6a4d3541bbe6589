"""The part of a checkpoint that the processes write together: the rows of spread tensors, each process its own.

torch.distributed.checkpoint writes them as safetensors files that say which rows they hold, so any number of processes
reads them again, also one that holds the tensors whole.
"""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as distributed
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from lib.core.hashes import sha256_of
from lib.core.run import flush
from lib.network import sharding

FOLDER = "pieces"  # in the folder of a checkpoint
FILE_BYTES = 2 << 30  # at most, over all processes: a process holds its part of a file in memory while it writes it


class Written(NamedTuple):
    """A folder of pieces under a temporary name, and the sha256 of its files as their writers read them back."""

    folder: Path
    hashes: dict[str, str]


def write(stage: Path, tensors: Mapping[str, Any]) -> Written:
    """All processes call it, with the same names. The folder is on a disk that all of them see."""
    folder = stage / ".pieces.tmp"
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()
    writer = distributed.HuggingFaceStorageWriter(str(folder), files_of(tensors), save_distributed=True)
    distributed.save(dict(tensors), storage_writer=writer)
    hashes = {}
    for file in sorted(folder.glob(f"shard-{dist.get_rank() + 1:05}-*")):
        flush(file)
        hashes[file.name] = sha256_of(file)
    return Written(folder, {name: value for part in sharding.gathered(hashes) for name, value in part.items()})


def files_of(tensors: Mapping[str, Any]) -> dict[str, int]:
    """The number of the file, from 1, that each tensor goes into."""
    found, filled_bytes = {}, 0
    for name, tensor in sorted(tensors.items()):
        found[name] = 1 + filled_bytes // FILE_BYTES
        filled_bytes += tensor.numel() * tensor.element_size()
    numbers = {old: new for new, old in enumerate(sorted(set(found.values())), 1)}
    return {name: numbers[number] for name, number in found.items()}


def shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """What the pieces of a checkpoint hold: name -> shape of the whole tensor; {} where it has none."""
    folder = checkpoint / FOLDER
    if not folder.is_dir():
        return {}
    stored: dict[str, Any] = distributed.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: about.size for name, about in stored.items() if isinstance(about, TensorStorageMetadata)}


@torch.no_grad()
def read(checkpoint: Path, wanted: Mapping[str, Any]) -> None:
    """Fills tensors from the pieces, by name: a spread one with this process's rows. No process waits for another."""
    reader = distributed.HuggingFaceStorageReader(str(checkpoint / FOLDER))
    places = {name: tensor.detach() for name, tensor in wanted.items()}
    with warnings.catch_warnings():  # that this process is alone, which was said
        warnings.simplefilter("ignore", UserWarning)
        distributed.load(places, storage_reader=reader, no_dist=True)
