"""Step 1 of 5: install what is missing, look at the machine, choose the precision, make the run.

Standard library only until everything is installed; then it starts itself again. What is already installed and fits
requirements.txt is kept. Leaves run.json: with it the later steps need --run NAME and nothing else.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from lib.commands import cli, cost
from lib.core import install
from lib.core.errors import Stop
from lib.core.job import Job
from lib.core.run import write_record
from lib.core.words import counted
from lib.data import find

MIN_FREE_BYTES = 1_000_000_000  # adapters, prepared arrays and a cache of frozen layers


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dev", action="store_true", help="install what the tests need, too")
    parser.add_argument(
        "--wheels",
        type=cli.folder,
        metavar="DIR",
        help="install from this folder of wheels; an empty one is filled first, for sessions without internet",
    )


def work(job: Job) -> list[Path]:
    from lib.core import machine

    places = {"root": job.run.root}
    if not job.run.cache.is_relative_to(job.run.root):
        places["cache"] = job.run.cache
    found = machine.inspect_machine(places)
    show(found)
    if "cache" in places:
        print(f"  slow disk   --root is a network disk: caches go to {job.run.cache}, and are made again next session")
    problems = machine.problems(found, dict.fromkeys(places, MIN_FREE_BYTES))
    if problems:
        raise Stop("; ".join(problem.cause for problem in problems), problems[0].fix)
    precision, reason = machine.precision(found["devices"], job.config.train.precision, job.recipe.PRECISIONS)
    print(f"  precision   {precision} ({reason})")
    job.record |= {
        "precision": precision,
        "threads": job.record.get("threads", found["cores"]),
        "versions": found["packages"],
        "machine": found,
    }
    write_record(job.run.record, job.record)
    with job.unwatched():
        for need in cost.needs(job.recipe, job.config, job.recipe.plan(job.config)):
            print(f"  needs: {need}")
    return [job.run.record]


def show(found: dict[str, Any]) -> None:
    """What the user wants to know before the first long step."""
    cuda = f", CUDA {found['cuda']}" if found["cuda"] else ""
    memory = f"{found['memory_bytes'] / 1e9:.0f} GB memory"
    free = ", ".join(f"{name} {size / 1e9:.0f} GB" for name, size in found["free_bytes"].items())
    print(f"  python      {found['python']}, torch {found['packages'].get('torch')}{cuda}")
    print(f"  GPU         {', '.join(map(named, found['devices'])) or 'none, training on the CPU'}")
    print(f"  machine     {found['platform']}, {counted(found['cores'], 'core')}, {memory}, free: {free}")
    print(f"  internet    {'yes' if found['internet'] else 'no'}")


def named(device: dict[str, Any]) -> str:
    """'Tesla T4 (sm_75, 16 GB)'"""
    major, minor = device["capability"]
    return f"{device['name']} (sm_{major}{minor}, {device['memory_bytes'] / 1e9:.0f} GB)"


if __name__ == "__main__":
    if not {"--help", "-h", "--plan", "--list"} & set(sys.argv):
        try:
            wheels = cli.folder(given) if (given := cli.words_after("--wheels")) else None
            install.ensure(Path(__file__).resolve().parent, "--dev" in sys.argv, wheels, find.wheels)
            install.quiet_kernel(Path(sys.prefix))
        except Stop as stop:
            sys.exit(cli.say(stop))
    sys.exit(cli.main(1, work, add_flags))
