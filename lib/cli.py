"""What the five step scripts share: flags, the run's settings, the order of the steps, stamps, exit codes.

A step script is `main(number, work)`: `work(job)` does the step and returns its outputs, raises `Paused` at a safe point
when the session ends, or `Stop` with one sentence and one command. Exit codes: 0 done, 75 paused, 2 usage, 1 failed.
"""
import argparse
import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lib import config as configuration
from lib import recipes, steps
from lib.errors import DONE, FAILED, PAUSED, Paused, Stop, nearest
from lib.plan import show_list, show_plan
from lib.processes import leave, rank_0_left, run_child
from lib.run import SCRIPTS, STEPS, Run, read_json, sweep, write_json
from lib.session import Clock, catch_signals, guard_against_dead_parent, open_clock, take_lock

DEMO_RESERVE_SECONDS = 2.0


@dataclass
class Job:
    """One call of one step: everything that `work` needs."""

    step: int
    run: Run
    recipe: ModuleType
    config: Any
    record: dict[str, Any]  # run.json
    args: argparse.Namespace
    clock: Clock
    before: steps.State = field(default_factory=lambda: steps.State("absent"))
    progress: dict[str, Any] | None = None
    made_from: dict[str, Any] = field(default_factory=dict)  # the fingerprint that the step's stamp stores

    def composed(self, decided: dict[str, Any]) -> Any:
        """The run's settings with what the recipe decided laid over them; {} gives them as a person said them."""
        record = self.record
        return configuration.compose(self.recipe, record["preset"], record["demo"], record["scale"], record["overrides"] | decided)[0]

    def settle(self, decided: dict[str, Any]) -> None:
        """What the recipe decided counts from now on, and in every later session of this run."""
        self.config = self.composed(decided)
        self.record |= {"decided": decided, "config": configuration.to_dotted(self.config)}
        self.made_from = steps.fingerprint(self.run, self.step, self.recipe, self.config)
        if is_first_rank():
            write_json(self.run.record, self.record)

    def advance(self, done: int, total: int, unit: str) -> None:
        self.progress = {"done": done, "total": total, "unit": unit}

    def pause_if_out_of_time(self, unit_seconds: float = 0.0) -> None:
        if not self.clock.has_time(unit_seconds):
            raise Paused(self.clock.stop_asked or "the session's time is over")


