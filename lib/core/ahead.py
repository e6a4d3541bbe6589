"""What will be needed next is made ahead of time by threads. What is taken, and in which order, does not depend on it.

A function of a place (which samples make the next batch, say) gives the same whenever it is called, so whoever takes
it moves nothing but time. An error is raised where its place is taken, not before: as without threads.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)
T = TypeVar("T")


class Ahead(Generic[P, T]):
    """`take(place)` gives make(place); after(place) says which places follow it, and is asked in the caller's thread.

    workers: threads, 0 for none. At most workers + 1 results wait. A place that was not expected (after an interruption
    the order may go back) is made at once, and what follows it is begun anew. waited_seconds: in `take`, so far.
    """

    def __init__(self, make: Callable[[P], T], after: Callable[[P], Iterable[P]], workers: int):
        self.make, self.after, self.workers, self.waited_seconds = make, after, workers, 0.0
        self.pool = ThreadPoolExecutor(workers, "ahead") if workers else None
        self.begun: deque[tuple[P, Future[T]]] = deque()
        self.coming: Iterator[P] = iter(())

    def take(self, place: P) -> T:
        started = time.perf_counter()
        try:
            return self.make(place) if self.pool is None else self.made(place, self.pool)
        finally:
            self.waited_seconds += time.perf_counter() - started

    def made(self, place: P, pool: ThreadPoolExecutor) -> T:
        if not self.begun or self.begun[0][0] != place:
            self.drop()
            self.coming = itertools.chain([place], self.after(place))
        self.begin(pool)
        _, future = self.begun.popleft()
        self.begin(pool)
        return future.result()

    def begin(self, pool: ThreadPoolExecutor) -> None:
        for place in itertools.islice(self.coming, self.workers + 1 - len(self.begun)):
            self.begun.append((place, pool.submit(self.make, place)))

    def drop(self) -> None:
        for _, future in self.begun:
            future.cancel()
        self.begun.clear()

    def close(self) -> None:
        """Waits for what is being made. Further places are made by whoever takes them."""
        self.drop()
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None
