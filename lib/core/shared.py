"""What several runs of one root share (assets, prepared arrays, memos) is made by one and found by the others."""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lib.core.session import take_lock

LOOK_SECONDS = 0.1


def keep_waiting() -> None:
    """A process that only waits for a moment does not ask whether its session ends."""


@contextlib.contextmanager
def alone_at(path: Path, pause: Callable[[], None] = keep_waiting) -> Iterator[None]:
    """While the block runs, no other process is in such a block for this path; it must not be entered twice.

    What a killed process left beside `path` under a temporary name is removed. pause(): asked while another process is
    waited for; it may raise Paused. The lock ends with the process that holds it, and its file with the block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    held = waited_for(lock, path, pause)
    try:
        remove_leftovers(path)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def waited_for(lock: Path, path: Path, pause: Callable[[], None]) -> int:
    """The descriptor of the lock, once it is ours. A file that its last holder has removed meanwhile is no lock."""
    said = False
    while True:
        held = take_lock(lock, fcntl.LOCK_EX)
        if held is not None:
            if is_at(held, lock):
                return held
            os.close(held)
            continue
        if not said and pause is not keep_waiting:
            print(f"another run is at {path}: waiting for it", flush=True)
            said = True
        pause()
        time.sleep(LOOK_SECONDS)


def is_at(held: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), lock.stat())
    except FileNotFoundError:
        return False


def remove_leftovers(path: Path) -> None:
    for beside in path.parent.glob(".*.tmp"):
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.tmp", beside.name):
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
