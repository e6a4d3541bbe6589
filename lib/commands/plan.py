"""--plan and --list: what would run and why, what it costs, what there is. Torch-free, half a second."""

import argparse
from dataclasses import asdict
from typing import Any

from lib.commands import cost, listing
from lib.core import config as configuration
from lib.core import footprint, steps
from lib.core.contract import Recipe
from lib.core.errors import DONE
from lib.core.records import Plan
from lib.core.run import STEPS, Run


def show_plan(run: Run, recipe: Recipe, config: Any, record: dict[str, Any], told: dict[str, Any]) -> int:
    """The state of every step, what would run and why, and what the run costs."""
    states = chained(run, recipe, config)
    plan = recipe.plan(config)
    costs = cost.of_run(recipe, config, plan)
    words = {step: {"state": s.word, "reasons": s.reasons, "progress": s.progress} for step, s in states.items()}
    told |= {"run": run.name, "states": words, "plan": asdict(plan), "costs": costs}
    demo = f", demo ({record['scale']} scale)" if record["demo"] else ""
    print(f"run {run.name}: recipe {record['recipe']}, preset {record['preset']}{demo}")
    for step, state in states.items():
        print(f"  {step} {STEPS[step]:<9} {state}")
    print_costs(plan, costs)
    return DONE


def print_costs(plan: Plan, costs: dict[str, Any]) -> None:
    if plan.footprint:
        share = 100 * plan.trainable / plan.parameters
        print(f"  parameters {plan.parameters:,}, trainable {plan.trainable:,} ({share:.3f} %)")
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in footprint.parts(plan.footprint).items())
        print(f"  estimated peak memory {footprint.card_bytes(plan.footprint) / 1e9:.2f} GB ({parts})")
    else:
        print("  parameters: not known yet")
    for line in cost.lines(costs):
        print(f"  {line}")


def chained(run: Run, recipe: Recipe, config: Any) -> dict[int, steps.State]:
    """The states, where a complete step after one that must run again is stale too."""
    states: dict[int, steps.State] = {}
    broken = 0
    for step in STEPS:
        state = steps.state(run, step, recipe, config)
        if state.word == "complete" and broken:
            state = steps.State("stale", (f"step {broken} is {states[broken].word}",), state.progress)
        states[step] = state
        if step > 1 and state.word != "complete" and not broken:
            broken = step
    return states


def show_list(args: argparse.Namespace, told: dict[str, Any]) -> int:
    """Recipes, presets and settings of which every word of the command line is part."""
    table = listing.of_recipes(args)
    told |= {"renamed": configuration.RENAMED} | table
    for line in listing.lines(table):
        print(line)
    return DONE
