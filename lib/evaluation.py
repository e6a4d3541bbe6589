"""Score the untouched base, a trivial predictor and the adapted model; predict; export. The work of step 5."""
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from lib import adapters, assets, audit, checkpoint, machine, report, score, steps
from lib.cli import Job
from lib.errors import Stop
from lib.processes import accelerator as open_accelerator
from lib.recipes import Manifest, Parts, Row, Stage, main_measure
from lib.run import Run, append_line, cut_log, read_json, read_log, write_json
from lib.training import base_limits, lay_groundwork, open_prefix, read_prepared

COLUMNS = ("base", "adapted", "trivial")


def outputs(run: Run) -> list[Path]:
    return [run.scores, run.folder / "eval" / "per_sample.csv", run.folder / "report.html"]


def run(job: Job) -> list[Path]:
    accelerator, where, manifest, stage = open_session(job)
    source = checkpoint.choose(job.run.stage(stage.name), job.config.eval.checkpoint)
    sampler = job.recipe.sampler(job.config, stage, manifest, "val")
    columns = {}
    for done, name in enumerate(COLUMNS):
        job.advance(done * sampler.length, len(COLUMNS) * sampler.length, "held-out samples")
        parts, prefix = network(job, name, stage, where, accelerator, source)
        columns[name] = scored(job, name, parts, prefix, sampler, accelerator, source)
        score.refuse_double(columns[name], sampler.length)
        if name == "base" and (limits := base_limits(job, manifest)):
            audit.refuse_other_base(limits, job.recipe.summarise(job.config, columns[name]))
        del parts
    scores = write_scores(job, stage, source, columns)
    figures = job.run.folder / "figures"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir()
    job.recipe.figures(job.config, columns["base"], columns["adapted"], figures)
    shutil.rmtree(job.run.folder / "eval" / "partial", ignore_errors=True)
    report.write(job.run.folder)
    print(job.recipe.describe(job.config, scores, columns["base"], columns["adapted"]), flush=True)
    return outputs(job.run)


def open_session(job: Job) -> tuple[Any, dict[str, Path], Manifest, Stage]:
    """The device, the assets, the held-out data and the stage that is scored (the last one trained)."""
    torch.set_num_threads(job.record["threads"])
    accelerator = open_accelerator(machine.precision(machine.devices_here(), job.config.train.precision, job.recipe.PRECISIONS)[0], job.run.folder)
    where = assets.places(job.run, job.recipe, job.config, job.args.inputs)
    manifest = read_prepared(job)
    stage = job.recipe.stages(job.config, manifest)[-1]
    return accelerator, *lay_groundwork(job, stage, manifest, where, accelerator), stage


def network(job: Job, column: str, stage: Stage, where: dict[str, Path], accelerator: Any, source: Path) -> tuple[Parts | None, Any]:
    """The base is built anew and never had an adapter; the adapted model is the base plus a checkpoint."""
    if column == "trivial":
        return None, None
    parts = job.recipe.build(job.config, stage, where)
    if column == "adapted":
        wrapped = adapters.attach(parts)
        checkpoint.load(source, parts, wrapped, parts.base)
    for module in parts.modules.values():
        module.requires_grad_(False).to(accelerator.device)
    return parts, open_prefix(job, parts, accelerator) if parts.prefix else None


def scored(job: Job, column: str, parts: Parts | None, prefix: Any, sampler: Any, accelerator: Any, source: Path) -> list[Row]:
    """The rows of a column, with a pause after every batch; what was scored before the pause is read back.

    The first `eval.figures` samples are scored in every call, because their pictures are not kept on disk.
    """
    path = partial_folder(job, source) / f"{column}.jsonl"
    cut_log(path, sampler.length)
    kept = {record["index"]: Row(record["sample_id"], record["group"], record["numbers"], texts=record["texts"]) for record in read_log(path)}
    started, begun, before = time.monotonic(), job.progress["done"], len(kept)
    for index in range(sampler.length):
        if index in kept and index >= job.config.eval.figures:
            continue
        [row] = score.rows(job.recipe, job.config, parts, sampler, [index], accelerator, prefix)
        if index not in kept:
            kept_on_disk = {"sample_id": row.sample_id, "group": row.group, "numbers": row.numbers, "texts": row.texts}
            append_line(path, {"index": index, "step": index} | kept_on_disk)
        if index >= job.config.eval.figures:
            row.arrays.clear()
        kept[index] = row
        job.advance(begun + len(kept), job.progress["total"], job.progress["unit"])
        if index >= job.config.eval.figures:
            job.pause_if_out_of_time((time.monotonic() - started) / max(1, len(kept) - before))
    print(f"  {column}: {len(kept)} samples in {time.monotonic() - started:.1f} s", flush=True)
    return [kept[index] for index in range(sampler.length)]


def partial_folder(job: Job, source: Path) -> Path:
    """Rows of an interrupted evaluation count only for the same data, settings, code and checkpoint."""
    made_from = json.dumps([steps.fingerprint(job.run, 5, job.recipe, job.config), source.name], sort_keys=True, default=str)
    return job.run.folder / "eval" / "partial" / hashlib.sha256(made_from.encode()).hexdigest()[:16]


