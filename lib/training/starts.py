"""What a stage starts from: the untouched base, the stage before it, or the checkpoint that --checkpoint names."""

from pathlib import Path
from typing import Any

from lib.core import config as configuration
from lib.core import steps
from lib.core.errors import Stop
from lib.core.hashes import folder_fault, identity
from lib.core.job import Job
from lib.core.processes import is_first_rank
from lib.core.records import Stage
from lib.core.run import read_json, write_record
from lib.network import checkpoint, lineage
from lib.network.setup import is_finished, refuse_unfinished
from lib.training.state import Training

NOTED = "started_from"  # in run.json: stage -> {name, sha256} of the checkpoint that --checkpoint named
FOLLOWED = "followed"  # in run.json: stage -> stage before it -> {name, sha256} of the checkpoint that it was made from


def source(job: Job, stage: Stage, first: Stage) -> Path | None:
    """The checkpoint that a stage starts from; None: the untouched base. first: of the stages that are asked for."""
    if job.args.checkpoint and stage == first:
        return Path(job.args.checkpoint)
    return None if stage.init_from == "base" else checkpoint.choose(job.run.stage(stage.init_from), "best")


def before(job: Job, stage: Stage, first: Stage) -> set[str]:
    """The stages that a stage starts from or stands on. first: as for `source`."""
    return {stage.after, "" if job.args.checkpoint and stage == first else stage.init_from} - {"", "base"}


def begin(job: Job, stage: Stage, stages: list[Stage], first: Stage) -> None:
    """Notes what a stage is made from, before its first step. Stop: one of the stages before it is not finished."""
    found = {}
    for name in sorted(before(job, stage, first)):
        refuse_unfinished(job.run, next(one for one in stages if one.name == name), stage)
        found[name] = identity(checkpoint.choose(job.run.stage(name), "best"))
    job.record.setdefault(FOLLOWED, {})[stage.name] = found
    named = identity(Path(job.args.checkpoint)) if job.args.checkpoint and stage == first else {}
    job.record.setdefault(lineage.TRAININGS, {})[stage.name] = known_by(job, found | {"": named})
    if is_first_rank():
        write_record(job.run.record, job.record)


def known_by(job: Job, started: dict[str, dict[str, str]]) -> str:
    """What tells this training from any other: what it is made from and starts from.

    Only what cannot change in the middle of it: no setting that moves neither samples nor noise, and not the arrays,
    which another machine may round otherwise.
    """
    free = configuration.marked(job.config, "free")
    settings = {key: value for key, value in job.record["config"].items() if key not in free}
    inputs = {name: sha256 for name, sha256 in job.made_from["inputs"].items() if name != steps.ARRAYS}
    return steps.digest({"recipe": job.record["recipe"], "settings": settings, "inputs": inputs, "started": started})


def outdated(job: Job, stage: Stage, stages: list[Stage]) -> str:
    """Why what was trained of a stage belongs to another training of a stage before it; "" where it does not."""
    if not checkpoint.all_of(job.run.stage(stage.name)):
        return ""
    for one in stages:
        noted = job.record.get(FOLLOWED, {}).get(stage.name, {}).get(one.name)
        if noted and is_finished(job.run, one):
            now = checkpoint.choose(job.run.stage(one.name), "best")
            if identity(now)["sha256"] != noted["sha256"]:
                return f"the stage {stage.name} was made from another {noted['name']} of the stage {one.name}" + (
                    "" if now.name == noted["name"] else f", whose best checkpoint is {now.name} now"
                )
    return ""


def refuse_outdated(job: Job, stage: Stage, stages: list[Stage]) -> None:
    """Stop: `outdated` says why; it names the stages that follow from this one too."""
    if cause := outdated(job, stage, stages):
        names = [stage.name]
        names += [one.name for one in stages if {one.init_from, one.after} & set(names)]
        again = job.run.command(4, "--force", "--stages", ",".join(names))
        raise Stop(cause, f"{again}   (trains {'it' if len(names) == 1 else 'them'} again)")


