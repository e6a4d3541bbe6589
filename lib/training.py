"""From a run's settings to its trained stages: build strictly, check the identity, attach, train, hand over."""
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lib import adapters, assets, audit, checkpoint, machine, score, split, steps
from lib.cli import Job, is_first_rank
from lib.errors import Paused, Stop
from lib.prefix import PrefixCache, folder_for
from lib.processes import accelerator as open_accelerator
from lib.recipes import Manifest, Parts, Stage
from lib.run import read_json, write_json
from lib.state import Training
from lib.train import run_stage


def run(job: Job) -> list[Path]:
    """Train every stage that is not finished; returns the outputs of the step."""
    torch.set_num_threads(job.record["threads"])
    if job.args.force:
        job.record.pop("micro_batch", None)  # what an out-of-memory left; a new training begins with the settings
    precision = machine.precision(machine.devices_here(), job.config.train.precision, job.recipe.PRECISIONS)[0]
    accelerator = open_accelerator(precision, job.run.folder)
    say_what_differs(job, precision, accelerator.num_processes)
    refuse_uneven(job, accelerator.num_processes)
    where = assets.places(job.run, job.recipe, job.config, job.args.inputs)
    manifest = read_prepared(job)
    ask_base(job, manifest, where, accelerator)
    stages = job.recipe.stages(job.config, manifest)
    if job.args.force and is_first_rank():
        for stage in chosen(job, stages):
            shutil.rmtree(job.run.stage(stage.name), ignore_errors=True)
    accelerator.wait_for_everyone()
    begin_stamp(job, stages)
    for stage in chosen(job, stages):
        if finished_steps(job.run.stage(stage.name)) < stage.steps:
            train_stage(job, stage, manifest, where, accelerator)
    missing = [stage.name for stage in stages if finished_steps(job.run.stage(stage.name)) < stage.steps]
    if missing:
        job.advance(len(stages) - len(missing), len(stages), "stages")
        raise Paused(f"the stages {', '.join(missing)} were not asked for")
    return [checkpoint.choose(job.run.stage(stage.name), "best") for stage in stages]


def say_what_differs(job: Job, precision: str, processes: int) -> None:
    """A resume on other hardware goes on, says what differs, and keeps the micro-batch."""
    now = {"precision": precision, "processes": processes, "threads": torch.get_num_threads(), "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"}
    for key, value in now.items():
        if key in job.record and job.record[key] != value and is_first_rank():
            print(f"this run was begun with {key} {job.record[key]}, goes on with {value}")
    job.record |= now | {"micro_batch": job.record.get("micro_batch") or job.config.train.micro_batch}
    if is_first_rank():
        write_json(job.run.record, job.record)
        print(f"{now['device']}, {processes} process{'es' if processes > 1 else ''}, {precision}, micro-batch {job.record['micro_batch']}, global batch {job.config.train.global_batch}", flush=True)


def refuse_uneven(job: Job, processes: int) -> None:
    micro, whole = job.record["micro_batch"], job.config.train.global_batch
    if whole % (micro * processes):
        raise Stop(f"train.global_batch={whole} is not divisible by train.micro_batch={micro} x {processes} processes", "change one of the three (--processes N)")


def read_prepared(job: Job) -> Manifest:
    outputs = read_json(job.run.stamp(3))["outputs"]
    folder = next(job.run.root / name for name in outputs if name.startswith("cache/"))
    return split.read_manifest(job.run.manifest, folder)


def ask_base(job: Job, manifest: Manifest, where: dict[str, Path], accelerator: Any) -> None:
    """Settings that a recipe leaves to the untouched base's scores are decided before the first step, once in a training."""
    if not hasattr(job.recipe, "decide") or ("decided" in job.record and not job.args.force):
        return
    job.config = job.composed({})  # --force: without what was decided before; nothing is written until the answer is there
    stage = job.recipe.stages(job.config, manifest)[0]

    def base_scores() -> dict[str, float]:
        places, prepared = lay_groundwork(job, stage, manifest, where, accelerator)
        parts = job.recipe.build(job.config, stage, places)
        for module in parts.modules.values():
            module.requires_grad_(False).to(accelerator.device)
        sampler = job.recipe.sampler(job.config, stage, prepared, "select")
        return job.recipe.summarise(job.config, score.sharded_rows(job.recipe, job.config, parts, sampler, accelerator, uncached(parts)))

    job.settle(job.recipe.decide(job.config, base_scores))


