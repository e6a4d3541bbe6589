"""--sweep of step 4: one run per combination of settings, each resumable, then one comparison.

    python step4_train.py --demo --sweep lora.rank=8,16 lora.strategy=a,b

makes the runs <name>-rank8-strategya … through all five steps, and runs/comparison.csv with a table and a plot.
"""

import argparse
import itertools
import re
import shlex
import sys

from lib import recipes
from lib.commands import answer, cli, compare
from lib.commands.settings import default_name
from lib.core.code import REPOSITORY
from lib.core.config import parse_override
from lib.core.errors import DONE, Stop
from lib.core.processes import run_child
from lib.core.run import SCRIPTS, STEPS, Run
from lib.core.session import Clock, catch_signals, open_clock


def main(words: list[str]) -> int:
    def work() -> int:
        args = parse(words)
        clock = open_clock(args.time_limit, cli.DEMO_RESERVE_SECONDS if args.demo else 60.0)
        catch_signals(clock)
        code = sweep(args, clock)
        told.update({"runs": compare.rows_of(args.root.resolve() / "runs" / "comparison.csv")} if code == DONE else {})
        return code

    with answer.given() as told:
        told["exit_code"] = code = cli.ended(work, told)
    return code


def parse(words: list[str]) -> argparse.Namespace:
    parser = cli.Parser(prog=SCRIPTS[4], description="one run per combination, then a comparison")
    parser.add_argument("--sweep", nargs="+", required=True, metavar="key=v1,v2", help="settings to vary")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="settings of every run")
    parser.add_argument("--recipe", help=f"one of {', '.join(recipes.RECIPES)}")
    parser.add_argument("--preset", help="of every run")
    parser.add_argument("--demo", action="store_true", help="stand-in data and a small network")
    parser.add_argument("--run", help="what the names of the runs begin with")
    parser.add_argument("--time-limit", default="", metavar="11h30m", help="of the whole session")
    parser.add_argument("--root", type=cli.folder, default=cli.here(), help="holds runs/, data/, cache/")
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout, everything else on stderr")
    return parser.parse_args(words)


def sweep(args: argparse.Namespace, clock: Clock) -> int:
    """The runs one after another; the first pause or failure ends the call, and the same call goes on there."""
    settings = combinations(args.sweep)
    refuse_both(args.sweep, args.set)
    named = [run_name(args, combination) for combination in settings]
    refuse_equal(named)
    for number, (name, combination) in enumerate(zip(named, settings, strict=True), 1):
        print(f"run {number} of {len(settings)}: {name}", flush=True)
        for step in STEPS:
            code = run_child(command(args, name, combination, step), clock)
            if code != DONE:
                print(f"the sweep ends here; go on with: python {SCRIPTS[4]} {shlex.join(sys.argv[1:])}", flush=True)
                return code
    print(compare.compare([Run(args.root.resolve(), name) for name in named], args.root.resolve() / "runs"))
    return DONE


def combinations(axes: list[str]) -> list[list[str]]:
    """['lora.rank=8,16', 'train.lr=1e-4,2e-4'] -> every ['lora.rank=8', 'train.lr=1e-4'] …"""
    choices = []
    for axis in axes:
        key, equals, values = axis.partition("=")
        if not equals or not values:
            raise Stop(f"--sweep {axis!r} is not key=v1,v2")
        parse_override(f"{key}=[{values}]")
        found = [f"{key}={value}" for value in outside_brackets(values)]
        if twice := first_double(found):
            raise Stop(f"--sweep {axis!r} names {twice} twice")
        choices.append(found)
    if twice := first_double([axis.partition("=")[0] for axis in axes]):
        raise Stop(f"--sweep names {twice} twice", f"give all its values at once: {twice}=v1,v2")
    return [list(combination) for combination in itertools.product(*choices)]


def first_double(words: list[str]) -> str:
    """The first word that comes twice; "" where none does."""
    return next((word for word in words if words.count(word) > 1), "")


def outside_brackets(values: str) -> list[str]:
    """'8,16' -> ['8', '16'], '[a,b],[c]' -> ['[a,b]', '[c]']. Stop: a value is empty."""
    found, depth = [""], 0
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    if not all(value.strip() for value in found):
        raise Stop(f"--sweep has an empty value in {values!r}", "separate the values by single commas, without spaces")
    return [value.strip() for value in found]


def run_name(args: argparse.Namespace, combination: list[str]) -> str:
    """'mine-rank8-strategya', 'mine-alpha8.5'; a list [a,b] becomes a+b, and / becomes _."""
    return "-".join([args.run or default_name(args), *map(in_name, combination)])


def in_name(setting: str) -> str:
    key, _, value = setting.partition("=")
    plain = value.replace("/", "_").replace(",", "+")
    return key.rpartition(".")[2] + re.sub(r"""[][{}'" ]""", "", plain)


def refuse_both(axes: list[str], of_all: list[str]) -> None:
    """Stop: a setting is varied and set for all runs, whose names would then not say what they have."""
    varied = {axis.partition("=")[0] for axis in axes}
    if both := next((one for one in of_all if one.partition("=")[0] in varied), ""):
        raise Stop(f"--set {both} is for every run, and --sweep varies the same setting", "leave one of the two out")


def refuse_equal(named: list[str]) -> None:
    """Stop: two combinations would be one run."""
    if twice := first_double(named):
        raise Stop(f"two combinations of the sweep would both be called {twice}", "sweep them in two calls")


def command(args: argparse.Namespace, name: str, combination: list[str], step: int) -> list[str]:
    """Step 1 gives the run its settings; the later steps need the name alone."""
    words = [sys.executable, str(REPOSITORY / SCRIPTS[step]), "--run", name, "--root", str(args.root)]
    if args.time_limit:
        words += ["--time-limit", args.time_limit]
    if step == 1:
        flags = {"--recipe": args.recipe, "--preset": args.preset}
        words += [word for flag, value in flags.items() if value for word in (flag, value)]
        words += (["--demo"] if args.demo else []) + combination + args.set
    return words
