"""A finished run from Python: its networks as plain torch modules, predictions, scores.

    from lib import api
    run = api.load("runs/NAME")
    run.base, run.adapted        # torch modules on the run's device, in evaluation mode, every tensor frozen
    run.predict("PHOTOS")        # the folder that the predictions were written into
    run.scores                   # a pandas DataFrame, one row per metric

What is called and what comes back is the recipe's (lib/recipes/<name>/README.md shows five lines of each).
"""

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib import recipes
from lib.core import config as configuration
from lib.core import hashes, steps
from lib.core.errors import FAILED, Stop
from lib.core.job import Job
from lib.core.records import Parts, Stage
from lib.core.run import STEPS, Run, existing
from lib.core.session import Clock

ADAPTERS = ("merged", "attached")
EXPORT = ("export", "merged")  # below a run's folder


def load(
    folder: str | Path, checkpoint: str = "", adapters: str = "merged", inputs: tuple[Path, ...] = ()
) -> "Trained":
    """The run in `folder`, or the merged export of one (`runs/NAME/export/merged`), whose weights `adapted` then has.

    checkpoint: best, last or step-N; "" is the one that step 5 scores. adapters: "merged" into the base's tensors, or
    "attached" as PEFT's layers. inputs: further places to look for weights and data. Stop: this is no run, or it is
    not trained, or something that it was made from is gone or has changed. A training that is not finished has
    checkpoints too: one of them is given out where it is named.
    """
    configuration.one_of("adapters", adapters, ADAPTERS)
    place = Path(folder).resolve()
    exported = place if place.parts[-2:] == EXPORT else None
    if exported and (checkpoint or adapters != "merged"):
        asked = f"checkpoint={checkpoint!r}" if checkpoint else f"adapters={adapters!r}"
        raise Stop(f"{place} is one checkpoint, merged: {asked} is of a run", f"api.load({str(place.parents[1])!r}, …)")
    place = place.parents[1] if exported else place
    if not (place / "run.json").exists() or place.parent.name != "runs":
        raise Stop(f"{place} is not a run: it lies in a folder runs/ and holds run.json", 'api.load("runs/NAME")')
    return Trained(job_of(Run(place.parents[1], place.name), inputs), checkpoint, adapters == "merged", exported)


def job_of(run: Run, inputs: tuple[Path, ...]) -> Job:
    """What step 5 would work on."""
    record = existing(run.record)
    recipe = recipes.find(run.root, record["recipe"])
    config = configuration.of_record(recipe, record, record.get("decided", {}))
    args = argparse.Namespace(inputs=list(inputs))
    return Job(5, run, recipe, config, record, args, Clock(None, 0.0, time.monotonic()))


class Trained:
    """A run whose training is finished. Networks are built when they are first asked for."""

    def __init__(self, job: Job, checkpoint: str, merged: bool, exported: Path | None):
        from lib.evaluation import evaluate
        from lib.network.checkpoint import choose

        self.job, self.config, self.name = job, job.config, job.run.name
        self.merged, self.exported = merged, exported
        with evaluate.opened(job) as self.session:
            self.stage = self.session.stage
        trained = job.run.stage(self.stage.name)
        if not trained.exists():
            raise Stop(f"the run {self.name} has no trained stage {self.stage.name}", job.run.command(4))
        refuse_outdated(job, 4, but_paused=bool(checkpoint))
        self.checkpoint = choose(trained, checkpoint or job.config.eval.checkpoint)

    @property
    def device(self) -> Any:
        """The torch device that the networks are on."""
        return self.session.accelerator.device

    @functools.cached_property
    def base(self) -> Any:
        """The untouched base, strictly loaded."""
        return self.network(self.built())

    @functools.cached_property
    def adapted(self) -> Any:
        """The base with what was trained."""
        return self.network(self.adapted_parts)

    @functools.cached_property
    def adapted_parts(self) -> Any:
        from lib.network import adapters, checkpoint

        parts = self.built()
        if self.exported:
            if why := hashes.folder_fault(self.exported):
                again = self.job.run.command(5, "--export", "merged")
                raise Stop(f"the export {self.exported} is broken: {why}", again, FAILED)
            own = self.job.recipe.modules("read_export")
            read = self.job.recipe.read_export if own else read_one_file
            read(self.config, self.stage, parts, self.exported)
            return parts
        wrapped = adapters.attach(parts)
        checkpoint.load(self.checkpoint, parts, wrapped, parts.base)
        if self.merged:
            parts.modules |= adapters.merge(wrapped)
        return parts

    def built(self) -> Any:
        from lib.network import setup

        return setup.build_base(self.job, self.stage, self.session.asset_dirs, self.session.accelerator)

    def network(self, parts: Any) -> Any:
        """What a person calls of the parts (the contract's `network`)."""
        for module in parts.modules.values():
            module.requires_grad_(False).to(self.session.accelerator.device)
        return self.job.recipe.network(self.config, self.stage, parts).eval()

    def predict(self, inputs: str | Path, out: str | Path = "", scale: Sequence[str] = ()) -> Path:
        """Step 5's --predict (and --scale): files in `out`, or in predictions/ of the run; returns that folder."""
        import torch

        from lib.evaluation import deliver
        from lib.network import adapters

        folder = Path(out) if out else self.job.run.folder / "predictions"
        assert self.adapted is not None  # on the device
        adapters.set_mode(self.adapted_parts, training=False)  # whoever has it may have put it into another mode
        with torch.no_grad(), self.session.accelerator.autocast():
            deliver.write_predictions(self.job, self.stage, self.adapted_parts, str(inputs), folder, scale)
        return folder

    @property
    def scores(self) -> Any:
        """eval/scores.json as a DataFrame: a row per metric, columns base, adapted, trivial, difference, low, high,
        verdict, unit. Stop: step 5 has not scored it, or something else than what is trained now.
        """
        import pandas as pd

        scores = existing(self.job.run.scores, self.job.run.command(5))
        refuse_outdated(self.job, 5)
        return pd.DataFrame.from_dict(scores["metrics"], orient="index").assign(unit=pd.Series(scores["units"]))


def refuse_outdated(job: Job, step: int, but_paused: bool = False) -> None:
    """Stop: a step is not complete, or was made from something else than the run has now. but_paused: that may be."""
    state = steps.state_without_code(job.run, step, job.record["config"])
    if state.word not in ("complete", *(("paused",) if but_paused else ())):
        raise Stop(f"the run {job.run.name}: step {step} ({STEPS[step]}) is {state}", job.run.command(step))


def read_one_file(config: Any, stage: Stage, parts: Parts, folder: Path) -> None:
    """What `read_export` does where a recipe has none of its own."""
    from lib.network import weights

    network, files = next(iter(parts.modules.values())), sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise Stop(f"{folder} holds {len(files)} safetensors files, not one", "export it again (--export merged)")
    names = set(network.state_dict())
    weights.load_strict(network, (pair for pair in weights.tensors(files[0]) if pair[0] in names))