def load(training: Training, source: Path | None) -> bool:
    """The source's trained tensors, and the moments of the optimisers that both have. False: there is no source.

    The stage before may have trained less; what --checkpoint names has trained the same.
    """
    if source is None:
        return False
    job, parts = training.job, training.parts
    is_named = source == Path(job.args.checkpoint)
    if is_named and is_first_rank():
        job.record.setdefault(NOTED, {})[training.stage.name] = identity(source)
        write_record(job.run.record, job.record)
    training.lineage |= lineage.read(source)
    checkpoint.load(source, parts, training.wrapped, parts.base, grown=not is_named)
    training.inherited_moments = checkpoint.moments(source, parts)
    of_stage = "" if is_named else f" of stage {training.stage.init_from}"
    print(f"stage {training.stage.name} starts from {source.name}{of_stage}")
    return True


def refuse_other(job: Job, stages: list[Stage]) -> None:
    """Before anything is removed or trained. stages: those that are asked for.

    Stop: --checkpoint names nothing that the first of them can start from, or that stage began from something else.
    """
    named, stage = job.args.checkpoint, stages[0].name
    if named:
        refuse_other_settings(job, Path(named))
    if job.args.force:
        refuse_to_remove(job, stages)
        forget(job, stages)
        return
    noted, is_begun = job.record.get(NOTED, {}).get(stage), bool(checkpoint.all_of(job.run.stage(stage)))
    if named and is_begun and (noted or {}).get("sha256") != identity(Path(named))["sha256"]:
        began = f"from {noted['name']}" if noted else "without a checkpoint"
        again = f"{job.run.command(4, '--force', '--checkpoint', named)}   (trains it again)"
        cause = f"the stage {stage} of the run {job.run.name} began {began}, so --checkpoint {named} would do nothing"
        raise Stop(cause, f"{again}, or leave --checkpoint out, or choose another --run NAME")
    if noted and not named and not is_begun:
        cause = (
            f"the stage {stage} of the run {job.run.name} was to begin from {noted['name']}, and has no checkpoint yet"
        )
        raise Stop(cause, job.run.command(4, "--checkpoint FOLDER") + "   (that one), or --force (from its base)")


def refuse_to_remove(job: Job, stages: list[Stage]) -> None:
    """Stop: --force would remove the checkpoint that --checkpoint names."""
    named = job.args.checkpoint
    if named and any(Path(named).resolve().is_relative_to(job.run.stage(one.name).resolve()) for one in stages):
        cause = f"--force removes the old training, and with it {named}, from which the new one is to begin"
        raise Stop(cause, "copy that folder elsewhere and name the copy, or choose another --run NAME")


def forget(job: Job, stages: list[Stage]) -> None:
    """A training that --force begins again has begun from nothing yet."""
    noted = job.record.get(NOTED, {})
    if gone := {stage.name for stage in stages} & noted.keys():
        job.record[NOTED] = {name: one for name, one in noted.items() if name not in gone}
        if is_first_rank():
            write_record(job.run.record, job.record)


def refuse_other_settings(job: Job, source: Path) -> None:
    """--checkpoint: a new run may have other data and another schedule, but the same network and adapters."""
    problem = folder_fault(source)
    if problem:
        raise Stop(
            f"{source} is not a usable checkpoint: {problem}",
            job.run.command(4, "--checkpoint runs/NAME/train/STAGE/step-000100"),
        )
    state = read_json(source / "state.json")
    then, now = of_network(state), of_network(job.record)
    changed = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    if changed:
        shown = ", ".join(f"{key}: checkpoint {then.get(key)!r}, run {now.get(key)!r}" for key in changed)
        raise Stop(
            f"the checkpoint {source} was trained with other settings ({shown})",
            "make the run with the same settings, or choose another checkpoint",
        )


def of_network(record: dict[str, Any]) -> dict[str, Any]:
    """What a run record or a checkpoint's state says of the network: the recipe, its model and its adapters."""
    settings = record["config"].items()
    return {"recipe": record["recipe"]} | {k: value for k, value in settings if k.startswith(("model.", "lora."))}
