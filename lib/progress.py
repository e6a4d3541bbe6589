"""What a person sees while a step works: a bar on a terminal, one plain line every few seconds elsewhere.

A saved notebook keeps every line it was sent (facts: a 6 s bar became 60 outputs), so there a line ends in a carriage
return and lib.notebook lets the next one replace it.
"""
import os
import sys
import time
from collections import deque

from lib.session import Clock

AVERAGED = 50  # units: the losses of single steps jump, their mean over so many shows where they go


class Progress:
    """`update(done, numbers)` after every unit; `numbers` are learning rates (lr_…) and losses."""

    def __init__(self, title: str, done: int, total: int, unit: str, clock: Clock, every_seconds: float):
        self.title, self.total, self.unit, self.clock, self.every_seconds = title, total, unit, clock, every_seconds
        self.first, self.started, self.said = done, time.monotonic(), time.monotonic()
        self.recent: deque[dict[str, float]] = deque(maxlen=AVERAGED)
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, unit=unit, desc=title, dynamic_ncols=True)

    def update(self, done: int, numbers: dict[str, float]) -> None:
        self.recent.append(numbers)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            self.bar.set_postfix_str(self.described(numbers), refresh=False)
        elif done == self.total or time.monotonic() - self.said >= self.every_seconds:
            self.said = time.monotonic()
            print(self.line(done, numbers), end="\r" if "PIPELINE_NOTEBOOK" in os.environ and done != self.total else "\n", flush=True)

    def line(self, done: int, numbers: dict[str, float]) -> str:
        elapsed = time.monotonic() - self.started
        rate = (done - self.first) / elapsed if elapsed > 0 else 0.0
        remaining = (self.total - done) / rate if rate else float("nan")
        deadline = "" if self.clock.limit_seconds is None else f"  deadline in {duration(self.clock.remaining_seconds)}"
        return f"{self.title} {done}/{self.total} {self.unit}  {self.described(numbers)}  {rate:.3g} {self.unit}/s  {duration(elapsed)} elapsed  {duration(remaining)} left{deadline}"

    def described(self, numbers: dict[str, float]) -> str:
        """'LR: q=1.00e-05 d=1.00e-04  loss_cls 1.43 (Avg: 1.52)': rates by group, each loss with its mean over the last units."""
        rates = [f"{name.removeprefix('lr_')}={value:.2e}" for name, value in numbers.items() if name.startswith("lr_")]
        losses = [f"{name} {value:.4g} (Avg: {self.average(name):.4g})" for name, value in numbers.items() if not name.startswith("lr_")]
        return "  ".join(([f"LR: {' '.join(rates)}"] if rates else []) + losses)

    def average(self, name: str) -> float:
        values = [numbers[name] for numbers in self.recent if name in numbers]
        return sum(values) / len(values)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    if not 0 <= seconds < float("inf"):
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m{rest:02d}s" if minutes >= 60 else f"{minutes}m{rest:02d}s"
