"""The table of recipes, and the records that a recipe and `lib` exchange.

A recipe is a package with the names that `CONTRACT` lists; the loop, the steps and the report know nothing else of it.
A new recipe is a new folder and one line in `RECIPES`. Nothing here imports torch: `--plan` must answer in half a second.

    Config, PRESETS (the first is the default), DEMO, TINY        settings; TINY is laid over DEMO under PIPELINE_SCALE=tiny
    EXPECTED, PRECISIONS                                           what a good run shows, what it may be trained in
    READS, CODE                                                    what the fingerprint of a step covers, see below
    plan(cfg) -> Plan;  assets(cfg) -> list[Asset]                 torch-free
    prepare(cfg, places, out) -> Iterator[Record]                  places: asset name -> folder; out: arrays, kept over pauses
    split(cfg, records, out) -> Split;  summarise_data(cfg, records) -> dict
    stages(cfg, manifest) -> list[Stage]
    build(cfg, stage, places) -> Parts                             strict, without adapters; on the CPU
    sampler(cfg, stage, manifest, side) -> Sampler                 side: train | select (chooses the best) | val (step 5)
    collate(samples) -> Batch;  objectives(cfg, stage) -> list[Objective]
    measures(cfg, stage) -> {metric: Metric}                       the first is the main one, which chooses the best checkpoint
    score_batch(cfg, parts, batch) -> list[Row]                    parts None: the trivial predictor
    summarise(cfg, rows) -> {metric: number}                       called again for every resample: keep it fast
    describe(cfg, scores, base, adapted) -> str                    what step 5 prints; base, adapted: list[Row]
    figures(cfg, base, adapted, out);  predict(cfg, parts, inputs, out);  export(cfg, parts, out)

optional:

    comparison(cfg, stage) -> str                                  what stands in for the base where there is none: "random_init"
    groundwork(cfg, stage, manifest, places, earlier, cache, pause) -> Path | None
                                                                   what a stage stands on beside its base (latents of a network that
                                                                   an earlier stage trained); the same folder in every call. `build`
                                                                   finds it as places["groundwork"], `sampler` as manifest.groundwork.
                                                                   earlier: stage.after and its best checkpoint, or None; pause() may raise
    decide(cfg, score) -> {setting: value}                         asked once, before the first step of a training; score() gives the
                                                                   untouched base's metrics on the selection samples; kept in run.json
    base_limits(cfg, manifest) -> {metric: number}                 what the untouched base stays below on held-out samples
                                                                   if it is the published one; {} where that is not known
"""
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lib.errors import Stop, nearest

# READS: step -> prefixes of the settings that the step reads beyond lib's own, e.g. {3: ("data.", "model.image_width_px")}
# CODE: step -> modules of the package that shape the step's output, e.g. {3: ("data",), 4: ("model", "losses")}; what these
# import from the package counts too (lib.steps follows the imports).
RECIPES = ("vggt_eth3d", "hamer", "vavae_microdoppler", "llava_map")  # the first one is the default

CONTRACT = (
    "Config", "PRESETS", "DEMO", "TINY", "EXPECTED", "PRECISIONS", "READS", "CODE",
    "plan", "assets", "prepare", "split", "summarise_data", "stages", "build", "sampler", "collate", "objectives",
    "measures", "score_batch", "summarise", "describe", "predict", "figures", "export",
)  # fmt: skip

Sample = dict[str, Any]  # one item of a batch: numpy arrays or tensors by name, and "sample_id"
Batch = dict[str, Any]  # what `collate` makes of samples; the loop moves its tensors to the device


def load(name: str) -> ModuleType:
    """The recipe package `name`, or an error that names the nearest right one."""
    if name not in RECIPES:
        raise Stop(f"unknown recipe {name!r}: {nearest(name, RECIPES)}", "python step1_setup.py --list")
    return importlib.import_module(f"lib.recipes.{name}")


def main_measure(recipe: ModuleType, cfg: Any, stage: "Stage") -> tuple[str, "Metric"]:
    """The metric that chooses the best checkpoint and heads the report."""
    return next(iter(recipe.measures(cfg, stage).items()))


@dataclass(frozen=True)
class Archive:
    """A .7z or .zip of an asset that a person fetches; step 2 unpacks it from the asset's folder or from below the inputs."""

    name: str
    brings: tuple[str, ...]  # globs; each finds something once the archive is unpacked
    size_bytes: int = 0  # 0 = not known
    within: str = ""  # an archive of the same page that holds this one's files too
    required: bool = True  # False: the recipe has another way, and step 2 only says that it is not here


@dataclass(frozen=True)
class Asset:
    """Something that step 2 brings, finds, or asks a person for.

    kind "hub": a Hugging Face repository (`source` = id, `revision` = commit, or a branch that step 2 resolves once for a run;
        `files` = what to fetch, nothing else)
    kind "folder": the user's own data or weights at the path `source`, used in place
    kind "licensed": a person must accept a licence and place `files` in data/<recipe>/<name>/
    kind "shipped": files of this repository at the path `source`, relative to the repository's root
    kind "made": stand-in data that `stand_in(folder)` writes into an empty folder; it is deterministic
    """

    name: str
    kind: str
    source: str = ""
    revision: str = ""
    files: dict[str, str] = field(default_factory=dict)  # relative path or glob -> sha256, "" where it is not known
    licence: str = ""
    how_to_get: str = ""  # one or two sentences for a person: page, size, what to click
    stand_in: Callable[[Path], None] | None = None
    made_from: str = ""  # kind "made": the parameters of the stand-in as text; another text makes it anew
    required: bool = True
    archives: tuple[Archive, ...] = ()  # kind "licensed": what brings the files


