"""--plan and --list: what would run and why, what it costs, what there is. Torch-free, half a second."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from lib import recipes
from lib.commands import cost
from lib.core import config as configuration
from lib.core import footprint, steps
from lib.core.contract import Recipe
from lib.core.errors import DONE
from lib.core.records import Plan
from lib.core.run import STEPS, Run


def show_plan(run: Run, recipe: Recipe, config: Any, record: dict[str, Any], args: argparse.Namespace) -> int:
    """The state of every step, what would run and why, and what the run costs."""
    states = chained(run, recipe, config)
    plan = recipe.plan(config)
    costs = cost.of_run(recipe, config, plan)
    if args.json:
        words = {step: {"state": s.word, "reasons": s.reasons, "progress": s.progress} for step, s in states.items()}
        print(json.dumps({"run": run.name, "states": words, "plan": asdict(plan), "costs": costs}, indent=1))
        return DONE
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


def show_list(args: argparse.Namespace) -> int:
    """Recipes, presets with what a good run shows, and every setting with its default."""
    names = [args.recipe] if args.recipe else list(recipes.RECIPES)
    table: dict[str, Any] = {"renamed": configuration.RENAMED}
    for name in names:
        recipe = recipes.find(args.root, name)
        defaults = configuration.to_dotted(recipe.Config())
        table[recipe.name] = {
            "presets": {preset: recipe.EXPECTED.get(preset, "") for preset in recipe.PRESETS},
            "settings": defaults,
        }
    if args.json:
        print(json.dumps(table, indent=1))
        return DONE
    for name, entry in list(table.items())[1:]:
        print(name)
        for preset, expected in entry["presets"].items():
            print(f"  --preset {preset:<22} {expected}")
        for key, value in entry["settings"].items():
            print(f"    {key}={value}")
    return DONE