def main(
    step: int, work: Callable[[Job], list[Path] | int], add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
    again: tuple[str, ...] = (), result: Callable[[Job], str] | None = None,
) -> int:  # fmt: skip
    """Runs a step and returns its exit code. With one of the flags `again` a complete step has work too; `result` is what a
    complete one says."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads made a step 8 times slower on busy cores
    return leave(attempt(step, work, add_flags, again, result))


def attempt(step: int, work: Callable, add_flags: Callable | None, again: tuple[str, ...], result: Callable | None) -> int:
    try:
        args = parse(step, add_flags)
        args.always_work = any(getattr(args, flag) for flag in again)
        if args.list:
            return show_list(args)
        place = args.root
        run, recipe, config, record = settings(step, args)
        place = run.folder
        if args.plan:
            return show_plan(run, recipe, config, record, args)
        with locked(run):
            return perform(step, work, args, run, recipe, config, record, result)
    except Stop as stop:
        return say(stop)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return say(disk_full(error, place))


def say(stop: Stop) -> int:
    if is_first_rank() or not rank_0_left():
        print(f"error: {stop.cause}", file=sys.stderr)
        if stop.command:
            print(f"   go on with: {stop.command}", file=sys.stderr)
    return stop.code


def disk_full(error: OSError, place: Path) -> Stop:
    from lib.machine import free_bytes

    free = free_bytes(place)
    needed = getattr(error, "needed_bytes", 0)
    wanted = f", {needed / 1e6:.1f} MB needed" if needed else ""
    return Stop(f"the disk is full: {free / 1e6:.1f} MB free below {place}{wanted}; the last good checkpoint stands", "free some space, then run the same command", FAILED)


def parse(step: int, add_flags: Callable | None) -> argparse.Namespace:
    doc = sys.modules["__main__"].__doc__ or ""
    parser = argparse.ArgumentParser(prog=SCRIPTS[step], description=doc.split("\n")[0], epilog="exit codes: 0 done, 75 paused (run the same command again), 2 wrong usage or a missing asset, 1 failed")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, e.g. lora.rank=8 train.epochs=2 (--list shows all)")
    parser.add_argument("--recipe", help=f"one of {', '.join(recipes.RECIPES)}")
    parser.add_argument("--preset", help="a named set of settings of the recipe (--list)")
    parser.add_argument("--demo", action="store_true", default=None, help="stand-in data and a small network; runs on a CPU")
    parser.add_argument("--run", help="folder under runs/; later steps need only this")
    parser.add_argument("--plan", action="store_true", help="say what would run and why, and what it costs; do nothing")
    parser.add_argument("--list", action="store_true", help="recipes, presets and settings")
    parser.add_argument("--json", action="store_true", help="--plan and --list as JSON")
    parser.add_argument("--force", action="store_true", help="do this step again even if it is complete")
    parser.add_argument("--accept-code", action="store_true", help="go on although code changed since the training; it is recorded")
    parser.add_argument("--time-limit", default="", metavar="11h30m", help="of the whole session; the step pauses before it")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="holds runs/, data/, cache/ (default: the current folder)")
    parser.add_argument("--inputs", type=Path, action="append", default=[], metavar="DIR", help="a further place to look for data and earlier runs")
    if add_flags:
        add_flags(parser)
    args = parser.parse_intermixed_args()
    args.overrides += [f"{key}={value}" for key, value in getattr(args, "as_settings", lambda _: {})(args).items()]
    return args


# ---------------------------------------------------------------------------------------------- the run's settings


def settings(step: int, args: argparse.Namespace) -> tuple[Run, ModuleType, Any, dict[str, Any]]:
    """The run, its recipe and configuration: stored ones where there is a run.json, else composed from the flags."""
    scale = os.environ.get("PIPELINE_SCALE", "") or "full"
    name = args.run or default_name(args)
    run = Run(args.root.resolve(), name)
    stored = read_json(run.record) or earlier_session(run, args)
    if stored is None and step > 1 and args.run and not args.recipe:
        there = sorted(path.parent.name for path in (run.root / "runs").glob("*/run.json"))
        raise Stop(f"there is no run {args.run!r} below {run.root}: {nearest(args.run, there)}", f"python {SCRIPTS[1]} --run {args.run} --recipe NAME   (makes it)")
    if stored is None or step == 1:
        return compose(run, args, scale, stored or {})
    refuse_other(stored, run, "recipe", args.recipe)
    refuse_other(stored, run, "preset", args.preset)
    refuse_other(stored, run, "demo", args.demo)
    if os.environ.get("PIPELINE_SCALE") and stored["demo"]:
        refuse_other(stored, run, "scale", scale)
    recipe = recipes.load(stored["recipe"])
    said = dict(configuration.parse_override(text) for text in args.overrides)
    asked = stored["overrides"] | said
    config, _ = configuration.compose(recipe, stored["preset"], stored["demo"], stored["scale"], stored["overrides"] | stored.get("decided", {}) | said)
    if not args.plan:
        refuse_changes(run, stored["config"], config)
    return run, recipe, config, stored | {"overrides": asked, "config": configuration.to_dotted(config)}


def default_name(args: argparse.Namespace) -> str:
    recipe = args.recipe or recipes.RECIPES[0]
    preset = args.preset or next(iter(recipes.load(recipe).PRESETS))
    return f"{recipe}-{preset}" + ("-demo" if args.demo else "")


def compose(run: Run, args: argparse.Namespace, scale: str, stored: dict[str, Any]) -> tuple[Run, ModuleType, Any, dict[str, Any]]:
    """A new run, or step 1 giving new settings to an old one; what is not said again stays as it was stored."""
    recipe = recipes.load(args.recipe or stored.get("recipe") or recipes.RECIPES[0])
    preset = args.preset or stored.get("preset") or next(iter(recipe.PRESETS))
    demo = bool(args.demo if args.demo is not None else stored.get("demo"))
    scale = scale if demo else "full"
    said = dict(configuration.parse_override(text) for text in args.overrides)
    asked = (stored.get("overrides", {}) if args.run else {}) | said
    config, differs = configuration.compose(recipe, preset, demo, scale, asked | stored.get("decided", {}))
    if any(key.startswith(steps.SETTINGS[4]) for key in changed_settings(stored.get("config", {}), config)):  # the base is asked anew
        stored = {key: value for key, value in stored.items() if key != "decided"}
        config, differs = configuration.compose(recipe, preset, demo, scale, asked)
    record = stored | {
        "run": run.name, "recipe": recipe.__name__.rpartition(".")[2], "preset": preset, "demo": demo, "scale": scale, "overrides": asked,
        "config": configuration.to_dotted(config), "differs_from_preset": differs, "seed": config.train.seed,
    }  # fmt: skip
    return run, recipe, config, record


def refuse_other(stored: dict[str, Any], run: Run, key: str, given: Any) -> None:
    if given is not None and given != stored[key]:
        raise Stop(f"the run {run.name} was made with {key}={stored[key]}, not {given}", "leave it out, or choose another --run NAME")


def changed_settings(stored: dict[str, Any], config: Any) -> dict[str, Any]:
    """Settings that differ from the stored ones and that the samples or the noise depend on (lib.steps.FREE_SETTINGS)."""
    return {key: value for key, value in configuration.to_dotted(config).items() if value != stored.get(key) and not key.startswith(steps.FREE_SETTINGS)}


def refuse_changes(run: Run, stored: dict[str, Any], config: Any) -> None:
    """Later steps may move only what no sample and no noise depends on."""
    changed = changed_settings(stored, config)
    if changed:
        shown = ", ".join(f"{key}: stored {stored.get(key)!r}, given {value!r}" for key, value in changed.items())
        again = " ".join(f"{key}={value}" for key, value in changed.items())
        raise Stop(f"the run {run.name} was made with other settings ({shown})", f"python {SCRIPTS[1]} --run {run.name} {again}   (changes the run), or another --run NAME")


def earlier_session(run: Run, args: argparse.Namespace) -> dict[str, Any] | None:
    """A run folder of this name below the read-only inputs is copied here and continued."""
    from lib import find

    return find.continue_run(run, args.inputs)


# ---------------------------------------------------------------------------------------------- running a step


def perform(step: int, work: Callable, args: argparse.Namespace, run: Run, recipe: ModuleType, config: Any, record: dict[str, Any], result: Callable | None) -> int:
    reserve = config.session.reserve_seconds if not record["demo"] else min(config.session.reserve_seconds, DEMO_RESERVE_SECONDS)
    job = Job(step, run, recipe, config, record, args, open_clock(args.time_limit, reserve))
    catch_signals(job.clock)
    guard_against_dead_parent(job.clock)
    if is_first_rank():
        write_json(run.record, record)
        code = earlier_steps(job)
        if code != DONE:
            return code
    job.before = steps.state(run, step, recipe, config)
    if job.before.word == "complete" and not args.force and not args.always_work:
        print(f"step {step} ({STEPS[step]}): complete, nothing to do" + (f"\n{result(job)}" if result else ""))
        return DONE
    return carry_out(job, work)


def carry_out(job: Job, work: Callable) -> int:
    """The work itself between the two ends of a stamp."""
    job.made_from = steps.fingerprint(job.run, job.step, job.recipe, job.config)
    started = time.time()
    if is_first_rank():
        print(f"step {job.step} ({STEPS[job.step]}) of {job.run.name}: {job.before}", flush=True)
    try:
        outputs = work(job)
    except Paused as pause:
        if is_first_rank():
            steps.write_stamp(job.run, job.step, "paused", job.made_from, job.progress, [], time.time() - started)
            at = steps.where(job.progress)
            print(f"paused{at}: {pause}. Go on with: {job.run.command(job.step)}", flush=True)
        return PAUSED
    if isinstance(outputs, int):  # children did the work and wrote the stamp
        return outputs
    if is_first_rank():
        names = [str(path.relative_to(job.run.folder) if path.is_relative_to(job.run.folder) else path.relative_to(job.run.root)) for path in outputs]
        steps.write_stamp(job.run, job.step, "complete", job.made_from, job.progress, names, time.time() - started)
        following = f"; next: {job.run.command(job.step + 1)}" if job.step < 5 else ""
        print(f"step {job.step} ({STEPS[job.step]}): done in {time.time() - started:.0f} s{following}", flush=True)
    return DONE


def earlier_steps(job: Job) -> int:
    """Steps 1-3 are repaired by the step that needs them; a training is never started by another step."""
    for step in range(1, min(job.step, 4)):
        state = steps.state(job.run, step, job.recipe, job.config)
        if state.word != "complete":
            print(f"step {step} ({STEPS[step]}) is {state}: running it first", flush=True)
            code = run_child([sys.executable, str(steps.REPOSITORY / SCRIPTS[step]), "--run", job.run.name, *passed_on(job.args)], job.clock)
            if code != DONE:
                return code
    if job.step == 5:
        state = training_state(job)
        if state.word != "complete":
            command = job.run.command(5, "--accept-code") if state.word == "stale" and steps.only_code(state.reasons) else job.run.command(4)
            raise Stop(f"step 4 (train) is {state}", command)
    return DONE


def training_state(job: Job) -> steps.State:
    """Code alone does not make a training unusable: it is said, and --accept-code goes on."""
    state = steps.state(job.run, 4, job.recipe, job.config)
    accepted = state.word == "stale" and steps.only_code(state.reasons) and job.args.accept_code
    return steps.State("complete") if accepted else state


def passed_on(args: argparse.Namespace) -> list[str]:
    flags = ["--root", str(args.root)] + [word for place in args.inputs for word in ("--inputs", str(place))]
    return flags + (["--time-limit", args.time_limit] if args.time_limit else [])


def is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Two steps must not work on one run at once; the lock ends with the process, so nothing is left to clean up."""
    lock = run.folder / ".lock"
    if os.environ.get("PIPELINE_LOCK") == str(lock) or not is_first_rank():  # the step that started this process, or rank 0, holds it
        yield
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    held = take_lock(lock, fcntl.LOCK_EX)
    if held is None:
        raise Stop(f"another step is working on the run {run.name}", "wait for it, or choose another --run NAME")
    os.environ["PIPELINE_LOCK"] = str(lock)
    try:
        sweep(run.folder)
        yield
    finally:
        del os.environ["PIPELINE_LOCK"]
        os.close(held)
