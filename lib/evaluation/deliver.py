"""What the user takes home: predictions on their own inputs, and exports. No output of step 5 depends on it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from lib.core.errors import Stop
from lib.core.job import Job
from lib.core.records import Parts, Stage
from lib.core.run import read_json
from lib.core.words import counted
from lib.evaluation.evaluate import open_session
from lib.network import adapters, checkpoint


def adapted_parts(job: Job) -> tuple[Stage, Parts, dict[str, Any], Any]:
    """The scored stage, its parts with the chosen checkpoint (on the CPU), PEFT's wrappers, the accelerator."""
    accelerator, asset_dirs, _, stage = open_session(job)
    source = checkpoint.choose(job.run.stage(stage.name), job.args.checkpoint)
    parts = job.recipe.build(job.config, stage, asset_dirs)
    wrapped = adapters.attach(parts)
    checkpoint.load(source, parts, wrapped, parts.base)
    return stage, parts, wrapped, accelerator


def predict(job: Job) -> None:
    """The adapted model on the user's own inputs."""
    stage, parts, _, accelerator = adapted_parts(job)
    adapters.set_mode(parts, training=False)
    for module in parts.modules.values():
        module.requires_grad_(False).to(accelerator.device)
    job.args.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), accelerator.autocast():
        job.recipe.predict(job.config, stage, parts, job.args.predict, job.args.out)
    print(f"predictions are in {job.args.out}")


def export(job: Job) -> None:
    """export/adapter: PEFT's layout. export/merged: what the recipe's `export` makes of the merged modules."""
    stage, parts, wrapped, _ = adapted_parts(job)
    folder = job.run.folder / "export"
    if job.args.export in ("adapter", "hub"):
        if not wrapped:
            raise Stop(
                f"the preset {job.record['preset']} has no adapters to export", job.run.command(5, "--export", "merged")
            )
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        adapters.save(wrapped, folder / "adapter", parts.base)
        print(f"adapter in {folder / 'adapter'}")
    if job.args.export == "hub":
        push(job, folder / "adapter")
    if job.args.export == "merged":
        parts.modules |= adapters.merge(wrapped)
        shutil.rmtree(folder / "merged", ignore_errors=True)
        (folder / "merged").mkdir(parents=True)
        job.recipe.export(job.config, stage, parts, folder / "merged")
        print(f"merged model in {folder / 'merged'}")


def push(job: Job, folder: Path) -> None:
    """Upload the adapter with a model card that states base, scores and how they were measured."""
    from huggingface_hub import HfApi

    if not job.args.hub_repository:
        raise Stop(
            "--export hub needs --hub-repository USER/NAME",
            job.run.command(5, "--export hub --hub-repository USER/NAME"),
        )
    (folder / "README.md").write_text(model_card(job), encoding="utf-8")
    api = HfApi()
    api.create_repo(job.args.hub_repository, exist_ok=True)
    api.upload_folder(repo_id=job.args.hub_repository, folder_path=folder)
    print(f"pushed to {job.args.hub_repository}")


def model_card(job: Job) -> str:
    """What the hub shows of the adapter: what it was trained by, its main score, every setting."""
    scores = read_json(job.run.scores)
    main = scores["metrics"][scores["main"]["metric"]]
    return (
        f"---\nlibrary_name: peft\ntags: [lora]\n---\n# {job.run.name}\n\n"
        f"Recipe {scores['recipe']}, preset {scores['preset']}, step {scores['step']}.\n\n"
        f"{scores['main']['metric']} on {counted(scores['n_samples'], 'held-out sample')}: "
        f"base {main['base']:.4g}, adapted {main['adapted']:.4g}, "
        f"95 % interval of the difference [{main['low']:.4g}, {main['high']:.4g}] "
        f"({scores['resampled']} resampled): {main['verdict'] or 'no verdict'}.\n\n"
        f"```json\n{json.dumps(job.record['config'], indent=1)}\n```\n"
    )