def write_scores(job: Job, stage: Stage, source: Path, columns: dict[str, list[Row]]) -> dict[str, Any]:
    """eval/scores.json and eval/per_sample.csv. They hold no times, so they are equal after any interruption."""
    recipe, measures = job.recipe, job.recipe.measures(job.config, stage)
    main, metric = main_measure(recipe, job.config, stage)
    comparison = recipe.comparison(job.config, stage) if hasattr(recipe, "comparison") else "base"
    compared = score.compare(recipe, job.config, stage, columns["base"], columns["adapted"], columns["trivial"], comparison)
    scores = {
        "recipe": job.record["recipe"], "preset": job.record["preset"], "demo": job.record["demo"], "step": read_json(source / "state.json")["step"], "stage": stage.name,
        "main": {"metric": main, "unit": metric.unit, "lower_is_better": metric.lower_is_better}, "comparison": comparison,
        "n_samples": len(columns["base"]), "n_groups": len({row.group for row in columns["base"]}), "resampled": compared["resampled"],
        "metrics": compared["metrics"], "units": {name: m.unit for name, m in measures.items()},
        "lower_is_better": {name: m.lower_is_better for name, m in measures.items()},
        "by_group": score.by_group(recipe, job.config, main, columns["base"], columns["adapted"]), "guards": guards(job, source),
    }  # fmt: skip
    score.write_table(job.run.folder / "eval" / "per_sample.csv", columns)
    write_json(job.run.scores, scores)
    return scores


def guards(job: Job, source: Path) -> list[str]:
    """What was checked on the way to these numbers, each in one sentence."""
    proof, state = read_json(job.run.split), read_json(source / "state.json")
    return [
        f"the base was loaded strictly before the adapters; its fingerprint is {state['base'][:16]}",
        "the base that is compared with was built anew and never had an adapter",
        "attaching the adapters changed no score by more than 1e-5",
        "after the first backward pass every trained tensor had a finite gradient and no frozen tensor had moved",
        f"training and held-out {proof['by']}s share {proof['overlap']['groups']} groups, {proof['overlap']['files']} files, {proof['overlap']['near_duplicates']} near-duplicates",
        f"{state['skipped']} training steps were skipped because a number was not finite",
        f"checkpoint {source.name} was chosen on {job.config.eval.select_samples} of the held-out samples at most; the report scores all of them",
    ]


def adapted_parts(job: Job) -> tuple[Parts, dict[str, Any], Any]:
    accelerator, where, _, stage = open_session(job)
    source = checkpoint.choose(job.run.stage(stage.name), job.args.checkpoint)
    parts = job.recipe.build(job.config, stage, where)
    wrapped = adapters.attach(parts)
    checkpoint.load(source, parts, wrapped, parts.base)
    return parts, wrapped, accelerator


def predict(job: Job) -> None:
    """The adapted model on a person's own inputs."""
    parts, _, accelerator = adapted_parts(job)
    adapters.set_mode(parts, training=False)
    for module in parts.modules.values():
        module.requires_grad_(False).to(accelerator.device)
    job.args.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), accelerator.autocast():
        job.recipe.predict(job.config, parts, job.args.predict, job.args.out)
    print(f"predictions are in {job.args.out}")


def export(job: Job) -> None:
    """export/adapter: PEFT's layout. export/merged: what the recipe's `export` makes of the merged modules."""
    parts, wrapped, _ = adapted_parts(job)
    folder = job.run.folder / "export"
    if job.args.export in ("adapter", "hub"):
        if not wrapped:
            raise Stop(f"the preset {job.record['preset']} has no adapters to export", job.run.command(5, "--export", "merged"))
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        adapters.save(wrapped, folder / "adapter", parts.base)
        print(f"adapter in {folder / 'adapter'}")
    if job.args.export == "hub":
        push(job, folder / "adapter")
    if job.args.export == "merged":
        parts.modules |= adapters.merge(wrapped)
        shutil.rmtree(folder / "merged", ignore_errors=True)
        (folder / "merged").mkdir(parents=True)
        job.recipe.export(job.config, parts, folder / "merged")
        print(f"merged model in {folder / 'merged'}")


def push(job: Job, folder: Path) -> None:
    """Upload the adapter with a model card that states base, scores and how they were measured."""
    from huggingface_hub import HfApi

    if not job.args.hub_repository:
        raise Stop("--export hub needs --hub-repository USER/NAME", job.run.command(5, "--export hub --hub-repository USER/NAME"))
    (folder / "README.md").write_text(model_card(job), encoding="utf-8")
    api = HfApi()
    api.create_repo(job.args.hub_repository, exist_ok=True)
    api.upload_folder(repo_id=job.args.hub_repository, folder_path=folder)
    print(f"pushed to {job.args.hub_repository}")


def model_card(job: Job) -> str:
    scores = read_json(job.run.scores)
    main = scores["metrics"][scores["main"]["metric"]]
    return (
        f"---\nlibrary_name: peft\ntags: [lora]\n---\n# {job.run.name}\n\nRecipe {scores['recipe']}, preset {scores['preset']}, step {scores['step']}.\n\n"
        f"{scores['main']['metric']} on {scores['n_samples']} held-out samples: base {main['base']:.4g}, adapted {main['adapted']:.4g}, "
        f"95 % interval of the difference [{main['low']:.4g}, {main['high']:.4g}] ({scores['resampled']} resampled): {main['verdict']}.\n\n"
        f"```json\n{json.dumps(job.record['config'], indent=1)}\n```\n"
    )
