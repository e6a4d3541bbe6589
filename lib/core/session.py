"""The clock of the session, signals, and the guard against a dead parent.

A step asks `clock.has_time()` after every unit of work (an optimiser step, a record, a file). Out of time means: save,
exit 75, and the same command goes on in the next session. The clock starts at PIPELINE_SESSION_START, which the
notebook's first cell sets, so that all five steps share one limit; without it the clock starts with the process. Times
are of the machine's monotonic clock, which all its processes share and which nobody sets back.
"""

import fcntl
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from lib.core.errors import Paused, Stop

KAGGLE_SESSION_HOURS = 12.0
ON_KAGGLE = "KAGGLE_KERNEL_RUN_TYPE"  # set in its sessions alone; KAGGLE_KEY is also set on machines of its users


class Clock:
    """The deadline and the request to stop. `reserve_seconds` is kept for the last checkpoint and evaluation."""

    def __init__(self, limit_seconds: float | None, reserve_seconds: float, started: float):
        self.limit_seconds, self.reserve_seconds, self.started = limit_seconds, reserve_seconds, started
        self.stop_asked = ""  # the signal's name, once one came
        self.finishing_seconds = 0.0  # measured cost of saving plus evaluating
        if limit_seconds is not None and limit_seconds <= reserve_seconds:
            raise Stop(
                f"the time limit of {limit_seconds:.0f} s is shorter than the reserve of {reserve_seconds:.0f} s "
                "that the last checkpoint needs: nothing could be done",
                "give a longer --time-limit, or a smaller session.reserve_seconds",
            )

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def remaining_seconds(self) -> float:
        """Until the last moment to begin saving; infinite without a limit."""
        if self.limit_seconds is None:
            return float("inf")
        reserve = max(2 * self.finishing_seconds, self.reserve_seconds)
        return self.limit_seconds - reserve - self.elapsed_seconds

    def has_time(self, unit_seconds: float = 0.0) -> bool:
        """Is there time for one more unit of this length, and has nobody asked to stop?"""
        return not self.stop_asked and self.remaining_seconds > unit_seconds

    def pause(self) -> Paused:
        """What to raise once there is no time, with the reason."""
        return Paused(self.stop_asked or "the session's time is over")

    def note_finishing(self, seconds: float) -> None:
        self.finishing_seconds = max(self.finishing_seconds, seconds)


def open_clock(time_limit: str, reserve_seconds: float) -> Clock:
    """--time-limit > SESSION_HOURS > Kaggle's 12 h less the age of the container > no limit."""
    started = start_of_session()
    hours = os.environ.get("SESSION_HOURS")
    if time_limit:
        return Clock(seconds(time_limit), reserve_seconds, started)
    if hours:
        return Clock(seconds(hours + "h"), reserve_seconds, started)
    if ON_KAGGLE in os.environ:
        return Clock(KAGGLE_SESSION_HOURS * 3600, reserve_seconds, time.monotonic() - container_age_seconds())
    return Clock(None, reserve_seconds, started)


def start_of_session() -> float:
    """Stop: PIPELINE_SESSION_START is no number, or lies in the future: that would mean no limit, or no time at all."""
    told, now = os.environ.get("PIPELINE_SESSION_START"), time.monotonic()
    try:
        started = float(told) if told else now
    except ValueError:
        started = math.nan
    if not -math.inf < started <= now:
        cause = f"PIPELINE_SESSION_START={told!r} is not a past time of this machine's monotonic clock in seconds"
        raise Stop(cause, "unset PIPELINE_SESSION_START")
    return started


def seconds(text: str) -> float:
    """'11h30m', '90s', '45m', '1.5h' or plain seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    if not text or not match:
        raise Stop(f"--time-limit {text!r} cannot be read: write 11h30m, 45m or 90s")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def container_age_seconds() -> float:
    """How long process 1 has run: on Kaggle the age of the session (tested outside Kaggle only)."""
    try:
        fields = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except FileNotFoundError:  # not Linux
        return 0.0
    return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def catch_signals(clock: Clock) -> None:
    """SIGTERM and SIGINT ask for a stop at the next safe point; the second one ends the process at once."""

    def handler(number: int, frame: FrameType | None) -> None:
        if clock.stop_asked:
            os._exit(128 + number)
        clock.stop_asked = signal.Signals(number).name
        # os.write, because print in a handler fails when the signal came in the middle of another print
        os.write(2, f"\n{clock.stop_asked}: stopping at the next safe point; once more stops at once\n".encode())

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def parent_died() -> Callable[[], bool] | None:
    """How this process learns that nobody waits for it any more; None when it may outlive its parent (shell, nohup).

    A notebook and a step give their own process id in PIPELINE_PARENT. Between a step and its ranks stands torch's
    launcher, which does not notice that the step is gone; the ranks see it by the run's lock, which ends with the step.
    """
    if "RANK" in os.environ:
        lock = os.environ.get("PIPELINE_LOCK")
        return (lambda: take_lock(Path(lock), fcntl.LOCK_SH) is not None) if lock else None
    parent = int(os.environ.get("PIPELINE_PARENT") or 0)
    return (lambda: os.getppid() != parent) if parent else None


def take_lock(path: Path, kind: int) -> int | None:
    """Locks a file until this process ends or closes the returned descriptor; None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def guard_against_dead_parent(clock: Clock) -> None:
    """A step that a notebook started ends when the notebook's kernel dies, or it would keep the GPU for nobody.

    First the step is asked to save; if it has not ended 3 s later it is ended, and the last checkpoint stands. A rank
    is asked to stop by the step that started it in the file PIPELINE_STOP.
    """
    died = parent_died()
    if died is None:
        return
    asked = Path(os.environ.get("PIPELINE_STOP") or "no such file")

    def watch() -> None:
        while not died():
            if not clock.stop_asked and asked.is_file():
                clock.stop_asked = asked.read_text()
            time.sleep(0.5)
        clock.stop_asked = clock.stop_asked or "the parent process died"
        time.sleep(3)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
