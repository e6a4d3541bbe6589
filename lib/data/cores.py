"""Step 3 on all cores: one function over many items; the results come in the order of the items, as with one core.

The cores are those that the step may use (`taskset` and containers count). Starting processes takes about a second, so
what is done sooner than that never starts any.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextvars import ContextVar
from operator import attrgetter
from typing import Any, TypeVar

from lib.core.config import note_reads
from lib.core.machine import cores

Item = TypeVar("Item")
Result = TypeVar("Result")
WORTH_SECONDS = 2.0  # of work by one core, after which the others are asked
AHEAD = 2  # items that wait for each process; they are in memory

# In a worker: the function, the settings that it is given, and the set of those that it has read.
GIVEN: ContextVar[tuple[Callable[[Any, Any], Any], Any, set[str]]] = ContextVar("given")


def in_order(
    config: Any, work: Callable[[Any, Item], Result], items: Iterable[Item], processes: int = 0
) -> Iterator[Result]:
    """work(config, item) for each item. What it raises is raised here, in its place.

    work: a function of a module, or functools.partial of one; it is sent to each process once. processes: 0 = one for
    each core.
    """
    left, spent, wanted = iter(items), 0.0, processes or cores()
    for item in left:
        started = time.monotonic()
        result = work(config, item)
        spent += time.monotonic() - started
        yield result
        if wanted > 1 and spent >= WORTH_SECONDS:
            break
    yield from spread(config, work, left, wanted)


def spread(config: Any, work: Callable[[Any, Item], Result], items: Iterator[Item], processes: int) -> Iterator[Result]:
    """The rest of the items, a few ahead of what is asked for. No process is started where there is none left."""
    first = next(items, None)
    if first is None:
        return
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(processes, context, begin, (work, config))
    waiting: deque[Future[tuple[Result, set[str]]]] = deque([pool.submit(one, first)])
    try:
        for item in items:
            waiting.append(pool.submit(one, item))
            if len(waiting) > AHEAD * processes:
                yield taken(config, waiting.popleft())
        while waiting:
            yield taken(config, waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def taken(config: Any, future: "Future[tuple[Result, set[str]]]") -> Result:
    """A result; the settings that its worker looked at count as looked at here (lib.core.config.note_reads)."""
    result, read = future.result()
    for key in read:
        attrgetter(key)(config)
    return result


def begin(work: Callable[[Any, Any], Any], config: Any) -> None:
    """In a worker: a request to stop is the parent's matter, and when the parent is gone, so is the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    read: set[str] = set()
    GIVEN.set((work, note_reads(config, read), read))


def end_with_parent() -> None:
    """A pool's workers would wait for a killed parent for ever: each of them keeps the others' pipes open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def one(item: Any) -> tuple[Any, set[str]]:
    """In a worker: the result for an item, and the settings that were read for it."""
    work, config, read = GIVEN.get()
    read.clear()
    return work(config, item), set(read)
