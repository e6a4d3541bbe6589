"""From a run's settings to its trained stages: build strictly, check the identity, attach, train, go on to the next."""

import shutil
from pathlib import Path
from typing import Any

import torch

from lib.core import steps
from lib.core.errors import Paused, Stop
from lib.core.job import Job
from lib.core.processes import is_first_rank
from lib.core.records import Manifest, Parts, Row, Stage
from lib.core.run import existing, write_record
from lib.core.words import counted
from lib.data import places
from lib.network import adapters, audit, checkpoint, layers, lineage, scoring, sharding
from lib.network.setup import (
    assemble,
    build_base,
    choosing,
    finished_steps,
    is_finished,
    make_stage_inputs,
    open_device,
    open_feature_cache,
    read_prepared,
    uncached,
)
from lib.training import keeping, starts, trackers
from lib.training.loop import run_stage
from lib.training.state import Training


def run(job: Job) -> list[Path]:
    """Train every stage that is not finished; returns the best checkpoint of each.

    Paused: the session ends, or a stage is left that --stages did not ask for.
    """
    if job.args.force:
        for lowered in ("micro_batch", "gradient_checkpointing"):
            job.record.pop(lowered, None)  # when memory was short; a new training starts from the settings
    if job.record.get("gradient_checkpointing"):
        job.config.train.gradient_checkpointing = True
    accelerator, precision = open_device(job, job.args.log_with.split(","))
    say_what_differs(job, precision, accelerator.num_processes)
    refuse_uneven(job, accelerator.num_processes)
    audit.watch_derivatives()
    with sharding.decided(job, accelerator):
        return train_stages(job, accelerator)


def train_stages(job: Job, accelerator: Any) -> list[Path]:
    """`run`, on an open device."""
    with job.unwatched():
        asset_dirs = places.asset_dirs(job.run, job.recipe, job.config, job.args.inputs)
    manifest = read_prepared(job)
    ancestors = {f"the asset {name}": folder for name, folder in asset_dirs.items()}
    if job.args.checkpoint:
        ancestors[f"the checkpoint {Path(job.args.checkpoint).name}"] = Path(job.args.checkpoint)
    note_seen(job, manifest, ancestors)
    asked = ask_base(job, manifest, asset_dirs, accelerator)
    stages = job.recipe.stages(job.config, manifest)
    starts.refuse_other(job, chosen(job, stages))
    if job.args.force and is_first_rank():
        for stage in chosen(job, stages):
            shutil.rmtree(job.run.stage(stage.name), ignore_errors=True)
    accelerator.wait_for_everyone()
    begin_stamp(job, stages)
    for stage in chosen(job, stages):
        starts.refuse_outdated(job, stage, stages)
        if not is_finished(job.run, stage):
            train_stage(job, stage, manifest, asset_dirs, accelerator, asked.get((stage.name, stage.kind)))
    missing = [one.name for one in stages if not is_finished(job.run, one) or starts.outdated(job, one, stages)]
    if missing:
        job.advance(len(stages) - len(missing), len(stages), "stages")
        raise Paused(f"the stages {', '.join(missing)} were not asked for")
    return [checkpoint.choose(job.run.stage(stage.name), "best") for stage in stages]


def say_what_differs(job: Job, precision: str, processes: int) -> None:
    """A resume on other hardware goes on, says what differs, and keeps the micro-batch."""
    now = {
        "precision": precision,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
    }
    for key, value in now.items():
        if key in job.record and job.record[key] != value and is_first_rank():
            print(f"this run was started with {key} {job.record[key]} and goes on with {value}")
    job.record |= now | {"micro_batch": job.record.get("micro_batch") or job.config.train.micro_batch}
    if is_first_rank():
        write_record(job.run.record, job.record)
        batch = f"micro-batch {job.record['micro_batch']}, global batch {job.config.train.global_batch}"
        print(f"{now['device']}, {counted(processes, 'process', 'processes')}, {precision}, {batch}", flush=True)


def note_seen(job: Job, manifest: Manifest, ancestors: dict[str, Path]) -> None:
    """Stop where what the training starts from has seen held-out data; with train.accept_seen it is noted for the
    report.
    """
    for what, folder in ancestors.items():
        if not job.config.train.accept_seen:
            lineage.refuse_seen(manifest, split_by(job), folder, what)
        elif found := lineage.seen(manifest, split_by(job), folder, what):
            job.record["seen"] = sorted({*job.record.get("seen", []), found})
            if is_first_rank():
                write_record(job.run.record, job.record)
            print(f"warning: {found} (train.accept_seen)", flush=True)


def split_by(job: Job) -> str:
    return str(existing(job.run.split)["by"])


def refuse_uneven(job: Job, processes: int) -> None:
    micro, whole = job.record["micro_batch"], job.config.train.global_batch
    if whole % (micro * processes):
        raise Stop(
            f"train.global_batch={whole} is not a multiple of train.micro_batch={micro} "
            f"x {counted(processes, 'process', 'processes')}",
            "change one of the three (--processes N)",
        )


