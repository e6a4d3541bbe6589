"""Score the untouched base, a trivial predictor and the adapted model. The work of step 5."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from lib.core import machine, steps
from lib.core.contract import main_measure
from lib.core.job import Job
from lib.core.processes import accelerator as open_accelerator
from lib.core.records import Manifest, Parts, Row, Stage
from lib.core.run import Run, append_line, cut_log, existing, read_json, read_log, write_record
from lib.core.words import counted
from lib.data import places, split
from lib.evaluation import report, statistics
from lib.network import adapters, audit, checkpoint, scoring
from lib.network.setup import build_base, make_stage_inputs, open_feature_cache, read_prepared

COLUMNS = ("base", "adapted", "trivial")
UNIT = "held-out samples"  # of the step's progress: each of them once per column


def outputs(run: Run) -> list[Path]:
    return [run.scores, run.folder / "eval" / "per_sample.csv", run.folder / "report.html"]


def run(job: Job) -> list[Path]:
    """Scores, figures and report; returns the step's outputs. Paused: the session ends, the rows so far are on disk."""
    accelerator, asset_dirs, manifest, stage = open_session(job)
    source = checkpoint.choose(job.run.stage(stage.name), job.config.eval.checkpoint)
    sampler = job.recipe.sampler(job.config, stage, manifest, "test")
    columns: dict[str, list[Row]] = {}
    for name in COLUMNS:
        parts, feature_cache = network(job, name, stage, asset_dirs, accelerator, source)
        columns[name] = scored(job, name, stage, parts, feature_cache, sampler, accelerator, source)
        scoring.refuse_double(columns[name], sampler.length)
        if name == "base" and (limits := job.recipe.base_limits(job.config, stage, manifest)):
            audit.refuse_other_base(limits, job.recipe.summarise(job.config, stage, columns[name]))
        del parts
    scores = write_scores(job, stage, source, columns)
    figures = job.run.folder / "figures"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir()
    job.recipe.figures(job.config, stage, columns["base"], columns["adapted"], figures)
    shutil.rmtree(job.run.folder / "eval" / "partial", ignore_errors=True)
    report.write(job.run.folder)
    print(report.verdict(scores, job.record), flush=True)
    print(job.recipe.describe(job.config, stage, scores, columns["base"], columns["adapted"]), flush=True)
    return outputs(job.run)


def open_session(job: Job) -> tuple[Any, dict[str, Path], Manifest, Stage]:
    """The device, the assets, the held-out data and the stage that is scored (the last one trained)."""
    torch.set_num_threads(job.record["threads"])
    devices, wanted = machine.devices_here(), job.config.train.precision
    accelerator = open_accelerator(machine.precision(devices, wanted, job.recipe.PRECISIONS)[0], job.run.folder)
    with job.unwatched():
        asset_dirs = places.asset_dirs(job.run, job.recipe, job.config, job.args.inputs)
    manifest = read_prepared(job)
    stage = job.recipe.stages(job.config, manifest)[-1]
    return accelerator, *make_stage_inputs(job, stage, manifest, asset_dirs, accelerator), stage


def network(
    job: Job, column: str, stage: Stage, asset_dirs: dict[str, Path], accelerator: Any, source: Path
) -> tuple[Parts | None, Any]:
    """The network of a column, with its cache of frozen features; (None, None) for the trivial predictor.

    The base is built again and never had an adapter; the adapted model is the base plus a checkpoint.
    """
    if column == "trivial":
        return None, None
    parts = build_base(job, stage, asset_dirs, accelerator)
    if column == "adapted":
        wrapped = adapters.attach(parts)
        checkpoint.load(source, parts, wrapped, parts.base)
        for module in parts.modules.values():
            module.requires_grad_(False).to(accelerator.device)
    return parts, open_feature_cache(job, parts, accelerator) if parts.frozen_features else None


