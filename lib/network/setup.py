"""From a run to the network of one stage: its data, its inputs, the base, adapters, the cache of frozen features."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lib.core import code, machine, steps
from lib.core import config as configuration
from lib.core.errors import Stop
from lib.core.job import Job
from lib.core.processes import accelerator as open_accelerator
from lib.core.processes import alone, is_first_rank
from lib.core.records import Manifest, Parts, Row, Stage
from lib.core.run import CACHE, Run, existing, read_json, read_memo
from lib.data import prepared, split
from lib.network import adapters, audit, checkpoint, lineage, scoring, sharding
from lib.network.frozen_features import FeatureCache, folder_for


def read_prepared(job: Job) -> Manifest:
    """What step 3 left: manifest.csv and the folder of the arrays, whose files are compared when they are read."""
    folder = prepared_folder(job, existing(job.run.stamp(3)))
    prepared.expect_noted(folder, job.run.command(3, "--force"))
    return split.read_manifest(job.run.manifest, folder)


def prepared_folder(job: Job, stamp: dict[str, Any]) -> Path:
    """Of the arrays, as the stamp of step 3 names it."""
    return next(job.run.output(name) for name in stamp["outputs"] if name.startswith(f"{CACHE}/"))


def arrays_hash(job: Job) -> str:
    """Of all that step 3 wrote, by its own list of hashes; "" before it. A setting of step 3 may change every picture
    and no word of the manifest.
    """
    stamp, _ = steps.stamp_of(job.run, 3)
    return steps.held_by(prepared_folder(job, stamp)) if stamp and stamp["outputs"] else ""


def open_device(job: Job, trackers: Sequence[str] = ("tensorboard",)) -> tuple[Any, str]:
    """Accelerate's device and processes, and the precision in which this run computes on it."""
    torch.set_num_threads(job.record["threads"])
    precision = machine.precision(machine.devices_here(), job.config.train.precision, job.recipe.PRECISIONS)[0]
    return open_accelerator(precision, job.run.folder, trackers), precision


def make_stage_inputs(
    job: Job, stage: Stage, manifest: Manifest, asset_dirs: dict[str, Path], accelerator: Any
) -> tuple[dict[str, Path], Manifest]:
    """Asset folders and manifest with what the stage needs beside its base; rank 0 makes it, the others find it.

    Stop: the stage that it is made from is not finished.
    """
    earlier = None
    if stage.after:
        before = next(s for s in job.recipe.stages(job.config, manifest) if s.name == stage.after)
        refuse_unfinished(job.run, before, stage)
        earlier = before, checkpoint.choose(job.run.stage(before.name), "best")

    def make(pause: Callable[[], None]) -> Path | None:
        return job.recipe.stage_inputs(job.config, stage, manifest, asset_dirs, earlier, job.run.cache, pause)

    def made_whole(pause: Callable[[], None]) -> Path | None:
        return prepared.whole_or_again(lambda: make(pause), job.run.cache, pause)

    folder = alone(accelerator, job.clock, made_whole)
    folder = folder if is_first_rank() else make(job.pause_if_out_of_time)
    if folder is None:
        return asset_dirs, manifest
    return asset_dirs | {"stage_inputs": folder}, replace(manifest, stage_inputs=folder)


def finished_steps(folder: Path) -> int:
    """The step of the newest checkpoint that verifies; a stage that ended early by patience says so in done.json."""
    if steps_done := done(folder):
        return steps_done
    newest = checkpoint.newest(folder, notify=lambda text: None) if folder.exists() else None
    return int(read_json(newest / "state.json")["step"]) if newest else 0


def is_finished(run: Run, stage: Stage) -> bool:
    """Does done.json, which is written last, say so? A checkpoint of the last step does not: the kill may have come
    before best.json, which still names an older one until the stage goes on from there.
    """
    return done(run.stage(stage.name)) >= stage.steps


def done(folder: Path) -> int:
    """The steps that done.json of a stage says; 0 without one, or with that of another training."""
    said = read_memo(folder / "done.json")
    return 0 if not said or lineage.misplaced(said, folder) else int(said["steps"])


