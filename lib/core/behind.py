"""What nobody waits for is done behind the work that goes on, one thing at a time, by a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Behind:
    """`start` what may end later. What it raises is raised by the next call of anything here, at last by `close`."""

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.running: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """After what was started before."""
        self.wait()
        self.pool = self.pool or ThreadPoolExecutor(1, "behind")
        self.running = self.pool.submit(work)

    def look(self) -> None:
        """Raises what went wrong, if it has by now; does not wait."""
        if self.running and self.running.done():
            self.wait()

    def wait(self) -> None:
        running, self.running = self.running, None
        if running:
            running.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            if self.pool:
                self.pool.shutdown()
                self.pool = None
