"""Step 2 of 5: bring or find the weights and the data, verify every hash, list what you must fetch yourself.

Leaves assets.json in the run; files go to data/<recipe>/<asset>/ or stay where they were found. Pauses between files.
With --propose FOLDER|VIDEO the run's model then drafts labels for pictures of your own. With --import FILE what another
program left (adapters, a split) is taken into imported/ of the run.
"""

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from lib.commands import adopt, cli, propose
from lib.core.errors import Stop
from lib.core.job import Job
from lib.core.run import atomic, write_json
from lib.core.words import counted


def add_flags(parser: argparse.ArgumentParser) -> None:
    propose.add_flags(parser)
    adopt.add_flags(parser)


def work(job: Job) -> list[Path]:
    """The drafts may lie in the folder of the run's own data, whose list of files is then made once more."""
    propose.refuse_alone(job.args)
    brought = functools.cache(lambda: bring(job, quiet=bool(job.args.propose)))
    with without(job.run.stamp(2)) if job.args.propose or job.args.imported else contextlib.nullcontext():
        if job.args.propose:
            bring(job)
            propose.run(job)
        if job.args.imported:
            adopt.run(job, brought)
    return brought()


@contextlib.contextmanager
def without(stamp: Path) -> Iterator[None]:
    """The stamp knows the list of files as it was before. It comes back where nothing was taken in."""
    before = stamp.read_bytes() if stamp.exists() else b""
    stamp.unlink(missing_ok=True)
    try:
        yield
    except Stop:
        if before:
            with atomic(stamp) as made:
                made.write_bytes(before)
        raise


def bring(job: Job, quiet: bool = False) -> list[Path]:
    """quiet: what each asset is was said already."""
    from lib.data import assets

    wanted = job.recipe.assets(job.config)
    job.advance(0, len(wanted), "assets")
    brought = assets.fetch_all(
        job.run, job.recipe, job.config, job.args.inputs, lambda: not job.clock.has_time(), job.args.force
    )
    for made in () if quiet else brought:
        licence = f", licence: {made.licence}" if made.licence else ""
        here = f"{counted(len(made.files), 'file')}{licence}"
        print(f"  {made.name} ({made.kind}): " + (f"not here. {made.how_to_get}" if made.missing else here))
    assets.require(made for made, asset in zip(brought, wanted, strict=True) if asset.required)
    write_json(job.run.assets, [assets.to_json(made) for made in brought if not made.missing])
    return [job.run.assets]


if __name__ == "__main__":
    sys.exit(cli.main(2, work, add_flags, again=("propose", "imported")))
