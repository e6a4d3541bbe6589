"""One call of one step: what a step script and the shared rooms hand from one to the next."""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lib.core import config as configuration
from lib.core import steps
from lib.core.contract import Recipe
from lib.core.processes import is_first_rank
from lib.core.run import Run, write_record
from lib.core.session import Clock


@dataclass
class Job:
    """Everything that the work of a step needs. `read` collects the settings that the work looks at."""

    step: int
    run: Run
    recipe: Recipe
    config: Any
    record: dict[str, Any]  # run.json
    args: argparse.Namespace
    clock: Clock
    before: steps.State = field(default_factory=lambda: steps.State("absent"))
    progress: dict[str, Any] | None = None
    made_from: dict[str, Any] = field(default_factory=dict)  # the fingerprint that the step's stamp stores
    read: set[str] = field(default_factory=set)
    shard: bool = False  # are the blocks of networks spread over this step's processes? (train.shard)

    def __post_init__(self) -> None:
        configuration.note_reads(self.config, self.read)

    def composed(self, decided: dict[str, Any]) -> Any:
        """The run's settings with what the recipe decided laid over them; {} gives them as the user said them."""
        return configuration.note_reads(configuration.of_record(self.recipe, self.record, decided), self.read)

    def settle(self, decided: dict[str, Any]) -> None:
        """What the recipe decided counts from now on, and in every later session of this run."""
        self.config = self.composed(decided)
        self.record |= {"decided": decided, "config": configuration.to_dotted(self.config)}
        self.note_made_from()
        if is_first_rank():
            write_record(self.run.record, self.record)

    def note_made_from(self) -> None:
        """What the step is made from now, with every setting that it was seen reading so far.

        As the run's record states them: what a step lowers on its way (lib.training.memory) is no other training, and
        the next session, which compares, has not lowered it yet.
        """
        made = steps.fingerprint(self.run, self.step, self.recipe, self.config, self.read)
        self.made_from = made | {"config": {key: self.record["config"][key] for key in made["config"]}}

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """What is looked at within the block is only shown: no output depends on it."""
        before = set(self.read)
        try:
            yield
        finally:
            self.read.intersection_update(before)

    def advance(self, done: int, total: int, unit: str) -> None:
        self.progress = {"done": done, "total": total, "unit": unit}

    def pause_if_out_of_time(self, unit_seconds: float = 0.0) -> None:
        if not self.clock.has_time(unit_seconds):
            raise self.clock.pause()