def lay_groundwork(job: Job, stage: Stage, manifest: Manifest, where: dict[str, Path], accelerator: Any) -> tuple[dict[str, Path], Manifest]:
    """Places and manifest with what the stage stands on beside its base; rank 0 makes it, the others wait and find it."""
    if not hasattr(job.recipe, "groundwork"):
        return where, manifest
    earlier = None
    if stage.after:
        before = next(s for s in job.recipe.stages(job.config, manifest) if s.name == stage.after)
        if finished_steps(job.run.stage(before.name)) < before.steps:
            raise Stop(f"the stage {stage.name} stands on the stage {before.name}, which is not finished", job.run.command(4, "--stages", before.name))
        earlier = before, checkpoint.choose(job.run.stage(before.name), "best")
    lay = lambda: job.recipe.groundwork(job.config, stage, manifest, where, earlier, job.run.cache, job.pause_if_out_of_time)  # noqa: E731
    folder = lay() if is_first_rank() else None
    accelerator.wait_for_everyone()
    folder = folder if is_first_rank() else lay()
    return (where | {"groundwork": folder}, replace(manifest, groundwork=folder)) if folder else (where, manifest)


def chosen(job: Job, stages: list[Stage]) -> list[Stage]:
    wanted = [name for name in getattr(job.args, "stages", "").split(",") if name]
    unknown = set(wanted) - {stage.name for stage in stages}
    if unknown:
        raise Stop(f"there is no stage {sorted(unknown)[0]!r}; there are: {', '.join(stage.name for stage in stages)}")
    return [stage for stage in stages if not wanted or stage.name in wanted]


def begin_stamp(job: Job, stages: list[Stage]) -> None:
    """A killed training is a paused one: the stamp says from the first step on what it is made from."""
    if is_first_rank():
        done, total = sum(finished_steps(job.run.stage(s.name)) for s in stages), sum(s.steps for s in stages)
        job.advance(done, total, "steps")
        steps.write_stamp(job.run, 4, "paused", job.made_from, job.progress, [], 0.0)


def finished_steps(folder: Path) -> int:
    """The step of the newest checkpoint that verifies; a stage that ended early by patience says so in done.json."""
    done = read_json(folder / "done.json")
    if done:
        return done["steps"]
    newest = checkpoint.newest(folder, notify=lambda text: None) if folder.exists() else None
    return read_json(newest / "state.json")["step"] if newest else 0


def train_stage(job: Job, stage: Stage, manifest: Manifest, where: dict[str, Path], accelerator: Any) -> None:
    where, manifest = lay_groundwork(job, stage, manifest, where, accelerator)
    folder = job.run.stage(stage.name)
    resume = checkpoint.newest(folder, print if is_first_rank() else lambda text: None) if folder.exists() else None
    refuse_other_places(accelerator, resume)
    parts, wrapped = assemble(job, stage, where, accelerator, manifest, check=resume is None)
    tensors = adapters.trainable(parts)
    train, select = (job.recipe.sampler(job.config, stage, manifest, side) for side in ("train", "select"))
    prefix = open_prefix(job, parts, accelerator) if parts.prefix else None
    if is_first_rank():
        say_what_trains(parts)
    training = Training(job, stage, folder, accelerator, parts, wrapped, job.recipe.objectives(job.config, stage), train, select, prefix, tensors)
    open_tracker(training)
    if resume is None:
        hand_over(job, stage, manifest, training)
    run_stage(training, resume)
    for tracker in accelerator.trackers:
        tracker.finish()
    if is_first_rank():
        write_json(folder / "done.json", {"steps": stage.steps, "trained_steps": training.step})
    accelerator.wait_for_everyone()


def refuse_other_places(accelerator: Any, resume: Path | None) -> None:
    """Processes on several machines must see the same checkpoints, or each would train from another one."""
    from accelerate.utils import gather_object

    seen = set(gather_object([resume.name if resume else "none"]))
    if len(seen) > 1:
        raise Stop(f"the processes see different checkpoints ({', '.join(sorted(seen))})", "put --root on a disk that all machines share")


