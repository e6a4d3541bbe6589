"""What choosing the best checkpoint costs: the evaluations' share of a training, of a recipe's default preset.

The demo at its full size, at the preset's counts: steps between two evaluations, selection samples. One step and one
evaluation take turns, with frozen features kept, which makes steps cheaper and the share larger. A demo's epochs are
short: beside its share stands how many training samples an epoch needs for MOST_SHARE with all of eval.select_samples.
"""

from pathlib import Path
from typing import Any

from lib.core.records import Sampler
from lib.training import selection
from tests.bench import demos, loops, turns

MOST_SHARE = 0.05  # of the training's time, by default


def measure(name: str, root: Path, turns_each: int) -> dict[str, Any]:
    """Of the first stage."""
    job, stage, manifest, places = demos.opened(name, root, {}, "full")
    recipe, config = job.recipe, job.config
    train = recipe.sampler(config, stage, manifest, "train")
    few = Sampler(4 * config.train.global_batch, train.draw)  # they come again at once, as in the second epoch
    made = loops.training(root / f"{name}-kept", recipe, config, stage, recipe.build(config, stage, places), few, True)
    made.train, made.select = train, recipe.sampler(config, stage, manifest, "select")
    step = loops.ours(made)
    for _ in range(4):
        step()
    evaluation = lambda: recipe.summarise(config, stage, selection.rows(made))  # noqa: E731
    found = turns.in_turns({"step": step, "evaluation": evaluation}, turns_each)
    evaluations = 1 + -(-stage.steps // made.evaluate_every_steps)  # the first one is of the base
    step_seconds, evaluation_seconds = (found[kind][turns.clock()] for kind in ("step", "evaluation"))
    choosing, training = evaluations * evaluation_seconds, stage.steps * step_seconds
    whole = evaluation_seconds / made.select.length * config.eval.select_samples
    enough = whole * (1 - MOST_SHARE) / MOST_SHARE / (step_seconds / config.train.global_batch)
    return {
        "seconds": found,
        "share": round(choosing / (choosing + training), 4),
        "steps": stage.steps,
        "evaluations": evaluations,
        "selection samples": made.select.length,
        "samples of an epoch": train.length,
        f"samples of an epoch with {MOST_SHARE:.0%}": round(enough),
    }
