"""What the five step scripts share: flags, the order of the steps, stamps, exit codes.

A step script is `main(number, work)`: `work(job)` does the step and returns its outputs, raises `Paused` at a safe
point when the session ends, or `Stop` with one sentence and one command. Exit codes: 0 done, 75 paused, 2 usage, 1
failed.
"""

import argparse
import contextlib
import fcntl
import itertools
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from lib import recipes
from lib.commands import answer, settings
from lib.commands.plan import show_list, show_plan
from lib.commands.refusals import of_system, refuse_bad_environment
from lib.core import group, steps
from lib.core.code import REPOSITORY
from lib.core.errors import DONE, FAILED, PAUSED, Paused, Stop
from lib.core.job import Job
from lib.core.processes import further_machine, is_first_here, is_first_rank, leave, note_machine, run_child, speaks
from lib.core.run import SCRIPTS, STEPS, Run, sweep, write_record
from lib.core.session import catch_signals, guard_against_dead_parent, open_clock, take_lock

DEMO_RESERVE_SECONDS = 2.0

# What has a meaning beside a flag that does no work; and what has none without another one.
MEANT = {
    "list": ("recipe", "preset", "json", "root", "overrides"),
    "plan": (
        "recipe", "preset", "demo", "run", "json", "root", "inputs", "overrides", "checkpoint", "processes",
        "time_limit",
    ),
}  # fmt: skip
NEEDS = (
    ("out", "predict", ""),
    ("scale", "predict", ""),
    ("hub_repository", "export", "hub"),
    ("public", "export", "hub"),
)

Work = Callable[[Job], list[Path] | int]  # returns the step's outputs, or the exit code of children that did it all
AddFlags = Callable[[argparse.ArgumentParser], None]
Result = Callable[[Job], str]


def main(
    step: int,
    work: Work,
    add_flags: AddFlags | None = None,
    again: tuple[str, ...] = (),
    result: Result | None = None,
) -> int:
    """Runs a step and returns its exit code.

    again: flags with which even a complete step has work. result: what a complete step says.
    """
    # before torch: spinning threads made a step 8 times slower on busy cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own, which its steps inherit, draws for people who look on
    with answer.given() as told:
        code = attempt(step, work, add_flags, again, result, told)
        told |= {"exit_code": code}
    return leave(code)


def ended(work: Callable[[], int], told: dict[str, Any]) -> int:
    """The exit code of what is no step; whatever stops it is said."""
    try:
        return work()
    except Stop as stop:
        return say(stop, told)
    except OSError as error:
        return say(of_system(error, Path()), told)


def attempt(
    step: int,
    work: Work,
    add_flags: AddFlags | None,
    again: tuple[str, ...],
    result: Result | None,
    told: dict[str, Any],
) -> int:
    place, name = Path(), ""
    try:
        refuse_bad_environment()
        args = parse(step, add_flags)
        args.always_work = any(getattr(args, flag) for flag in again)
        if args.list:
            return show_list(args, told)
        place = args.root
        run, recipe, config, record = settings.of_run(step, args)
        place, name = run.folder, run.name
        if args.plan:
            return show_plan(run, recipe, config, record, told)
        join(run.portable_command(step), shlex.split(getattr(args, "launch_args", "")))
        with locked(run):
            clock = open_clock(args.time_limit, reserve_seconds(config, record))
            job = Job(step, run, recipe, config, record, args, clock)
            code = perform(job, work, result)
        told |= answer.of_step(run, step) | ({"result": result(job)} if result and code == DONE else {})
        return code
    except Stop as stop:
        return say(of_this_run(stop, name), told)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and (asks("--list") or asks("--plan")):
            return DONE  # whoever reads has what they want: --list | head
        return say(of_system(error, place), told)
    except Exception as error:  # safetensors' own, which tells the file system's refusal in its text alone
        if refusal := re.search(r"\(os error (\d+)\)", str(error)):
            return say(of_system(OSError(int(refusal[1]), str(error)), place), told)
        raise


def of_this_run(stop: Stop, name: str) -> Stop:
    """The stop with a command that can be typed as it is: what knows no run names a step alone."""
    root = words_after("--root")
    flags = ("" if not name else f" --run {shlex.quote(name)}") + (f" --root {shlex.quote(root)}" if root else "")
    alone = re.compile(r"(python step\d_\w+\.py)(?! (?:--run|--list|--recipe|--help))")
    return Stop(stop.cause, alone.sub(rf"\1{flags}", stop.command), stop.code) if flags else stop


