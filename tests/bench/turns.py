"""Wall and process CPU time of several kinds of work, one after another in turns, on whatever device there is.

Turns, because a machine gets slower and faster in minutes; CPU time, because others use it too. The median of the turns
is what counts, with the least and the most beside it.
"""

import statistics
import time
from collections.abc import Callable

import torch

Numbers = dict[str, float]


def in_turns(work: dict[str, Callable[[], object]], turns: int = 5, calls: int = 1) -> dict[str, Numbers]:
    """Of one call of each, in seconds; each is called once before that. "cpu": of all threads of this process."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for one in work.values():
        one()
    for _ in range(turns):
        for name, one in work.items():
            found[name].append(taken(one, calls))
    return {name: numbers(both) for name, both in found.items()}


def taken(work: Callable[[], object], calls: int = 1) -> tuple[float, float]:
    """(wall, process CPU) seconds of one call, the device's work included."""
    wait_for_device()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        work()
    wait_for_device()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def numbers(taken: list[tuple[float, float]]) -> Numbers:
    wall, cpu = zip(*taken, strict=True)
    return {
        "wall": statistics.median(wall),
        "wall_least": min(wall),
        "wall_most": max(wall),
        "cpu": statistics.median(cpu),
        "cpu_least": min(cpu),
        "cpu_most": max(cpu),
    }


def clock() -> str:
    """Which of the two is compared: a GPU's work is in no process time, a shared CPU's is in nothing else."""
    return "wall" if torch.cuda.is_available() else "cpu"


def ratio(found: dict[str, Numbers], slow: str, fast: str) -> float:
    return round(found[slow][clock()] / found[fast][clock()], 3)
