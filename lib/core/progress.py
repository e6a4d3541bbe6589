"""What the user sees while a step works: a bar on a terminal, one plain line every few seconds elsewhere.

A saved notebook keeps every line it was sent (a bar of 6 s became 60 outputs), so there a line ends in a carriage
return and lib.commands.notebook lets the next one replace it.
"""

import os
import sys
import time
from collections import deque

from lib.core.session import Clock
from lib.core.words import counted

AVERAGED = 50  # units: the losses of single steps jump, their mean over so many shows where they go


class Progress:
    """`update(done, numbers)` after every unit; `numbers` are learning rates (lr_…) and losses.

    `unit` is in the plural ("steps"); `total` is 0 where it is not known.
    """

    def __init__(self, title: str, done: int, total: int, unit: str, clock: Clock, every_seconds: float):
        self.title, self.total, self.unit, self.clock, self.every_seconds = title, total, unit, clock, every_seconds
        self.first, self.started, self.said = done, time.monotonic(), time.monotonic()
        self.recent: deque[dict[str, float]] = deque(maxlen=AVERAGED)
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total or None, initial=done, unit=unit, desc=title, dynamic_ncols=True)

    def update(self, done: int, numbers: dict[str, float]) -> None:
        self.recent.append(numbers)
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            self.bar.set_postfix_str(self.described(numbers), refresh=False)
        elif done == self.total or time.monotonic() - self.said >= self.every_seconds:
            self.said = time.monotonic()
            replaced = "PIPELINE_NOTEBOOK" in os.environ and done != self.total
            print(self.line(done, numbers), end="\r" if replaced else "\n", flush=True)

    def line(self, done: int, numbers: dict[str, float]) -> str:
        elapsed = time.monotonic() - self.started
        rate = (done - self.first) / elapsed if elapsed > 0 else 0.0
        parts = [self.headed(done), self.described(numbers)]
        parts += [f"{rate:.3g} {self.unit}/s", f"{duration(elapsed)} elapsed"]
        if self.total and rate:
            parts.append(f"{duration((self.total - done) / rate)} left")
        if self.clock.limit_seconds is not None:
            parts.append(f"deadline in {duration(self.clock.remaining_seconds)}")
        return "  ".join(part for part in parts if part)

    def headed(self, done: int) -> str:
        """'train adapt 12/400 steps'; 'prepare: 1 record' where the total is not known."""
        if self.total:
            return f"{self.title} {done}/{self.total} {self.unit}"
        return f"{self.title}: {counted(done, self.unit.removesuffix('s'))}"

    def described(self, numbers: dict[str, float]) -> str:
        """Rates by group, each loss with its mean over the last units.

        'LR: q=1.00e-05 d=1.00e-04  loss_cls 1.43 (Avg: 1.52)'
        """
        rates = [f"{name.removeprefix('lr_')}={value:.2e}" for name, value in numbers.items() if name.startswith("lr_")]
        losses = [
            f"{name} {value:.4g} (Avg: {self.average(name):.4g})"
            for name, value in numbers.items()
            if not name.startswith("lr_")
        ]
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
