"""Step 1 of 5: install what is missing, look at the machine, choose the precision, make the run.

Standard library only until everything is installed; then it starts itself again. What is already installed and fits
requirements.txt is kept. Leaves run.json, the settings that the later steps read with --run NAME alone.
"""
import argparse
import sys
from pathlib import Path

from lib import cli, install
from lib.errors import Stop
from lib.run import write_json

MIN_FREE_BYTES = 1_000_000_000  # adapters, prepared arrays and a cache of frozen layers


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dev", action="store_true", help="install what the tests need, too")


def work(job: cli.Job) -> list[Path]:
    from lib import machine

    found = machine.look({"root": job.run.root})
    show(found)
    problems = machine.problems(found, {"root": MIN_FREE_BYTES})
    if problems:
        raise Stop("; ".join(problem.cause for problem in problems), problems[0].fix)
    precision, reason = machine.precision(found["devices"], job.config.train.precision, job.recipe.PRECISIONS)
    print(f"  precision   {precision} ({reason})")
    job.record |= {"precision": precision, "threads": job.record.get("threads", found["cores"]), "versions": found["packages"], "machine": found}
    write_json(job.run.record, job.record)
    for need in job.recipe.plan(job.config).needs:
        print(f"  needs: {need}")
    return [job.run.record]


def show(found: dict) -> None:
    """What a person wants to know before the first long step."""
    devices = ", ".join(f"{d['name']} (sm_{d['capability'][0]}{d['capability'][1]}, {d['memory_bytes'] / 1e9:.0f} GB)" for d in found["devices"]) or "none, training on the CPU"
    free = ", ".join(f"{name} {size / 1e9:.0f} GB" for name, size in found["free_bytes"].items())
    print(f"  python      {found['python']}, torch {found['packages'].get('torch')}" + (f", CUDA {found['cuda']}" if found["cuda"] else ""))
    print(f"  GPU         {devices}")
    print(f"  machine     {found['platform']}, {found['cores']} cores, {found['memory_bytes'] / 1e9:.0f} GB memory, free: {free}")
    print(f"  internet    {'yes' if found['internet'] else 'no'}")


if __name__ == "__main__":
    if not {"--help", "-h", "--plan", "--list"} & set(sys.argv):
        try:
            install.ensure(Path(__file__).resolve().parent, dev="--dev" in sys.argv)
        except Stop as stop:
            sys.exit(cli.say(stop))
    sys.exit(cli.main(1, work, add_flags))