def assemble(job: Job, stage: Stage, where: dict[str, Path], accelerator: Any, manifest: Manifest, check: bool) -> tuple[Parts, dict[str, Any]]:
    """The base, strictly loaded, on the device; then adapters. With `check` the output is compared before and after."""
    parts = job.recipe.build(job.config, stage, where)
    for module in parts.modules.values():
        module.requires_grad_(False).to(accelerator.device)
    sampler = job.recipe.sampler(job.config, stage, manifest, "select")
    scored = lambda count: score.rows(job.recipe, job.config, parts, sampler, list(range(count)), accelerator, uncached(parts))  # noqa: E731
    if check and (limits := base_limits(job, manifest)):
        audit.refuse_other_base(limits, job.recipe.summarise(job.config, scored(sampler.length)))
    before = scored(1) if check else []
    wrapped = adapters.attach(parts)
    for module in parts.modules.values():
        module.to(accelerator.device)
    audit.refuse_other_output(before, scored(1) if check else [])
    return parts, wrapped


def base_limits(job: Job, manifest: Manifest) -> dict[str, float]:
    """What the recipe knows of its published base, before hours of training on another one (lib.recipes)."""
    known = getattr(job.recipe, "base_limits", None)
    return known(job.config, manifest) if known else {}


def uncached(parts: Parts) -> PrefixCache | None:
    return PrefixCache(parts, None, 0) if parts.prefix else None


def open_prefix(job: Job, parts: Parts, accelerator: Any) -> PrefixCache:
    if not job.config.cache.prefix:
        return PrefixCache(parts, None, 0)
    made_from = {
        "prepared": steps.file_hash(job.run.manifest), "precision": accelerator.mixed_precision, "device": accelerator.device.type,
        "code": steps.code(4, job.recipe), "settings": [(k, v) for k, v in job.record["config"].items() if k.startswith(("model.", "data."))],
    }  # fmt: skip
    return PrefixCache(parts, folder_for(job.run.cache, parts, made_from), job.config.cache.quota_gb * 1e9)


def say_what_trains(parts: Parts) -> None:
    """The audit's table: every trained layer with its share of all numbers."""
    total = sum(p.numel() for module in parts.modules.values() for p in module.parameters())
    trained = sum(p.numel() for p in adapters.trainable(parts).values())
    rows = adapters.table(parts)
    for layer, count, share in rows:
        print(f"  {layer:<60} {count:>10,}  {100 * share:.4f} %")
    print(f"  {len(rows)} trained layers, {trained:,} of {total:,} numbers ({100 * trained / total:.3f} %)", flush=True)


def open_tracker(training: Training) -> None:
    """TensorBoard through Accelerate's tracker: train/<stage>/tensorboard/."""
    training.folder.mkdir(parents=True, exist_ok=True)
    training.accelerator.project_configuration.logging_dir = training.folder
    training.accelerator.init_trackers("tensorboard")


def hand_over(job: Job, stage: Stage, manifest: Manifest, training: Training) -> None:
    """A stage that starts from another takes its trained tensors and the moments of the optimisers they share."""
    source, grown = None, False
    if job.args.checkpoint and stage == chosen(job, job.recipe.stages(job.config, manifest))[0]:
        source = Path(job.args.checkpoint)
        refuse_other_settings(job, source)
    elif stage.init_from != "base":
        source, grown = checkpoint.choose(job.run.stage(stage.init_from), "best"), True
    if source is None:
        return
    _, training.handed_over = checkpoint.load(source, training.parts, training.wrapped, training.parts.base, grown)
    print(f"stage {stage.name} starts from {source.name}" + (f" of stage {stage.init_from}" if stage.init_from != "base" else ""))


def refuse_other_settings(job: Job, source: Path) -> None:
    """--checkpoint: a new run may have other data and another schedule, but the same network and adapters."""
    problem = checkpoint.fault(source)
    if problem:
        raise Stop(f"{source} is no usable checkpoint: {problem}", job.run.command(4, "--checkpoint runs/NAME/train/STAGE/step-000100"))
    state = read_json(source / "state.json")
    then = {"recipe": state["recipe"]} | {key: value for key, value in state["config"].items() if key.startswith(("model.", "lora."))}
    now = {"recipe": job.record["recipe"]} | {key: value for key, value in job.record["config"].items() if key.startswith(("model.", "lora."))}
    changed = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    if changed:
        shown = ", ".join(f"{key}: checkpoint {then.get(key)!r}, run {now.get(key)!r}" for key in changed)
        raise Stop(f"the checkpoint {source} was trained with other settings ({shown})", "make the run with the same settings, or choose another checkpoint")