def scored(
    job: Job,
    column: str,
    stage: Stage,
    parts: Parts | None,
    feature_cache: Any,
    sampler: Any,
    accelerator: Any,
    source: Path,
) -> list[Row]:
    """The rows of a column, with a pause after each; what was scored before the pause is read back.

    The first `eval.figures` samples are scored in every call, because their pictures are not kept on disk.
    """
    path = partial_folder(job, source) / f"{column}.jsonl"
    cut_log(path, sampler.length)
    kept = {
        record["index"]: Row(record["sample_id"], record["group"], record["numbers"], texts=record["texts"])
        for record in read_log(path)
    }
    started, before = time.monotonic(), len(kept)
    begun, total = COLUMNS.index(column) * sampler.length, len(COLUMNS) * sampler.length
    job.advance(begun, total, UNIT)
    for index in range(sampler.length):
        if index in kept and index >= job.config.eval.figures:
            continue
        [row] = scoring.rows(job.recipe, job.config, stage, parts, sampler, [index], accelerator, feature_cache)
        if index not in kept:
            kept_on_disk = {"sample_id": row.sample_id, "group": row.group, "numbers": row.numbers, "texts": row.texts}
            append_line(path, {"index": index, "step": index} | kept_on_disk)
        if index >= job.config.eval.figures:
            row.arrays.clear()
        kept[index] = row
        job.advance(begun + len(kept), total, UNIT)
        if index >= job.config.eval.figures:
            job.pause_if_out_of_time((time.monotonic() - started) / max(1, len(kept) - before))
    print(f"  {column}: {counted(len(kept), 'sample')} in {time.monotonic() - started:.1f} s", flush=True)
    return [kept[index] for index in range(sampler.length)]


def partial_folder(job: Job, source: Path) -> Path:
    """Rows of an interrupted evaluation count only for the same data, settings, code and checkpoint."""
    made_from = steps.fingerprint(job.run, 5, job.recipe, job.config)
    return job.run.folder / "eval" / "partial" / steps.digest(made_from, source.name)


def write_scores(job: Job, stage: Stage, source: Path, columns: dict[str, list[Row]]) -> dict[str, Any]:
    """eval/scores.json and eval/per_sample.csv. They hold no times, so they are equal after any interruption."""
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
        "main": {"metric": main, "unit": metric.unit, "lower_is_better": metric.lower_is_better, "rival": metric.rival},
        "comparison": comparison,
        "n_samples": len(columns["base"]),
        "n_groups": len({row.group for row in columns["base"]}),
        "resampled": compared["resampled"],
        "metrics": compared["metrics"],
        "units": {name: m.unit for name, m in measures.items()},
        "lower_is_better": {name: m.lower_is_better for name, m in measures.items()},
        "by_group": statistics.by_group(recipe, job.config, stage, main, columns["base"], columns["adapted"]),
        "guards": guards(job, source),
    }
    statistics.write_scores(job.run.folder / "eval" / "per_sample.csv", columns)
    write_record(job.run.scores, scores)
    return scores


def guards(job: Job, source: Path) -> list[str]:
    """What was checked on the way to these numbers, each in one sentence."""
    proof, state = existing(job.run.split), read_json(source / "state.json")
    return [
        f"the base was loaded strictly before the adapters; its fingerprint is {state['base'][:16]}",
        "the base of the comparison was built separately and never had an adapter",
        "attaching the adapters changed no score by more than 1e-5",
        "after the first backward pass every trained tensor had a finite gradient and no frozen tensor had moved",
        f"training and held-out data, split by {proof['by']}, share {split.in_words(proof['overlap'])}",
        f"training steps skipped because a number was not finite: {state['skipped']}",
        how_chosen(job, source),
    ]


def how_chosen(job: Job, source: Path) -> str:
    """How the scored checkpoint came to be it: the test side had no part in it."""
    proof = existing(job.run.split)
    select = proof["groups"]["select"]
    if not select:
        why = "there are too few groups" if job.config.eval.select_share else "eval.select_share=0 leaves no groups"
        return f"{source.name} is the last step: {why} to choose a checkpoint by"
    if job.config.eval.checkpoint != "best":
        return f"{source.name} was asked for (eval.checkpoint={job.config.eval.checkpoint})"
    return (
        f"{source.name} was chosen on the select side ({counted(len(select), proof['by'])}), which is not in the scores"
    )
