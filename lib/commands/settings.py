"""A run's settings: the stored ones where there is a run.json, else composed from the flags.

Later steps need --run alone. A contradiction between what is stored and what is given is refused with the difference.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from lib import recipes
from lib.core import config as configuration
from lib.core import names
from lib.core.contract import Recipe
from lib.core.errors import Stop, nearest
from lib.core.run import SCRIPTS, Run, read_memo, read_record, write_record
from lib.core.shared import alone_at

SCALES = ("full", "tiny")  # of a demo


def of_run(step: int, args: argparse.Namespace) -> tuple[Run, Recipe, Any, dict[str, Any]]:
    """The run, its recipe, its configuration and what run.json says.

    Stop: there is no such run, or a flag contradicts what is stored.
    """
    scale = os.environ.get("PIPELINE_SCALE", "") or "full"
    configuration.one_of("PIPELINE_SCALE", scale, SCALES)
    name = args.run or default_name(args)
    names.refuse_unsafe("--run", name)
    run = Run(args.root.resolve(), name)
    stored = read_record(run.record)
    if stored is None:
        run, stored = earlier_session(run, args)
    if stored is None and step > 1 and args.run and not args.recipe:
        refuse_misplaced(run)
        there = sorted(path.parent.name for path in (run.root / "runs").glob("*/run.json"))
        raise Stop(
            f"there is no run {args.run!r} below {run.root}: {nearest(args.run, there)}",
            f"python {SCRIPTS[1]} --run {args.run} --recipe NAME   (makes it)",
        )
    if stored is None or step == 1:
        return compose(run, args, scale, stored or {})
    refuse_other(stored, run, "recipe", args.recipe and Path(args.recipe).name)
    refuse_other(stored, run, "preset", args.preset)
    refuse_other(stored, run, "demo", args.demo)
    if os.environ.get("PIPELINE_SCALE") and stored["demo"]:
        refuse_other(stored, run, "scale", scale)
    recipe = recipes.find(args.root, stored["recipe"])
    said = dict(configuration.parse_override(text) for text in args.overrides)
    asked = stored["overrides"] | said
    config = configuration.of_record(recipe, stored, stored.get("decided", {}) | said)
    if not args.plan:
        refuse_changes(run, stored["config"], config)
        refuse_absent_checkpoint(run, said.get("eval.checkpoint", ""))
    return run, recipe, config, stored | {"overrides": asked, "config": configuration.to_dotted(config)}


def refuse_misplaced(run: Run) -> None:
    """Stop: a run of this name was copied beside runs/ instead of into it."""
    beside = run.root / run.name
    if (beside / run.record.name).is_file():
        command = shlex.join(["mv", str(beside), str(run.folder)])
        if not run.folder.parent.is_dir():
            command = f"{shlex.join(['mkdir', str(run.folder.parent)])} && {command}"
        raise Stop(f"the run {run.name!r} lies in {beside}, but runs are looked for in {run.folder.parent}", command)


def default_name(args: argparse.Namespace) -> str:
    """'<recipe>-<preset>-demo': what a run is called that --run does not name."""
    recipe = recipes.find(args.root, args.recipe or recipes.RECIPES[0])
    return f"{recipe.name}-{args.preset or next(iter(recipe.PRESETS))}" + ("-demo" if args.demo else "")


def remember_recipe(run: Run, recipe: Recipe) -> None:
    """Only places.json holds paths of this machine: where the user's own recipe lies is written there."""
    key, folder = f"recipe/{recipe.name}", str(recipe.folder)
    if recipe.name not in recipes.RECIPES and read_memo(run.places).get(key) != folder:
        with alone_at(run.places):
            write_record(run.places, read_memo(run.places) | {key: folder})


