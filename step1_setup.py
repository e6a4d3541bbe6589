"""Step 1 of 5: install what is missing, look at the machine, choose the precision, make the run.

Standard library only until everything is installed; then it starts itself again. What is already installed and fits
requirements.txt is kept. Leaves run.json, the settings that the later steps read with --run NAME alone.
"""
import argparse
import sys
from pathlib import Path

from lib import cli, install


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dev", action="store_true", help="install what the tests need, too")


def work(job: cli.Job) -> list[Path]:
    from lib import machine
    from lib.run import write_json

    found = machine.look(job.run.root)
    machine.show(found)
    machine.refuse_problems(found)
    precision, reason = machine.precision(found["devices"], job.config.train.precision, job.recipe.PRECISIONS)
    print(f"  precision: {precision} ({reason})")
    job.record |= {"precision": precision, "threads": found["cores"], "versions": found["versions"], "machine": found}
    write_json(job.run.record, job.record)
    for need in job.recipe.plan(job.config).needs:
        print(f"  needs: {need}")
    return [job.run.record]


if __name__ == "__main__":
    if not {"--help", "-h", "--plan", "--list"} & set(sys.argv):
        install.ensure(dev="--dev" in sys.argv)
    sys.exit(cli.main(1, work, add_flags))
