"""The select side chooses the best checkpoint, and says when a training gets no better.

Nothing of it is trained on, and nothing of it is in the report: step 5 scores the test side, which chooses nothing.
Where there are too few groups for a select side, nothing is chosen and the last step is what is scored.
"""

import math
import time

from lib.core.contract import main_measure
from lib.core.errors import FAILED, Stop
from lib.core.processes import is_first_rank
from lib.core.records import Row
from lib.core.run import append_line
from lib.network import scoring
from lib.training.state import Training, averaged, save


def is_due(training: Training) -> bool:
    """Every so many steps, and after the last one; never with train.evaluate_epochs=0 or without a select side."""
    every = training.evaluate_every_steps if training.select else 0
    return bool(every) and (training.step % every == 0 or training.step == training.stage.steps)


def evaluate(training: Training) -> None:
    """Score the selection samples; a better main metric makes this step the best and saves it.

    Step 0 is the base, for the log alone. Stop: the main metric is not finite.
    """
    started = time.monotonic()
    recipe, config = training.job.recipe, training.job.config
    scored = rows(training)
    scores = recipe.summarise(config, training.stage, scored)
    main, measure = main_measure(recipe, config, training.stage)
    value = scores[main]
    if not math.isfinite(value):
        command = training.job.run.command(4, "--detect-anomaly")
        raise Stop(f"{main} is {value} at step {training.step}", command, FAILED)
    better = training.step > 0 and (
        training.best is None
        or (value < training.best["value"] if measure.lower_is_better else value > training.best["value"])
    )
    training.evaluations_since_best = 0 if better or not training.step else training.evaluations_since_best + 1
    if is_first_rank():
        append_line(training.folder / "log.jsonl", {"step": training.step, "eval": scores, "main": main})
        training.accelerator.log({f"select/{name}": score for name, score in scores.items()}, step=training.step)
        print(f"  step {training.step}: {main} {value:.5g}" + (" (best)" if better else ""), flush=True)
    if better:
        training.best = {"step": training.step, "metric": main, "value": value}
    if training.step > 0 and is_among_best(training, value, measure.lower_is_better) and training.config.keep_best:
        save(training)
    training.job.clock.note_finishing(time.monotonic() - started)


def rows(training: Training) -> list[Row]:
    """Of the selection samples; those of the base are not computed again where it was asked before."""
    if training.step == 0 and training.base_rows:
        return training.base_rows
    assert training.select
    job, stage, parts = training.job, training.stage, training.parts
    with averaged(training):
        return scoring.divided_rows(
            job.recipe, job.config, stage, parts, training.select, training.accelerator, training.feature_cache,
            training.batches.workers,
        )  # fmt: skip


def is_among_best(training: Training, value: float, lower_is_better: bool) -> bool:
    """Notes a step that is one of the train.keep_best best so far: `training.leaders`, best first."""
    leaders = [*training.leaders, {"step": training.step, "value": value}]
    leaders.sort(key=lambda one: (one["value"] if lower_is_better else -one["value"], one["step"]))
    training.leaders = leaders[: training.config.keep_best]
    return any(one["step"] == training.step for one in training.leaders)


def out_of_patience(training: Training) -> bool:
    """Did train.patience_evaluations evaluations in a row bring nothing better?"""
    patience = training.config.patience_evaluations
    return bool(patience) and training.evaluations_since_best >= patience