def words_after(flag: str) -> str:
    """What the user said after a flag; "" where they did not."""
    words = [part for word in sys.argv for part in (word.split("=", 1) if word.startswith(f"{flag}=") else [word])]
    return next((after for word, after in itertools.pairwise(words) if word == flag), "")


def asks(flag: str) -> bool:
    """Is a flag among the words, also as --flag=VALUE?"""
    return any(word.partition("=")[0] == flag for word in sys.argv)


def join(command: str, launch_args: list[str]) -> None:
    """Which of several machines this is. Stop: processes were asked for that no launcher made."""
    group.refuse_alone(command)
    note_machine(launch_args, group.line(command))


def say(stop: Stop, told: dict[str, Any] | None = None) -> int:
    """Prints why a step stops and what to do; returns its exit code. Of a machine's ranks one speaks for all."""
    if told is not None:
        told |= {"error": stop.cause, "command": stop.command}
    if speaks():
        print(stop.text, file=sys.stderr)
    return stop.code


def parse(step: int, add_flags: AddFlags | None) -> argparse.Namespace:
    doc = sys.modules["__main__"].__doc__ or ""
    parser = Parser(
        prog=SCRIPTS[step],
        description=doc.split("\n")[0],
        epilog="exit codes: 0 done, 75 paused (run the same command again), 2 wrong usage or a missing asset, 1 failed",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings, e.g. lora.rank=8 train.epochs=2; with --list words to look for",
    )
    parser.add_argument("--recipe", help=f"one of {', '.join(recipes.RECIPES)}")
    parser.add_argument("--preset", help="a named set of settings of the recipe (--list)")
    parser.add_argument(
        "--demo", action="store_true", default=None, help="stand-in data and a small network; runs on a CPU"
    )
    parser.add_argument("--run", help="folder under runs/; later steps need only this")
    parser.add_argument("--plan", action="store_true", help="say what would run and why, and what it costs; do nothing")
    parser.add_argument(
        "--list", action="store_true", help="recipes, presets and settings; --list lora shows what is called so"
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON on stdout, everything else on stderr")
    parser.add_argument("--force", action="store_true", help="do this step again even if it is complete")
    if step >= 4:
        parser.add_argument(
            "--accept-code", action="store_true", help="go on although code changed since the training; it is recorded"
        )
    parser.add_argument(
        "--time-limit", default="", metavar="11h30m", help="of the whole session; the step pauses before it"
    )
    parser.add_argument(
        "--root", type=folder, default=here(), help="holds runs/, data/, cache/ (default: the current folder)"
    )
    parser.add_argument(
        "--inputs",
        type=folder,
        action="append",
        default=[],
        metavar="DIR",
        help="a further place to look for data and earlier runs",
    )
    if add_flags:
        add_flags(parser)
    args = parser.parse_intermixed_args()
    refuse_idle(parser, args)
    args.overrides += [f"{key}={value}" for key, value in getattr(args, "as_settings", lambda _: {})(args).items()]
    return args


class Parser(argparse.ArgumentParser):
    """One sentence for a wrong flag too, instead of the whole usage. Flags are written out: `asks` looks for them."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise Stop(message, f"python {self.prog} --help")


def folder(word: str) -> Path:
    """A path as it was meant: shells leave the ~ of --root=~/runs as it is, and a folder of that name would be made."""
    try:
        return Path(word).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{word} begins with the name of no user of this machine") from error


def here() -> Path:
    """The current folder. Stop: it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise Stop("the current folder is gone", "cd into one that is there", FAILED) from error


def refuse_idle(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Stop: a flag that would do nothing beside another one."""
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)} - {"as_settings"}
    for flag, others in MEANT.items():
        if flag in given:
            for name in sorted(given - {flag, *others}):
                raise Stop(f"--{name.replace('_', '-')} does nothing with --{flag}", "leave it out")
    for name, flag, value in NEEDS:
        if name in given and not (flag in given and value in ("", getattr(args, flag))):
            needed = f"--{flag} {value}".rstrip()
            raise Stop(f"--{name.replace('_', '-')} does nothing without {needed}", f"add {needed}, or leave it out")


# ---------------------------------------------------------------------------------------------- running a step


def reserve_seconds(config: Any, record: dict[str, Any]) -> float:
    """What is kept for the last checkpoint; a demo's takes a moment."""
    asked: float = config.session.reserve_seconds
    return min(asked, DEMO_RESERVE_SECONDS) if record["demo"] else asked


def perform(job: Job, work: Work, result: Result | None) -> int:
    """The step with the earlier ones that it needs; nothing where it is complete."""
    catch_signals(job.clock)
    guard_against_dead_parent(job.clock)
    if is_first_rank():
        write_record(job.run.record, job.record)
        settings.remember_recipe(job.run, job.recipe)
    if is_first_rank() or group.is_child():
        with job.unwatched():
            code = earlier_steps(job)
        if code != DONE:
            return code
    with job.unwatched():
        job.before = steps.state(job.run, job.step, job.recipe, job.config)
    if job.before.word == "complete" and not job.args.force and not job.args.always_work:
        said = f"\n{result(job)}" if result else ""
        print(f"step {job.step} ({STEPS[job.step]}): complete, nothing to do{said}{left_out(job)}")
        return DONE
    return carry_out(job, work)


def left_out(job: Job) -> str:
    """Said where steps 2 and 3 are complete without files that came later, or with others than are there now."""
    from lib.data import places

    if job.step not in (2, 3):
        return ""
    known = job.run, job.recipe, job.config
    new = places.newcomers(*known) or places.changed(*known)
    return f"\n  {new}; to use them: {job.run.command(2, '--force')}" if new else ""


def carry_out(job: Job, work: Work) -> int:
    """The work itself between the two ends of a stamp."""
    job.note_made_from()
    started = time.time()
    if is_first_rank():
        print(f"step {job.step} ({STEPS[job.step]}) of {job.run.name}: {job.before}", flush=True)
    try:
        outputs = work(job)
    except Paused as pause:
        if is_first_rank():
            job.note_made_from()
            steps.write_stamp(job.run, job.step, "paused", job.made_from, job.progress, [], time.time() - started)
        if is_first_here():
            at = steps.where(job.progress)
            print(f"paused{at}: {pause}. Go on with: {job.run.command(job.step)}", flush=True)
        return PAUSED
    if isinstance(outputs, int):  # children did the work and wrote the stamp
        return outputs
    if is_first_rank():
        names = [job.run.name_of(path) for path in outputs]
        job.note_made_from()
        steps.write_stamp(job.run, job.step, "complete", job.made_from, job.progress, names, time.time() - started)
        following = f"; next: {job.run.command(job.step + 1)}" if job.step < 5 else ""
        print(f"step {job.step} ({STEPS[job.step]}): done in {time.time() - started:.0f} s{following}", flush=True)
    return DONE


def earlier_steps(job: Job) -> int:
    """Steps 1-3 are repaired by the step that needs them; a training is never started by another step."""
    for step in range(1, min(job.step, 4)):
        state = steps.state(job.run, step, job.recipe, job.config)
        if state.word != "complete":
            if group.is_child():  # the others would wait for this one, and give it up
                raise Stop(f"step {step} ({STEPS[step]}) is {state}", job.run.command(step))
            print(f"step {step} ({STEPS[step]}) is {state}: running it first", flush=True)
            script = str(REPOSITORY / SCRIPTS[step])
            code = run_child([sys.executable, script, "--run", job.run.name, *passed_on(job.args)], job.clock)
            if code != DONE:
                return code
    if job.step == 5:
        state = training_state(job)
        if state.word != "complete":
            only_code = state.word == "stale" and steps.only_code(state.reasons)
            command = job.run.command(5, "--accept-code") if only_code else job.run.command(4)
            raise Stop(f"step 4 (train) is {state}", command)
    return DONE


def training_state(job: Job) -> steps.State:
    """Code alone does not make a training unusable: a message says what changed, and --accept-code goes on."""
    state = steps.state(job.run, 4, job.recipe, job.config)
    accepted = state.word == "stale" and steps.only_code(state.reasons) and job.args.accept_code
    return steps.State("complete") if accepted else state


def passed_on(args: argparse.Namespace) -> list[str]:
    """The flags that a step gives to an earlier one that it repairs."""
    flags = ["--root", str(args.root)] + [word for place in args.inputs for word in ("--inputs", str(place))]
    return flags + (["--time-limit", args.time_limit] if args.time_limit else [])


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Two steps must not work on one run at once; the lock ends with the process, so nothing is left to clean up.

    Each of several machines has its own: a machine's ranks end when the step that started them, and its lock, are gone.
    """
    lock = run.folder / f".lock{further_machine()}"
    # the step that started this process, or rank 0, holds it
    if os.environ.get("PIPELINE_LOCK") == str(lock) or (group.is_child() and not is_first_rank()):
        yield
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    held = take_lock(lock, fcntl.LOCK_EX)
    if held is None:
        raise Stop(f"another step is working on the run {run.name}", "wait for it, or choose another --run NAME")
    os.environ["PIPELINE_LOCK"] = str(lock)
    try:
        if is_first_rank():
            sweep(run.folder)
        yield
    finally:
        del os.environ["PIPELINE_LOCK"]
        os.close(held)
