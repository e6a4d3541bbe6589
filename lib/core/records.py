"""The records that a recipe and the shared rooms exchange. No torch: `--plan` must answer in half a second."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lib.core.errors import Stop

Sample = dict[str, Any]  # one item of a batch: NumPy arrays or tensors by name, and "sample_id"
Batch = dict[str, Any]  # what `collate` makes of samples; the loop moves its tensors to the device


@dataclass(frozen=True)
class Archive:
    """A .7z or .zip of an asset that the user fetches.

    Step 2 unpacks it from the asset's folder or from below the inputs.
    """

    name: str
    brings: tuple[str, ...]  # globs; each finds something once the archive is unpacked
    size_bytes: int = 0  # 0 = not known
    within: str = ""  # an archive of the same page that holds this one's files too
    required: bool = True  # False: the recipe has another way, and step 2 only says that it is not here


@dataclass(frozen=True)
class Asset:
    """Something that step 2 brings, finds, or asks the user for.

    kind "hub": a Hugging Face repository (`source` = id, `revision` = commit, or a branch that step 2 resolves once
        for a run; `files` = what to fetch, nothing else)
    kind "folder": the user's own data or weights at the path `source`, used in place
    kind "licensed": the user must accept a licence and place `files` in data/<recipe>/<name>/
    kind "shipped": files of this repository at the path `source`, relative to the repository's root
    kind "made": stand-in data that `stand_in(folder)` writes into an empty folder; it is deterministic
    """

    name: str
    kind: str
    source: str = ""
    revision: str = ""
    files: dict[str, str] = field(default_factory=dict)  # relative path or glob -> sha256, "" where it is not known
    licence: str = ""
    how_to_get: str = ""  # one or two sentences for the user: page, size, what to click
    stand_in: Callable[[Path], None] | None = None
    made_from: str = ""  # kind "made": its parameters as text; from another text, or by other code, it is made again
    required: bool = True
    archives: tuple[Archive, ...] = ()  # kind "licensed": what brings the files
    size_bytes: int = 0  # of what is fetched; 0 = not known


@dataclass
class Record:
    """One row of manifest.csv: a unit of data that the split keeps on one side (an image, a recording, a frame)."""

    sample_id: str
    group: str  # scene, subject, session, log: never on both sides of the split
    source: str  # "asset:<name>/<relative path>"
    sha256: str
    status: str = "ok"  # or "skipped"
    reason: str = ""  # why it was skipped
    split: str = ""  # train | select | test, set by lib.data.split
    perceptual_hash: str = ""  # hex (lib.data.split.perceptual_hash), compared across the split; "" = not an image
    columns: dict[str, Any] = field(default_factory=dict)  # the recipe's own columns


@dataclass(frozen=True)
class Split:
    """A recipe's wish: which groups are held out. `dropped`: ids of samples on neither side, with the reason."""

    by: str  # what a group is: "scene", "subject", "recording"
    val_groups: tuple[str, ...]  # held out for the test
    dropped: dict[str, str] = field(default_factory=dict)
    select_groups: tuple[str, ...] = ()  # choose the checkpoint; (): lib.data.split takes some of the training groups


@dataclass
class Manifest:
    """The prepared data of a run: usable records and the folder that holds their arrays."""

    records: list[Record]
    arrays: Path
    stage_inputs: Path | None = None  # what the recipe's `stage_inputs` made for the stage

    def side(self, split: str) -> list[Record]:
        return [record for record in self.records if record.split == split and record.status == "ok"]


class Block(NamedTuple):
    """One of the repeated parts of a network that cards can divide among them."""

    whole: int  # bytes of its own weights, all of them, as it computes
    frozen: int  # bytes of those that stay as they are, as they are held
    trained: int = 0  # numbers of those that are trained


@dataclass(frozen=True)
class Footprint:
    """What one stage keeps on its device, from closed forms; lib.core.footprint makes bytes per card of it.

    Weights that are trained are counted in numbers, everything frozen in bytes as it is held. The default is a network
    without blocks.
    """

    frozen_rest: int  # bytes of the frozen weights outside of the blocks: every card holds them
    trained: int  # numbers trained outside of the blocks' own weights (adapters, heads): every card holds them
    activations: dict[str, int]  # bytes that one micro-batch keeps for the backward pass, by part
    blocks: tuple[Block, ...] = ()  # those of `Parts.shard`, in the order of a forward pass
    copies: int = 0  # bytes of the half-precision copies that autocast keeps of whole trained weights
    averaged: bool = False  # a moving average of the trained numbers is kept too (train.ema)

    @property
    def frozen_blocks(self) -> int:
        return sum(block.frozen for block in self.blocks)

    @property
    def trained_in_blocks(self) -> int:
        return sum(block.trained for block in self.blocks)


@dataclass(frozen=True)
class Pace:
    """How fast such a training ran somewhere, measured or published: what `--plan` estimates hours from."""

    samples_per_second: float
    card: str  # one of them
    source: str  # who measured it
    epochs: float  # of all stages
    samples: int = 0  # of an epoch; 0 = the data decide


