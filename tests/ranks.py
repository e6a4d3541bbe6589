"""Steps and functions in several processes that know of each other, as a launcher would start them, in a second.

The processes are forked from a server that has imported everything.
"""

import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.core.processes import free_port

ROOT = Path(__file__).resolve().parent.parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch", "peft", "pandas", "accelerate", "tests.conftest", "lib.training.stages", "lib.evaluation.evaluate"]
)


def join(rank: int, count: int, port: int, folder: Path) -> None:
    """Makes this process one of `count`; what it says goes into a file of `folder`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    output = os.open(folder / f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)


def one_step(rank: int, count: int, port: int, folder: Path, number: int, words: tuple[str, ...]) -> None:
    join(rank, count, port, folder)
    os.chdir(folder)
    script = str(next(ROOT.glob(f"step{number}_*.py")))
    sys.argv = [script, "--run", "r", *words]
    runpy.run_path(script, run_name="__main__")


def one_function(
    rank: int, count: int, port: int, folder: Path, function: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    join(rank, count, port, folder)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save(function(*given), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def started(count: int, target: Callable[..., Any], folder: Path, *given: Any) -> list[Any]:
    port = free_port()
    children = [SERVER.Process(target=target, args=(rank, count, port, folder, *given)) for rank in range(count)]
    for child in children:
        child.start()
    return children


def end(children: list[Any]) -> None:
    """Waits until all have ended; where one fails, the others, which wait for it, are killed 5 s later."""
    late = time.monotonic() + 120
    while any(child.exitcode is None for child in children) and time.monotonic() < late:
        time.sleep(0.05)
        if any(child.exitcode for child in children):
            late = min(late, time.monotonic() + 5)
    for child in children:
        child.kill()
        child.join()


def steps(count: int, folder: Path, number: int, *words: str) -> tuple[list[int | None], str]:
    """A step of the run r below `folder` in `count` processes: their exit codes, and what they said."""
    children = started(count, one_step, folder, number, words)
    end(children)
    return [child.exitcode for child in children], said(count, folder)


def call(count: int, folder: Path, function: Callable[..., Any], *given: Any) -> list[Any]:
    """What `function(*given)` returns in each of `count` processes of one group."""
    import torch

    children = started(count, one_function, folder, function, given)
    end(children)
    assert [child.exitcode for child in children] == [0] * count, said(count, folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


def said(count: int, folder: Path) -> str:
    return "".join((folder / f"rank{rank}.txt").read_text() for rank in range(count))
