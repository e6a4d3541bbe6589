"""Step 3 of 5: records, the group-disjoint split with its proof, and the arrays that training maps into memory.

Leaves manifest.csv and split.json in the run, and the arrays in cache/prepared-<fingerprint>/, which is rebuilt when it
is missing. Pauses between records; what is written is not made again.
"""
import hashlib
import json
import sys
import time
from pathlib import Path

from lib import cli, split, steps
from lib.errors import Stop
from lib.progress import Progress
from lib.run import write_json


def work(job: cli.Job) -> list[Path]:
    from lib import assets

    where = assets.places(job.run, job.recipe, job.config, job.args.inputs)
    folder = prepared_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    records = collect(job, where, folder)
    proof = split.apply(records, job.recipe.split(job.config, records, folder), job.config.train.seed)
    split.write_manifest(job.run.manifest, records)
    write_json(job.run.split, proof)
    report(job, records, proof)
    return [job.run.manifest, job.run.split, folder]


def prepared_folder(job: cli.Job) -> Path:
    made_from = json.dumps(steps.fingerprint(job.run, 3, job.recipe, job.config), sort_keys=True, default=str)
    return job.run.cache / f"prepared-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"


def collect(job: cli.Job, where: dict[str, Path], folder: Path) -> list:
    """The recipe's records, one by one, with time for a pause after each."""
    records, started = [], time.monotonic()
    progress = Progress("prepare", 0, 0, "records", job.clock, job.config.train.log_seconds)
    for record in job.recipe.prepare(job.config, where, folder):
        records.append(record)
        job.advance(len(records), 0, "records")
        progress.update(len(records), {})
        job.pause_if_out_of_time((time.monotonic() - started) / len(records))
    progress.close()
    if not records:
        raise Stop("there is nothing to prepare: the data holds no usable record", job.run.command(2))
    return records


def report(job: cli.Job, records: list, proof: dict) -> None:
    skipped = [record for record in records if record.status == "skipped"]
    for name, value in job.recipe.summarise_data(job.config, records).items():
        print(f"  {name}: " + (", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)))
    print(f"  split by {proof['by']}: " + "; ".join(f"{side} {', '.join(names)}" for side, names in proof["groups"].items()))
    print(f"  shared by both sides: {proof['overlap']}")
    for record in skipped[:10]:
        print(f"  skipped {record.sample_id}: {record.reason}")
    if len(skipped) > 10:
        print(f"  and {len(skipped) - 10} more skipped (manifest.csv)")


if __name__ == "__main__":
    sys.exit(cli.main(3, work))