@dataclass(frozen=True)
class Plan:
    """What a run costs, from closed forms (no torch); the footprint is that of the stage that needs most."""

    parameters: int
    trainable: int
    footprint: Footprint | None  # None: not known yet, and the first of `needs` says why
    needs: tuple[str, ...] = ()  # sentences beside those that the assets say
    # settings of the recipe that need less memory, the least harm first; data.* is tried before train.micro_batch
    lighter: dict[str, Any] = field(default_factory=dict)
    pace: Pace | None = None
    blocks_bytes: int = 0  # of what the deeper frozen front makes of an epoch of samples, in fp32; 0 = there is none


@dataclass(frozen=True)
class Stage:
    """A leg of the training. `init_from` is "base" or the name of an earlier stage, whose trained tensors are loaded.

    `after` names an earlier stage that must be finished although this one does not train its tensors: `stage_inputs`
    reads it.
    """

    name: str
    steps: int  # optimiser steps
    init_from: str = "base"
    after: str = ""
    kind: str = ""  # where a recipe's stages differ in kind: which of its tables serves (lib.recipes.Loaded)
    evaluate_epochs: float | None = None  # None: train.evaluate_epochs, which suits stages of one kind


@dataclass(frozen=True)
class Sampler:
    """Samples as a function of (index, key), the key being a lib.core.order.Key.

    `draw(index, key)` takes the random numbers of its augmentation from `key.generator()`. Several threads call it at
    once (train.workers), so it changes nothing that lies outside of it; torch's shared generator would be noticed.
    """

    length: int  # samples in an epoch (train) or in all (select, val)
    draw: Callable[[int, Any], Sample]
    pictured: tuple[int, ...] | None = None  # of "test": whose arrays are kept for `figures`; None: the first ones


@dataclass(frozen=True)
class LoraSpec:
    """Adapters on one module. `targets`: regexes over whole names of its submodules; each must match something."""

    targets: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float = 0.0
    peft: dict[str, Any] = field(default_factory=dict)  # further fields of peft.LoraConfig
    expected: int | None = None  # trainable parameters by the recipe's table; None = not in the table
    conv_dropout: str = "pixel"  # of the input of a convolution are dropped pixels, whole channels ("channel"), or none


@dataclass(frozen=True)
class FrozenFeatures:
    """The frozen front of a network, whose output for one unit (an image, a sample) is computed once and kept.

    `units(sample)` names the units of a sample; `compute(sample, unit)` returns the tensor of one of them, on the
    device, without a graph. The loop puts the stack of a sample's units into sample["frozen_features"] before
    `collate`. What `compute` gives in fp32 comes in the precision of the training (bf16 or fp16 under autocast), so a
    network that goes on from it in fp32 converts it.
    """

    name: str
    units: Callable[[Sample], list[str]]
    compute: Callable[[Sample, int], Any]
    frozen: str  # regex over "<module>.<tensor>": what `compute` runs through; the loop asserts that none is trainable
    refused: str = ""  # why the output may not be kept, e.g. augmentation changes its input; "" = it may
    # With cache.policy=auto: another front that goes further, whose units belong to whole samples. It is worth keeping
    # where samples come again, so the recipe has a setting data.distinct_epochs, and cache.policy=blocks builds it.
    deeper: "FrozenFeatures | None" = None


@dataclass
class Parts:
    """The networks of a stage: strictly loaded, frozen, without adapters (`lib.network.adapters.attach` adds them)."""

    modules: dict[str, Any]  # name -> torch.nn.Module
    lora: dict[str, LoraSpec] = field(default_factory=dict)  # module name -> adapters
    full: tuple[str, ...] = ()  # regexes over "<module>.<tensor>": trained fully
    frozen_features: FrozenFeatures | None = None
    base: str = ""  # fingerprint of the loaded base weights (lib.network.weights.Loaded)
    source: Path | None = None  # the file they came from: a merged export carries through what was not built
    # regexes over buffers that training moves (running statistics) and a checkpoint must hold
    buffers: tuple[str, ...] = ()
    # module name -> regexes over whole names of its submodules: the blocks of which each process may hold a part
    shard: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Tensors that one optimiser steps together: a regex over the names of `lib.network.adapters.trainable`."""

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

    `texts` are kept for all of them: what `figures` writes one file of (the detections of a submission). Text, because
    six thousand samples' lines as Python numbers would take a gigabyte.
    """

    sample_id: str
    group: str
    numbers: dict[str, float]
    arrays: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """How a number is read: its unit, which direction is better, and what people call it."""

    unit: str = ""
    lower_is_better: bool = True
    rival: bool = True  # False: the trivial predictor is not a rival (a copyist of training data), so it may win
    title: str = ""  # what people call it: "δ < 1.25"; every measure has one
    meaning: str = ""  # one line for someone who does not know it; every measure has one
    front: bool = False  # shown before the others are unfolded; the first measure is, and at most seven more


@dataclass(frozen=True)
class Foreign:
    """What another program left, for `adopt`; what takes time is made when it is asked for."""

    file: Path
    out: Path  # the folder for what is made of it
    asset_dirs: Callable[[], dict[str, Path]]  # as for `prepare`
    attached: Callable[[], Parts]  # the last stage's networks with the adapters that the settings name

    def refuse_other_than(self, suffixes: Iterable[str], what: str) -> None:
        """Stop: the file's name ends in none of the suffixes."""
        if self.file.suffix not in suffixes:
            cause = f"{self.file.name} is nothing that this recipe imports: that is {what}"
            raise Stop(cause, f"name a file that ends in {', '.join(suffixes)}")
