"""Step 3 of 5: records, the group-disjoint split with its proof, and the arrays that training maps into memory.

Leaves manifest.csv and split.json in the run, and the arrays in cache/prepared-<fingerprint>/, which is rebuilt when it
is missing. Pauses between records; what is written is not made again.
"""

import sys
import time
from pathlib import Path
from typing import Any

from lib.commands import cli
from lib.core import steps
from lib.core.errors import Stop
from lib.core.job import Job
from lib.core.progress import Progress
from lib.core.records import Record
from lib.core.run import sweep, write_record
from lib.data import split

SHOWN_SKIPPED = 10  # records; the manifest names all of them


def work(job: Job) -> list[Path]:
    from lib.core import shared
    from lib.data import places, prepared

    with job.unwatched():
        asset_dirs = places.asset_dirs(job.run, job.recipe, job.config, job.args.inputs)
        places.refuse_newcomers(job.run, job.recipe, job.config)
    folder = prepared_folder(job)
    with shared.alone_at(folder, job.pause_if_out_of_time):
        prepared.clear_damaged(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        records = collect(job, asset_dirs, folder)
        proof = divide(job, records, folder)
        prepared.note(folder, job.pause_if_out_of_time)
    write_record(job.run.split, proof)
    report(job, records, proof)
    return [job.run.manifest, job.run.split, folder]


def prepared_folder(job: Job) -> Path:
    return job.run.cache / f"prepared-{steps.digest(steps.fingerprint(job.run, 3, job.recipe, job.config))}"


def collect(job: Job, asset_dirs: dict[str, Path], folder: Path) -> list[Record]:
    """The recipe's records, one by one, with time for a pause after each."""
    records: list[Record] = []
    started = time.monotonic()
    progress = Progress("prepare", 0, 0, "records", job.clock, job.config.train.log_seconds)
    for record in job.recipe.prepare(job.config, asset_dirs, folder):
        records.append(record)
        job.advance(len(records), 0, "records")
        progress.update(len(records), {})
        job.pause_if_out_of_time((time.monotonic() - started) / len(records))
    progress.close()
    if not records:
        raise Stop("there is nothing to prepare: the data holds no records", job.run.command(2))
    return records


def divide(job: Job, records: list[Record], folder: Path) -> dict[str, Any]:
    """The sides of the records. The manifest is written even without a split: it says why records were skipped."""
    config = job.config
    try:
        wish = job.recipe.split(config, records, folder)
        return split.apply(records, wish, config.train.seed, config.eval.select_share)
    except Stop as stop:
        reasons = split.commonest_reason(records)
        raise Stop(stop.cause + reasons + (" (manifest.csv)" if reasons else ""), stop.command, stop.code) from stop
    finally:
        split.write_manifest(job.run.manifest, records)


def report(job: Job, records: list[Record], proof: dict[str, Any]) -> None:
    """What the user should see of the data: the recipe's summary, the split with its proof, what was skipped."""
    for name, value in job.recipe.summarise_data(job.config, records).items():
        parts = [f"{key} {part}" for key, part in value.items()] if isinstance(value, dict) else [str(value)]
        print(f"  {name}: {', '.join(parts)}")
    sides = [
        f"{side} {', '.join(names) or 'none (the last checkpoint is scored)'}"
        for side, names in proof["groups"].items()
    ]
    print(f"  split by {proof['by']}: {'; '.join(sides)}")
    print(f"  shared by two sides: {split.in_words(proof['overlap'])}")
    skipped = [record for record in records if record.status == "skipped"]
    for record in skipped[:SHOWN_SKIPPED]:
        print(f"  skipped {record.sample_id}: {record.reason}")
    if len(skipped) > SHOWN_SKIPPED:
        print(f"  and {len(skipped) - SHOWN_SKIPPED} more skipped (manifest.csv)")


if __name__ == "__main__":
    sys.exit(cli.main(3, work))
