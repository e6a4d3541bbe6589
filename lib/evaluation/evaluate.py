"""Score the untouched base, a trivial predictor and the adapted model. The work of step 5."""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lib.core import steps
from lib.core.contract import main_measure
from lib.core.errors import FAILED, Stop
from lib.core.hashes import identity
from lib.core.job import Job
from lib.core.processes import any_asks, is_first_rank
from lib.core.records import Manifest, Parts, Row, Stage
from lib.core.run import (
    Run,
    append_line,
    atomic_folder,
    cut_log,
    read_json,
    read_log,
    write_record,
)
from lib.core.words import counted
from lib.data import places
from lib.evaluation import board, experiment, fonts, guards, origin, report, statistics
from lib.network import adapters, audit, checkpoint, scoring, sharding
from lib.network.setup import build_base, make_stage_inputs, open_device, open_feature_cache, read_prepared

COLUMNS = ("base", "adapted", "trivial")
UNIT = "held-out samples"  # of the step's progress: each of them once per column


def outputs(run: Run) -> list[Path]:
    return [run.scores, run.folder / "eval" / "per_sample.csv", run.folder / "report.html"]


class Session(NamedTuple):
    """An open device and what is scored on it."""

    accelerator: Any
    asset_dirs: dict[str, Path]
    manifest: Manifest
    stage: Stage  # the last one trained


@contextlib.contextmanager
def opened(job: Job) -> Iterator[Session]:
    """The device, the assets and the held-out data; where the step shards, its processes as one group."""
    accelerator, _ = open_device(job)
    with sharding.decided(job, accelerator):
        with job.unwatched():
            asset_dirs = places.asset_dirs(job.run, job.recipe, job.config, job.args.inputs)
        manifest = read_prepared(job)
        stage = job.recipe.stages(job.config, manifest)[-1]
        yield Session(accelerator, *make_stage_inputs(job, stage, manifest, asset_dirs, accelerator), stage)


def run(job: Job, session: Session) -> None:
    """Scores, figures and report. Paused: the session ends, the rows so far are on disk."""
    experiment.observations(job.run)  # what cannot be kept stops before hours of scoring, not after
    stage, manifest = session.stage, session.manifest
    source = checkpoint.choose(job.run.stage(stage.name), job.config.eval.checkpoint)
    sampler = job.recipe.sampler(job.config, stage, manifest, "test")
    columns: dict[str, list[Row]] = {}
    for name in COLUMNS:
        parts, feature_cache = network(job, name, session, source)
        columns[name] = scored(job, name, session, parts, feature_cache, sampler, source)
        scoring.refuse_double(columns[name], sampler.length)
        if name == "base" and (limits := job.recipe.base_limits(job.config, stage, manifest)):
            audit.refuse_other_base(limits, job.recipe.summarise(job.config, stage, columns[name]))
        del parts
    if is_first_rank():
        tell(job, stage, source, columns)


def tell(job: Job, stage: Stage, source: Path, columns: dict[str, list[Row]]) -> None:
    """What is made of the rows: eval/, figures/, the report, and the sentences on the console."""
    refuse_without_number(job, stage, columns)
    statistics.write_scores(job.run.folder / "eval" / "per_sample.csv", columns)
    alone = statistics.of_one_alone(columns)
    columns = statistics.paired(columns, alone)
    scores = write_scores(job, stage, source, columns, statistics.left_out(alone))
    figures = job.run.folder / "figures"
    named = (text for row in columns["base"] for text in (row.sample_id, row.group))
    with atomic_folder(figures) as temporary, fonts.for_texts(named):
        job.recipe.figures(job.config, stage, columns["base"], columns["adapted"], temporary)
    shutil.rmtree(job.run.folder / "eval" / "partial", ignore_errors=True)
    with job.unwatched():  # where things are from moves no number
        job.record["origin"] = origin.of_run(job.recipe, job.config)
    write_record(job.run.record, job.record)
    page = report.write(job.run.folder)
    board.write(job.run, scores, job.record)
    print(report.verdict(scores, job.record), flush=True)
    print(job.recipe.describe(job.config, stage, scores, columns["base"], columns["adapted"]), flush=True)
    print(f"report: {page}", flush=True)


def network(job: Job, column: str, session: Session, source: Path) -> tuple[Parts | None, Any]:
    """The network of a column, with its cache of frozen features; (None, None) for the trivial predictor.

    The base is built again and never had an adapter; the adapted model is the base plus a checkpoint.
    """
    if column == "trivial":
        return None, None
    parts = build_base(job, session.stage, session.asset_dirs, session.accelerator)
    if column == "adapted":
        wrapped = adapters.attach(parts)
        checkpoint.load(source, parts, wrapped, parts.base)
        for module in parts.modules.values():
            module.requires_grad_(False).to(session.accelerator.device)
    return parts, open_feature_cache(job, parts, session.accelerator) if parts.frozen_features else None