def refuse_unfinished(run: Run, before: Stage, stage: Stage) -> None:
    """Stop: a stage is made from the one before, which is not finished."""
    if not is_finished(run, before):
        cause = f"the stage {stage.name} needs the stage {before.name}, which is not finished"
        raise Stop(cause, run.command(4, "--stages", before.name))


def assemble(
    job: Job,
    stage: Stage,
    asset_dirs: dict[str, Path],
    accelerator: Any,
    manifest: Manifest,
    check: bool,
    base_rows: list[Row] | None = None,
) -> tuple[Parts, dict[str, Any], list[Row] | None]:
    """The base, strictly loaded, on the device; then adapters. Returns the parts, PEFT's wrappers by module, base_rows.

    check: on the selection samples, the base stays below the recipe's limits and the adapters change no score (Stop).
    base_rows: of all selection samples, as far as they were scored before or here.
    """
    parts = build_base(job, stage, asset_dirs, accelerator)
    sampler = job.recipe.sampler(job.config, stage, choosing(manifest), "select")

    def scored(count: int) -> list[Row]:
        chosen = list(range(count))
        return scoring.rows(
            job.recipe, job.config, stage, parts, sampler, chosen, accelerator, uncached(parts, accelerator)
        )

    if check and (limits := job.recipe.base_limits(job.config, stage, manifest)):
        base_rows = base_rows or scored(sampler.length)
        audit.refuse_other_base(limits, job.recipe.summarise(job.config, stage, base_rows))
    before = scored(1) if check else []  # base_rows come from batches of another size, which rounds otherwise
    wrapped = adapters.attach(parts)
    for module in parts.modules.values():
        module.to(accelerator.device)
    audit.refuse_other_output(before, scored(1) if check else [])
    return parts, wrapped, base_rows


def choosing(manifest: Manifest) -> Manifest:
    """The manifest for what is decided before and during a training: without a select side, training records stand in.

    The test side decides nothing, not even whether the base is the published one.
    """
    if manifest.side("select"):
        return manifest
    records = [replace(record, split="select") for record in manifest.side("train")]
    return replace(manifest, records=records)


def build_base(job: Job, stage: Stage, asset_dirs: dict[str, Path], accelerator: Any) -> Parts:
    """The untouched base, strictly loaded, frozen, on the device; where the step shards, spread over its processes."""
    with sharding.over(accelerator) if job.shard else contextlib.nullcontext():
        parts = job.recipe.build(job.config, stage, asset_dirs)
        sharding.complete(parts)
    for module in parts.modules.values():
        module.requires_grad_(False).to(accelerator.device)
    return parts


def uncached(parts: Parts, accelerator: Any) -> FeatureCache | None:
    """The frozen front without a folder: everything is computed, nothing is kept. None where there is no front."""
    return FeatureCache(parts, None, 0, most_of(parts, accelerator)) if parts.frozen_features else None


def most_of(parts: Parts, accelerator: Any) -> Callable[[int], int]:
    """How often all processes must compute where this one computes so often."""
    if not sharding.is_sharded(parts):
        return lambda count: count
    return lambda count: sharding.most(accelerator, count)


def open_feature_cache(job: Job, parts: Parts, accelerator: Any) -> FeatureCache:
    """The frozen front with the folder of its base, data, precision, device, code and settings."""
    if job.config.cache.policy == "none":
        return FeatureCache(parts, None, 0, most_of(parts, accelerator))
    behind = code.closure(job.recipe, [*job.recipe.modules("build"), *job.recipe.modules("sampler")])
    keys, values = code.settings_read(behind, job.config), configuration.to_dotted(job.config)
    made_from = {
        "prepared": steps.file_hash(job.run.manifest),
        "arrays": arrays_hash(job),
        "precision": accelerator.mixed_precision,
        "device": accelerator.device.type,
        "code": code.hashes(job.recipe, behind),
        "settings": [(key, values[key]) for key in sorted(keys)],
    }
    folder, quota_bytes = folder_for(job.run.cache, parts, made_from), job.config.cache.quota_gb * 1e9
    return FeatureCache(parts, folder, quota_bytes, most_of(parts, accelerator))