@dataclass
class Record:
    """One row of manifest.csv: a unit of data that the split keeps on one side (an image, a recording, a frame)."""

    sample_id: str
    group: str  # scene, subject, session, log: never on both sides of the split
    source: str  # "asset:<name>/<relative path>"
    sha256: str
    status: str = "ok"  # or "skipped"
    reason: str = ""  # why it was skipped
    split: str = ""  # train | val, set by lib.split
    look: str = ""  # perceptual hash as hex (lib.split.look), compared across the split; "" = not an image
    columns: dict[str, Any] = field(default_factory=dict)  # the recipe's own columns


@dataclass(frozen=True)
class Split:
    """A recipe's wish: which groups are held out. `dropped` are sample ids that belong to neither side, with the reason."""

    by: str  # what a group is: "scene", "subject", "recording"
    val_groups: tuple[str, ...]
    dropped: dict[str, str] = field(default_factory=dict)


@dataclass
class Manifest:
    """The prepared data of a run: usable records and the folder that holds their arrays."""

    records: list[Record]
    arrays: Path
    groundwork: Path | None = None  # what the recipe's `groundwork` made for the stage

    def side(self, split: str) -> list[Record]:
        return [record for record in self.records if record.split == split and record.status == "ok"]


@dataclass(frozen=True)
class Plan:
    """What a run costs, from closed forms (no torch). `memory_bytes` are the parts of the estimated peak on the device."""

    parameters: int
    trainable: int
    memory_bytes: dict[str, int]
    needs: tuple[str, ...] = ()  # sentences: data, licences, smallest card


@dataclass(frozen=True)
class Stage:
    """A leg of the training. `init_from` is "base" or the name of an earlier stage, whose trained tensors are loaded.

    `after` names an earlier stage that must be finished although its tensors are not trained on: `groundwork` reads it.
    """

    name: str
    steps: int  # optimiser steps
    init_from: str = "base"
    after: str = ""
    evaluate_epochs: float | None = None  # None: train.evaluate_epochs, which suits stages of one kind


@dataclass(frozen=True)
class Sampler:
    """Samples as a function of (index, key): `draw(index, key)`; `key.generator()` seeds the augmentation (lib.order.Key)."""

    length: int  # samples in an epoch (train) or in all (select, val)
    draw: Callable[[int, Any], Sample]


@dataclass(frozen=True)
class LoraSpec:
    """Adapters on one module: `targets` are regexes that match whole names of its submodules, each must match something."""

    targets: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float = 0.0
    peft: dict[str, Any] = field(default_factory=dict)  # further fields of peft.LoraConfig
    expected: int | None = None  # trainable numbers by the recipe's table; None = not in the table


@dataclass(frozen=True)
class Prefix:
    """The frozen front of a network, whose output for one unit (an image, a sample) is computed once and kept.

    `units(sample)` names the units of a sample; `compute(sample, unit)` returns the tensor of one of them, on the device,
    without a graph. The loop puts the stack of a sample's units into sample["prefix"] before `collate`.
    """

    name: str
    units: Callable[[Sample], list[str]]
    compute: Callable[[Sample, int], Any]
    frozen: str  # regex over "<module>.<tensor>": what `compute` runs through; the loop asserts that none is trainable
    refused: str = ""  # why the output may not be kept, e.g. augmentation changes its input; "" = it may


@dataclass
class Parts:
    """The networks of a stage, strictly loaded, frozen and without adapters (`lib.adapters.attach` adds them)."""

    modules: dict[str, Any]  # name -> torch.nn.Module
    lora: dict[str, LoraSpec] = field(default_factory=dict)  # module name -> adapters
    full: tuple[str, ...] = ()  # regexes over "<module>.<tensor>": trained fully
    prefix: Prefix | None = None
    base: str = ""  # fingerprint of the loaded base weights (lib.weights.Loaded)
    source: Path | None = None  # the file they came from: a merged export carries through what was not built
    buffers: tuple[str, ...] = ()  # regexes over buffers that training moves (running statistics) and a checkpoint must hold


@dataclass(frozen=True)
class Group:
    """Tensors that one optimiser steps together: regex over "<module>.<tensor>", as `lib.adapters.trainable` names them."""

    name: str
    tensors: str
    lr: float
    weight_decay: float = 0.0
    optimiser: str = "adamw"  # or "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None  # L2 norm over the group


@dataclass(frozen=True)
class Objective:
    """A named loss that updates its groups every `every_steps` from `from_step`; two of them are a GAN.

    loss(parts, batch, step) -> (scalar, {name: number}); the scalar is the mean over the samples of the micro-batch.
    """

    name: str
    loss: Callable[[Parts, Batch, int], tuple[Any, dict[str, Any]]]
    groups: tuple[Group, ...]
    every_steps: int = 1
    from_step: int = 0


@dataclass
class Row:
    """The score of one held-out sample. `arrays` are for figures only and are kept for the first few samples.

    `texts` are kept for all of them: what `figures` writes one file of (the detections of a submission). Text, because six
    thousand samples' lines as Python numbers would take a gigabyte.
    """

    sample_id: str
    group: str
    numbers: dict[str, float]
    arrays: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """How a number is read: its unit and which direction is better."""

    unit: str = ""
    lower_is_better: bool = True


Rows = Iterable[Row]