def scored(
    job: Job, column: str, session: Session, parts: Parts | None, feature_cache: Any, sampler: Any, source: Path
) -> list[Row]:
    """The rows of a column, with a pause after each round of samples, one on every process; what was scored before the
    pause is read back.

    The samples that are drawn are scored first and in every call, because their pictures are not kept on disk.
    """
    path = partial_folder(job, source, session.accelerator) / f"{column}.jsonl"
    first_ones = range(min(job.config.eval.figures, sampler.length))
    pictured = first_ones if sampler.pictured is None else sampler.pictured
    accelerator, of_job = session.accelerator, (job.recipe, job.config, session.stage)

    kept = rows_on_disk(path, sampler.length, accelerator)
    left = [*pictured, *(index for index in range(sampler.length) if index not in kept and index not in pictured)]
    mine = [[index] for index in scoring.of_rounds(left, accelerator)]
    batches = scoring.batches_of(*of_job, sampler, accelerator, feature_cache, mine, workers(job))

    def score(indices: list[int]) -> list[Row]:
        return scoring.rows(*of_job, parts, sampler, indices, accelerator, feature_cache, batches=batches)

    started, before = time.monotonic(), len(kept)
    begun, total = COLUMNS.index(column) * sampler.length, len(COLUMNS) * sampler.length
    job.advance(begun, total, UNIT)
    with contextlib.closing(batches):
        for first in range(0, len(left), accelerator.num_processes):
            indices = left[first : first + accelerator.num_processes]
            for index, row in zip(indices, scoring.one_each(score, indices, accelerator, pictured), strict=True):
                if index not in kept and is_first_rank():
                    keep(path, index, row)
                kept[index] = row
            job.advance(begun + len(kept), total, UNIT)
            seconds = (time.monotonic() - started) / max(1, len(kept) - before)
            if indices[-1] not in pictured and any_asks(accelerator, not job.clock.has_time(seconds)):
                raise job.clock.pause()
    if is_first_rank():
        print(f"  {column}: {counted(len(kept), 'sample')} in {time.monotonic() - started:.1f} s", flush=True)
    return [kept[index] for index in range(sampler.length)]


def workers(job: Job) -> int:
    """Threads that make batches ahead: what the settings say, or what the training measured."""
    said = job.config.train.workers
    return int(job.record.get("workers", 0) if said == "auto" else said)


def rows_on_disk(path: Path, length: int, accelerator: Any) -> dict[int, Row]:
    """What was scored before a pause, by index, as rank 0 reads it."""
    from accelerate.utils import broadcast_object_list

    kept: dict[int, Row] = {}
    if is_first_rank():
        cut_log(path, length)
        kept = {
            record["index"]: Row(record["sample_id"], record["group"], record["numbers"], texts=record["texts"])
            for record in read_log(path)
            if record.get("of") == name_of(path)
        }
    if accelerator.num_processes > 1:
        [kept] = broadcast_object_list([kept])
    return kept


def keep(path: Path, index: int, row: Row) -> None:
    kept_on_disk = {"sample_id": row.sample_id, "group": row.group, "numbers": row.numbers, "texts": row.texts}
    append_line(path, {"index": index, "step": index, "of": name_of(path)} | kept_on_disk)


def name_of(rows: Path) -> str:
    """What made the rows and which column they are: those of another file are not taken for its own."""
    return f"{rows.parent.name}/{rows.name}"


def partial_folder(job: Job, source: Path, accelerator: Any) -> Path:
    """Rows of an interrupted evaluation count only for the same data, settings, code, checkpoint, and kind of device:
    of a base in half precision and an adapted model in full the difference would be one of precisions, too.
    """
    made_from = steps.fingerprint(job.run, 5, job.recipe, job.config)
    computed_in = (accelerator.device.type, accelerator.mixed_precision)
    return job.run.folder / "eval" / "partial" / steps.digest(made_from, source.name, *computed_in)


def write_scores(
    job: Job, stage: Stage, source: Path, columns: dict[str, list[Row]], left_out: list[str]
) -> dict[str, Any]:
    """eval/scores.json. It holds no times, so it is equal after any interruption. left_out: further guards."""
    recipe, measures = job.recipe, job.recipe.measures(job.config, stage)
    main, metric = main_measure(recipe, job.config, stage)
    comparison = recipe.comparison(job.config, stage)
    compared = statistics.compare(
        recipe, job.config, stage, columns["base"], columns["adapted"], columns["trivial"], comparison
    )
    scores = {
        "recipe": job.record["recipe"],
        "preset": job.record["preset"],
        "demo": job.record["demo"],
        "step": read_json(source / "state.json")["step"],
        "stage": stage.name,
        "stands_on": before(job, stage),
        "main": {"metric": main, "unit": metric.unit, "lower_is_better": metric.lower_is_better, "rival": metric.rival},
        "comparison": comparison,
        "n_samples": len(columns["base"]),
        "n_groups": len({row.group for row in columns["base"]}),
        "resampled": compared["resampled"],
        "metrics": compared["metrics"],
        "units": {name: m.unit for name, m in measures.items()},
        "lower_is_better": {name: m.lower_is_better for name, m in measures.items()},
        "words": {name: {"title": m.title, "meaning": m.meaning, "front": m.front} for name, m in measures.items()},
        "by_group": statistics.by_group(recipe, job.config, stage, main, columns["base"], columns["adapted"]),
        "guards": [*guards.of_scores(job, source), *left_out],
    }
    write_record(job.run.scores, scores)
    return scores


def before(job: Job, stage: Stage) -> dict[str, dict[str, str]]:
    """The checkpoint of the stage that this one stands on, by its name; {}: it needs none but its own."""
    return {stage.after: identity(checkpoint.choose(job.run.stage(stage.after), "best"))} if stage.after else {}


def refuse_without_number(job: Job, stage: Stage, columns: dict[str, list[Row]]) -> None:
    """Stop: what is compared is no number, for one of the two networks or for a sample of one of them."""
    main, _ = main_measure(job.recipe, job.config, stage)
    why = statistics.without_number(main, columns["base"], columns["adapted"])
    for column in () if why else ("base", "adapted"):
        value = job.recipe.summarise(job.config, stage, columns[column])[main]
        why = why or ("" if math.isfinite(value) else f"{main} of the {column} model is {value}")
    if why:
        again = job.run.command(4, "--force", "--detect-anomaly")
        raise Stop(why, f"{again}   (trains anew and names the module), or another --checkpoint step-N", FAILED)
