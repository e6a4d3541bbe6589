"""What a recipe is: every function that the shared rooms call, stated once.

A recipe is a package. Its face (`__init__.py`) holds the constants below and a table `FUNCTIONS` of the modules in
which the functions live; a module is imported when one of its functions is called, so `--plan` stays free of torch.
Parameters have the names that they have here. `lib.recipes.load` compares a package with this class before anything
runs. Every function may raise `Stop` with one sentence of cause and one command; where the usual reason is known, it is
stated below, and so is what else a function may raise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lib.core.records import (
    Asset,
    Batch,
    Foreign,
    Manifest,
    Metric,
    Objective,
    Parts,
    Plan,
    Record,
    Row,
    Sample,
    Sampler,
    Split,
    Stage,
)

FACE = ("Config", "PRESETS", "DEMO", "TINY", "EXPECTED", "PRECISIONS", "FUNCTIONS")


class Recipe(Protocol):
    """A loaded recipe. `config` is its own `Config`; functions with a `stage` may differ between kinds of stages."""

    name: str  # of the package, as --recipe takes it
    folder: Path  # that holds the package
    Config: type  # dataclass of dataclasses: model, data, loss, lora, train, eval, cache, session (lib.core.config)
    PRESETS: Mapping[str, dict[str, Any]]  # name -> settings by dotted key; the first one is the default
    DEMO: Mapping[str, Any]  # settings of --demo, over those of a preset
    TINY: Mapping[str, Any]  # over DEMO under PIPELINE_SCALE=tiny
    EXPECTED: Mapping[str, str]  # preset -> what a good run shows, one sentence
    PRECISIONS: tuple[str, ...]  # what it may be trained in: of bf16, fp16, fp32

    def modules(self, function: str) -> Sequence[Path]:
        """The files that hold a function, one for each kind of stage; for fingerprints (lib.core.code).

        The loader gives every recipe this one. Empty for an optional function that the recipe does not have.
        """

    # ------------------------------------------------------------------------------------------ before the training

    def plan(self, config: Any) -> Plan:
        """Parameters, trainable parameters and bytes of the estimated peak, from closed forms; no torch.

        A test compares the counts with the network itself. Stop: the preset cannot be trained (too little memory).
        """

    def assets(self, config: Any) -> list[Asset]:
        """What step 2 brings, finds or asks the user for, in this order; no torch. Names are unique."""

    def prepare(self, config: Any, asset_dirs: dict[str, Path], out: Path) -> Iterator[Record]:
        """Step 3, record by record, so that it can pause between two.

        asset_dirs: asset name -> folder. out: for arrays; it survives a pause, and what lies there is not made again.
        A file that cannot be used is a record with status "skipped" and a reason, not an error. Stop: no file can be
        used, or the data is not in the format that the recipe reads.
        """

    def split(self, config: Any, records: list[Record], out: Path) -> Split:
        """Which groups are held out. `out` holds the arrays of `prepare`. Stop: no group can be held out."""

    def summarise_data(self, config: Any, records: list[Record]) -> dict[str, Any]:
        """What the user should see of the data before training: name -> text, number, or a dict of them."""

    def stages(self, config: Any, manifest: Manifest) -> list[Stage]:
        """The legs of the training, in order; at least one, and the last one is scored. Lengths in optimiser steps."""

    def decide(self, config: Any, score: Callable[[], dict[str, float]]) -> dict[str, Any]:
        """Optional. Settings that the untouched base's scores decide: {dotted key: value}, {} where nothing is open.

        Asked once, before the first step of a training; the answer is kept in run.json. score(): metrics of the
        untouched base on the selection samples (see `summarise`), computed when it is called.
        """

    # ------------------------------------------------------------------------------------------ of one stage

    def stage_inputs(
        self,
        config: Any,
        stage: Stage,
        manifest: Manifest,
        asset_dirs: dict[str, Path],
        earlier: tuple[Stage, Path] | None,
        cache: Path,
        pause: Callable[[], None],
    ) -> Path | None:
        """Optional. A folder below `cache` with what a stage needs beside its base, e.g. latents of an earlier stage.

        The same folder in every call; None where there is none. `build` finds it as asset_dirs["stage_inputs"],
        `sampler` as manifest.stage_inputs. earlier: the stage `stage.after` and its best checkpoint. pause() is called
        between two units of work; it raises Paused when the session's time is over, and the next call goes on there.
        """

    def build(self, config: Any, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
        """The stage's networks on the CPU: strictly loaded, frozen or not, without adapters (lib attaches them).

        asset_dirs: asset name -> folder. Stop: a tensor of the base is missing, unexpected or mis-shaped.
        """

    def sampler(self, config: Any, stage: Stage, manifest: Manifest, side: str) -> Sampler:
        """Samples of one side: "train", "select" (chooses the best checkpoint) or "test" (scored in step 5).

        A sample is a function of its index and its key; on "select" and "test" of its index alone. Every sample has a
        "sample_id", which is unique within the side. Stop: the side has no usable record.
        """

    def collate(self, config: Any, stage: Stage, samples: list[Sample]) -> Batch:
        """Samples as one batch on the CPU: arrays become tensors (len(samples), …); the loop moves them to the device.

        As `Sampler.draw`, it may run in several threads at once.

        Where the stage has a frozen front, sample["frozen_features"] (units, …) is its output for the sample.
        """

    def objectives(self, config: Any, stage: Stage) -> list[Objective]:
        """The losses, and the tensors that each of them updates. One is fine-tuning, two are a GAN.

        Every trained tensor is in exactly one group of one objective; lib refuses anything else.
        """

    def measures(self, config: Any, stage: Stage) -> dict[str, Metric]:
        """Unit, direction, title and meaning of every metric of `summarise`. The first chooses the best checkpoint, and
        heads the report; those with front=True, seven at most, follow it.
        """

    def score_batch(self, config: Any, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
        """One row per sample of the batch, in its order, with numbers in the units of `measures`.

        Called in evaluation mode and without gradients. Noise comes from lib.network.scoring.noise, and none from
        generators that others share: what a sample scores may not depend on its batch. parts None: the trivial
        predictor, which knows the training side at most.
        """

    def summarise(self, config: Any, stage: Stage, rows: list[Row]) -> dict[str, float]:
        """Metrics of a set of rows: name -> value in its unit, NaN where it means nothing for this set.

        Called again for every resample of the interval (eval.resamples, 1000): keep it fast.
        """

    def base_limits(self, config: Any, stage: Stage, manifest: Manifest) -> dict[str, float]:
        """Optional. What the published base stays below on held-out samples, by metric; {} where that is not known.

        A base that does not is refused: it is half loaded, or another network.
        """

    def comparison(self, config: Any, stage: Stage) -> str:
        """Optional. What the column "base" holds: "base", or "random_init" and the like where there is none.

        Only a comparison with a base gets a verdict.
        """

    def describe(self, config: Any, stage: Stage, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
        """What step 5 prints of eval/scores.json (`scores`): a few lines of text."""

    def figures(self, config: Any, stage: Stage, base: list[Row], adapted: list[Row], out: Path) -> None:
        """Pictures of the report, as PNG files in `out`; the first by name heads the page. Captions are the PNG's text
        "Description": what is shown, and of which group. Without one it is the name.

        base, adapted: rows of the same samples in the same order; those of `Sampler.pictured` have arrays, or the first
        `eval.figures`.
        """

    # ------------------------------------------------------------------------------------------ what a user takes home

    def predict(self, config: Any, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
        """The adapted model on the user's own inputs (a path, or words that the recipe reads); results into `out`.

        parts: merged or adapted, in evaluation mode, on the device, under autocast. Stop: the inputs cannot be read.
        """

    def predict_scaled(
        self, config: Any, stage: Stage, parts: Parts, inputs: str, out: Path, scale: Sequence[str]
    ) -> None:
        """Optional. `predict`, in the unit that step 5's --scale states. Stop: a statement cannot be, or two differ."""

    def propose(
        self, config: Any, parts: Callable[[], Parts], inputs: str, out: str, wishes: Mapping[str, str]
    ) -> None:
        """Optional. Labels of the user's own inputs, drafted or to be drawn on a page; not an output of a step.

        parts(): the adapted model, or the base where nothing is trained yet, as for `predict`. wishes: what step 2's
        flags say, "" for nothing. Stop: the inputs cannot be read.
        """

    def adopt(self, config: Any, given: Foreign) -> tuple[str, str]:
        """Optional. What another program left (step 2's --import), as this project has it; returns what was taken, and
        the settings that use it.

        What `given.attached()` holds in the end is saved as a checkpoint; anything else goes into `given.out`. Stop:
        the file is nothing of the kind, or it is not whole, with the count of what is missing.
        """

    def export(self, config: Any, stage: Stage, parts: Parts, out: Path) -> None:
        """The merged networks in the published format, with the published tensor names, into the folder `out`."""

    def network(self, config: Any, stage: Stage, parts: Parts) -> Any:
        """Optional. The torch module that a person calls from Python (lib.api); the first of the parts by default."""

    def read_export(self, config: Any, stage: Stage, parts: Parts, folder: Path) -> None:
        """Optional. What `export` wrote into `folder`, back into the untouched `parts`.

        By default the folder holds one safetensors file with the names of `network`'s tensors; it may hold more. Stop:
        a tensor is missing or has another shape.
        """


def main_measure(recipe: Recipe, config: Any, stage: Stage) -> tuple[str, Metric]:
    """The metric that chooses the best checkpoint and heads the report, by name."""
    return next(iter(recipe.measures(config, stage).items()))