def ask_base(
    job: Job, manifest: Manifest, asset_dirs: dict[str, Path], accelerator: Any
) -> dict[tuple[str, str], list[Row]]:
    """Settings that a recipe leaves to the untouched base's scores are decided before the first step, once.

    Returns the rows of the base where it was asked, by the name and the kind of the stage; they need not be scored
    again.
    """
    asked: dict[tuple[str, str], list[Row]] = {}
    if "decided" in job.record and not job.args.force:
        return asked
    # --force: without what was decided before; nothing is written until the answer is there
    job.config = job.composed({})
    stage = job.recipe.stages(job.config, manifest)[0]

    def base_scores() -> dict[str, float]:
        folders, prepared = make_stage_inputs(job, stage, manifest, asset_dirs, accelerator)
        parts = build_base(job, stage, folders, accelerator)
        sampler = job.recipe.sampler(job.config, stage, choosing(prepared), "select")
        rows = scoring.divided_rows(
            job.recipe, job.config, stage, parts, sampler, accelerator, uncached(parts, accelerator)
        )
        asked[stage.name, stage.kind] = rows
        return job.recipe.summarise(job.config, stage, rows)

    job.settle(job.recipe.decide(job.config, base_scores))
    return asked


def chosen(job: Job, stages: list[Stage]) -> list[Stage]:
    """The stages that --stages asks for, or all of them. Stop: it names one that does not exist."""
    wanted = [name for name in getattr(job.args, "stages", "").split(",") if name]
    unknown = set(wanted) - {stage.name for stage in stages}
    if unknown:
        raise Stop(f"there is no stage {min(unknown)!r}; there are: {', '.join(stage.name for stage in stages)}")
    return [stage for stage in stages if not wanted or stage.name in wanted]


def begin_stamp(job: Job, stages: list[Stage]) -> None:
    """A killed training counts as paused: from the first step on the stamp says what it is made from."""
    if is_first_rank():
        done, total = sum(finished_steps(job.run.stage(s.name)) for s in stages), sum(s.steps for s in stages)
        job.advance(done, total, "steps")
        steps.write_stamp(job.run, 4, "paused", job.made_from, job.progress, [], 0.0)


def train_stage(
    job: Job,
    stage: Stage,
    manifest: Manifest,
    asset_dirs: dict[str, Path],
    accelerator: Any,
    base_rows: list[Row] | None,
) -> None:
    """base_rows: of the untouched base on the selection samples, where they are known already."""
    asset_dirs, manifest = make_stage_inputs(job, stage, manifest, asset_dirs, accelerator)
    folder = job.run.stage(stage.name)
    resume = checkpoint.newest(folder, print if is_first_rank() else lambda text: None) if folder.exists() else None
    refuse_other_places(accelerator, resume)
    fresh = resume is None
    stages = job.recipe.stages(job.config, manifest)
    if fresh:
        starts.begin(job, stage, stages, chosen(job, stages)[0])
    parts, wrapped, base_rows = assemble(job, stage, asset_dirs, accelerator, manifest, fresh, base_rows)
    if job.config.cache.policy == "auto":
        keeping.decide(job, stage, parts, manifest, accelerator, begun=not fresh)
        begin_stamp(job, job.recipe.stages(job.config, manifest))
    tensors = adapters.trainable(parts)
    train = job.recipe.sampler(job.config, stage, manifest, "train")
    select = job.recipe.sampler(job.config, stage, manifest, "select") if manifest.side("select") else None
    if select is None and is_first_rank():
        print("too few groups to choose a checkpoint by: the last step will be scored", flush=True)
    feature_cache = open_feature_cache(job, parts, accelerator) if parts.frozen_features else None
    if is_first_rank():
        (folder / "done.json").unlink(missing_ok=True)  # of fewer steps than are wanted now
        say_what_trains(parts, folder)
    objectives = job.recipe.objectives(job.config, stage)
    training = Training(
        job, stage, folder, accelerator, parts, wrapped, objectives, train, select, feature_cache, tensors
    )
    ancestors = [*asset_dirs.values(), *([resume] if resume else [])]
    training.lineage = lineage.of_run(manifest, split_by(job), ancestors)
    trackers.open_for(job, folder, accelerator)
    if fresh and not starts.load(training, starts.source(job, stage, chosen(job, stages)[0])):
        training.base_rows = base_rows
    run_stage(training, resume)
    trackers.close(accelerator)
    if is_first_rank():
        note_done(training)
    accelerator.wait_for_everyone()


def note_done(training: Training) -> None:
    """done.json, written last: what is finished, and what stays as it is from now on."""
    folder = training.folder
    write_record(folder / "done.json", {
        "steps": training.stage.steps, "trained_steps": training.step,
        lineage.TRAINING: lineage.noted(training.job.record, training.stage.name),
        "layers": adapters.table(training.parts),
        "files": {name: steps.file_hash(folder / name) for name in ("log.jsonl", "timing.jsonl", "layers.csv")},
    })  # fmt: skip


def refuse_other_places(accelerator: Any, resume: Path | None) -> None:
    """Processes on several machines must see the same checkpoints, or they would start from different ones."""
    from accelerate.utils import gather_object

    seen = set(gather_object([resume.name if resume else "none"]))
    if len(seen) > 1:
        raise Stop(
            f"the processes see different checkpoints ({', '.join(sorted(seen))})",
            "put --root on a disk that all machines share",
        )


def say_what_trains(parts: Parts, folder: Path) -> None:
    """The audit: trained layers as ranges, and each of them in layers.csv."""
    total = sum(p.numel() for module in parts.modules.values() for p in module.parameters())
    trained = sum(p.numel() for p in adapters.trainable(parts).values())
    rows = adapters.table(parts)
    layers.write(folder, rows)
    print(layers.text(folder))
    found, trainable = counted(len(rows), "trained layer"), f"{trained:,} of {total:,} parameters"
    print(f"  {found}, {trainable} ({100 * trained / total:.3f} %): {folder / 'layers.csv'}", flush=True)