def compose(
    run: Run, args: argparse.Namespace, scale: str, stored: dict[str, Any]
) -> tuple[Run, Recipe, Any, dict[str, Any]]:
    """A new run, or new settings that step 1 gives to an old one; what is not said again stays as it was stored."""
    recipe = recipes.find(args.root, args.recipe or stored.get("recipe", recipes.RECIPES[0]))
    preset = args.preset or stored.get("preset") or next(iter(recipe.PRESETS))
    demo = bool(args.demo if args.demo is not None else stored.get("demo"))
    scale = scale if demo else "full"
    said = dict(configuration.parse_override(text) for text in args.overrides)
    asked = (stored.get("overrides", {}) if args.run else {}) | said
    if "decided" in stored:  # what is said otherwise now is not decided any more
        open_still = {key: value for key, value in said.items() if value == stored["overrides"].get(key)}
        kept = {key: value for key, value in stored["decided"].items() if key not in said or key in open_still}
        stored = stored | {"decided": kept}
    config, differs = configuration.compose(recipe, preset, demo, scale, asked | stored.get("decided", {}))
    if changed_settings(stored.get("config", {}), config):  # what the base's scores decided is decided again
        stored = {key: value for key, value in stored.items() if key != "decided"}
        config, differs = configuration.compose(recipe, preset, demo, scale, asked)
    record = stored | {
        "run": run.name, "recipe": recipe.name, "preset": preset, "demo": demo, "scale": scale, "overrides": asked,
        "config": configuration.to_dotted(config), "differs_from_preset": differs, "seed": config.train.seed,
    }  # fmt: skip
    return run, recipe, config, record


def refuse_other(stored: dict[str, Any], run: Run, key: str, given: Any) -> None:
    if given is not None and given != stored[key]:
        raise Stop(
            f"the run {run.name} was made with {key}={stored[key]}, not {given}",
            "leave it out, or choose another --run NAME",
        )


def changed_settings(stored: dict[str, Any], config: Any) -> dict[str, Any]:
    """Settings that differ from the stored ones and that the samples or the noise depend on (lib.core.config.free)."""
    free = configuration.marked(config, "free")
    return {
        key: value
        for key, value in configuration.to_dotted(config).items()
        if value != stored.get(key) and key not in free
    }


def refuse_changes(run: Run, stored: dict[str, Any], config: Any) -> None:
    """Later steps may change only what no sample and no noise depends on."""
    changed = changed_settings(stored, config)
    if changed:
        shown = ", ".join(f"{key}: stored {stored.get(key)!r}, given {value!r}" for key, value in changed.items())
        again = shlex.join(f"{key}={configuration.value_text(value)}" for key, value in changed.items())
        raise Stop(
            f"the run {run.name} was made with other settings ({shown})",
            f"python {SCRIPTS[1]} --run {run.name} {again}   (changes the run), or another --run NAME",
        )


def refuse_absent_checkpoint(run: Run, wanted: str) -> None:
    """Nothing is stored before it was accepted: a checkpoint that is not there would break every later call."""
    there = sorted({folder.name for folder in run.folder.glob("train/*/step-*")})
    numbers = {int(name.removeprefix("step-")) for name in there if name[5:].isdigit()}
    if wanted.startswith("step-") and int(wanted.removeprefix("step-")) not in numbers:
        cause = f"the run {run.name} has no checkpoint {wanted!r}; there are: {', '.join(there) or 'none'}"
        raise Stop(cause, run.command(5, "--checkpoint best"))


def earlier_session(run: Run, args: argparse.Namespace) -> tuple[Run, dict[str, Any] | None]:
    """A run folder of this name below the read-only inputs is copied here and continued.

    --plan copies nothing: it reads the run where it lies.
    """
    from lib.data import find

    if not args.plan:
        return run, find.continue_run(run, args.inputs)
    there = find.newest_elsewhere(run, args.inputs, sys.stderr if args.json else None)
    if there is None:
        return run, None
    in_runs = there.parent.name == "runs"  # else its steps count as absent here
    return Run(there.parents[1], there.name) if in_runs else run, read_record(there / "run.json")
