"""How many threads make batches ahead of the step (train.workers): measured over the first steps, kept in run.json.

No result depends on it. Threads help where drawing, decoding and reading would keep the device waiting; where the
processor that they need is the one that trains, they may not.
"""

import os
import pickle
import random
import statistics

import numpy as np
import torch

from lib.core import machine, order
from lib.core.errors import FAILED, Stop
from lib.core.processes import any_asks, is_first_rank
from lib.core.run import write_record
from lib.core.words import counted
from lib.training.state import Training

MOST = 4  # threads: Python's lock lets no more of them draw at once
TURN_STEPS = 3  # with one number; the first of them is not counted, since the threads have only begun
TURNS = 4  # without, with, without, with


def at_start(training: Training) -> int:
    """What the settings say, or what an earlier session measured; 0 while that is open."""
    said = training.config.workers
    return int(training.job.record.get("workers", 0) if said == "auto" else said)


class Trial:
    """`note` hears how long each step took and changes the number of threads; after TURNS turns the faster one stays.

    Over several processes all take the same, and threads where one process was faster with them.
    """

    def __init__(self, training: Training):
        self.training, self.candidates = training, (0, spare_threads(training))
        self.open = training.config.workers == "auto" and "workers" not in training.job.record
        self.seconds: list[float] = []

    def note(self, seconds: float) -> None:
        if not self.open:
            return
        self.seconds.append(seconds)
        turn, within = divmod(len(self.seconds), TURN_STEPS)
        if turn == TURNS:
            self.decide()
        elif within == 0:
            self.training.batches.use(self.candidates[turn % 2])

    def of_turns(self, first: int) -> list[float]:
        """The seconds that count, of every second turn."""
        counted_ones = [(n, one) for n, one in enumerate(self.seconds) if n % TURN_STEPS]
        return [one for n, one in counted_ones if n // TURN_STEPS % 2 == first]

    def decide(self) -> None:
        self.open = False
        without, with_threads = (statistics.median(self.of_turns(first)) for first in (0, 1))
        faster = any_asks(self.training.accelerator, with_threads < without)
        chosen = self.candidates[1] if faster else 0
        self.training.batches.use(chosen)
        self.training.job.record["workers"] = chosen
        if is_first_rank():
            write_record(self.training.job.run.record, self.training.job.record)
            threads = counted(self.candidates[1], "thread")
            took = f"{with_threads:.3g} s a step with {threads}, {without:.3g} s without"
            print(f"train.workers={chosen}: batches made ahead of the step took {took}", flush=True)


def refuse_shared_chance(training: Training) -> None:
    """Stop: drawing a sample takes random numbers that others take too, so threads would change what is drawn."""
    key = order.sample_at(0, training.config.seed, training.train.length, training.orders)

    def moved() -> bool:
        before = chance()
        training.train.draw(key.index, key)
        return chance() != before

    if moved() and moved():  # twice: a thread of a library may have moved them meanwhile
        cause = f"the recipe {training.job.recipe.name} draws samples with random numbers of its own accord"
        raise Stop(cause, "take them from key.generator() in its `sampler`", FAILED)


def chance() -> list[bytes]:
    """The states of the generators that a whole process shares."""
    shared = np.random.get_state()  # noqa: NPY002 (only looked at)
    return [pickle.dumps(state) for state in (torch.get_rng_state().numpy(), shared, random.getstate())]


def spare_threads(training: Training) -> int:
    """Cores beside those that train, for each process of this machine; at least one, since a disk is waited for too."""
    each = machine.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    training_cores = 1 if training.accelerator.device.type == "cuda" else torch.get_num_threads()
    return min(MOST, max(1, each - training_cores))
