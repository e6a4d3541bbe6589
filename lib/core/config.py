"""Typed configuration: defaults < preset < demo < key=value. Errors name the key and the nearest right one."""

import contextlib
import dataclasses
import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lib.core.contract import Recipe
from lib.core.errors import Stop, nearest
from lib.core.names_elsewhere import known_elsewhere
from lib.core.peft_fields import PEFT_FIELDS


def silent(default: Any) -> Any:
    """A setting that no output depends on."""
    return field(default=default, metadata={"silent": True, "free": True})


def free(default: Any) -> Any:
    """A setting that may change in the middle of a training: it moves no sample and no noise."""
    return field(default=default, metadata={"free": True})


def scored(default: Any) -> Any:
    """A setting of the scoring: step 5 reports something else, and a training that scored with another one goes on."""
    return field(default=default, metadata={"scored": True, "free": True})


def measured(default: Any, **marks: bool) -> Any:
    """A setting that says what is measured, or against which truth: of runs that differ in it, scores are not ranked.

    marks: further ones (scored=True, free=True).
    """
    return field(default=default, metadata={"measured": True, **marks})


@dataclass
class TrainConfig:
    """The loop's own settings. A recipe may extend this class."""

    epochs: int = free(20)  # passes over the training samples; a recipe says what a sample is
    lr: float = 1e-4  # learning rate, after the warm-up
    min_lr_ratio: float = 0.01  # of a group's lr: where warm-up starts and the cosine ends
    warmup_ratio: float = 0.1  # of the stage's steps
    weight_decay: float = 0.01  # decoupled, as in AdamW
    global_batch: int = 1  # samples per optimiser step, over all processes
    micro_batch: int = 1  # samples per forward; part of the run record, because dropout noise depends on it
    clip: float = 1.0  # L2 norm per group; 0 = off
    ema: float = 0.0  # decay of the averaged weights, with warm-up; 0 = off
    seed: int = 42  # of the split, the order of the samples, augmentation and dropout
    precision: str = "auto"  # auto | bf16 | fp16 | fp32
    gradient_checkpointing: bool = False  # recompute activations in the backward pass
    compile: bool = free(False)  # torch.compile of the blocks that are trained through; minutes at the start
    shard: str = silent("auto")  # each process holds a part of every block; auto: where one device cannot hold all
    workers: str = silent("auto")  # threads that make batches ahead of the step; 0 = none, auto: the first steps tell
    evaluate_epochs: float = 1.0  # epochs between evaluations
    checkpoint_minutes: float = silent(10.0)  # between two checkpoints
    checkpoint_steps: int = silent(0)  # 0 = by minutes alone
    checkpoint_epochs: float = silent(0.0)  # a checkpoint every so many epochs as well; 0 = none
    keep_checkpoints: int = silent(2)  # so many of the newest; the best ones are kept beside them
    keep_best: int = silent(1)  # so many of the best checkpoints by the select side; 0 = none
    patience_evaluations: int = free(0)  # stop after so many evaluations without a better one; 0 = never
    stop_after_bad_steps: int = free(5)  # non-finite steps in a row
    accept_seen: bool = free(False)  # start from a network that has seen held-out data: the report says so first
    log_seconds: float = silent(10.0)  # between plain progress lines

    def __post_init__(self) -> None:
        for name in ("epochs", "global_batch", "micro_batch", "keep_checkpoints", "stop_after_bad_steps"):
            at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("lr", "clip", "weight_decay", "checkpoint_minutes", "checkpoint_steps", "checkpoint_epochs"):
            at_least(f"train.{name}", getattr(self, name), 0)
        at_least("train.seed", self.seed, 0)
        for name in ("evaluate_epochs", "patience_evaluations", "keep_best", "log_seconds"):
            at_least(f"train.{name}", getattr(self, name), 0)
        for name in ("warmup_ratio", "min_lr_ratio"):
            share(f"train.{name}", getattr(self, name))
        if not 0 <= self.ema < 1:
            raise Stop(f"train.ema={self.ema} is not in [0, 1): an average that decays by 1 never moves")
        one_of("train.precision", self.precision, ("auto", "bf16", "fp16", "fp32"))
        one_of("train.shard", self.shard, ("auto", "off", "on"))
        if self.workers != "auto" and not re.fullmatch(r"\d{1,2}", self.workers):
            raise Stop(f"train.workers={self.workers} is impossible: it is auto, or a number from 0 to 99")
        if self.global_batch % self.micro_batch:
            raise Stop(
                f"train.global_batch={self.global_batch} is not a multiple of train.micro_batch={self.micro_batch}"
            )


@dataclass
class EvalConfig:
    """Step 5's own settings. A recipe may extend this class."""

    resamples: int = scored(1000)  # of the bootstrap
    batch: int = silent(1)  # samples scored at once while a training is evaluated; step 5 scores one by one
    figures: int = scored(4)  # held-out samples drawn in the report
    checkpoint: str = scored("best")  # what step 5 scores: best, last or step-N (its --checkpoint)
    select_share: float = 0.1  # of the training groups: they choose the checkpoint and are not trained on; 0 = the last
    select_samples: int = 16  # of them, at most, in each evaluation during training

    def __post_init__(self) -> None:
        for name in ("resamples", "batch", "select_samples"):
            at_least(f"eval.{name}", getattr(self, name), 1)
        at_least("eval.figures", self.figures, 0)
        share("eval.select_share", self.select_share)
        if not re.fullmatch(r"best|last|step-\d+", self.checkpoint):
            raise Stop(f"eval.checkpoint={self.checkpoint!r} is unknown: allowed: best, last, step-N")


@dataclass
class CacheConfig:
    policy: str = free("auto")  # what is kept of frozen layers: none | tokens | blocks; auto: step 4 measures it
    quota_gb: float = silent(20.0)  # of all frozen features below the root, of all runs

    def __post_init__(self) -> None:
        one_of("cache.policy", self.policy, ("auto", "none", "tokens", "blocks"))
        at_least("cache.quota_gb", self.quota_gb, 0)


@dataclass
class SessionConfig:
    reserve_seconds: float = silent(60.0)  # kept for the last checkpoint before a deadline

    def __post_init__(self) -> None:
        at_least("session.reserve_seconds", self.reserve_seconds, 0)


@dataclass
class LoraConfig:
    """Adapters. A recipe extends this with its targets."""

    rank: int = 16  # of every adapter: more learns more, and needs more data and memory
    alpha: float = 32.0  # an adapter is scaled by alpha / rank
    dropout: float = 0.1  # share of an adapter's inputs that a training step leaves out
    full: list[str] = field(default_factory=list)  # further tensors to train fully: regexes over "<module>.<tensor>"
    peft: dict[str, Any] = field(default_factory=dict)  # PEFT's own LoraConfig fields, passed through

    def __post_init__(self) -> None:
        at_least("lora.rank", self.rank, 1)
        if not 0 < self.alpha < float("inf"):
            raise Stop(f"lora.alpha={self.alpha} is impossible: adapters are scaled by it, so it is above 0")
        for pattern in self.full:
            refuse_bad_pattern("lora.full", pattern)
        if not 0 <= self.dropout < 1:
            raise Stop(f"lora.dropout={self.dropout} is not in [0, 1)")
        for name, value in self.peft.items():
            one_of("lora.peft field", name, tuple(PEFT_FIELDS))
            words, may_be = PEFT_FIELDS[name]
            if not may_be(value):
                raise Stop(f"lora.peft.{name}={value!r} is impossible: it is {words}")


# Settings that had another name once: they are refused, and the new name is said.
RENAMED = {
    "cache.frozen_features": "cache.policy",
    "cache.prefix": "cache.policy",
    "data.made_hands": "data.stand_in_hands",
    "data.made_px": "data.stand_in_px",
    "data.made_subjects": "data.stand_in_subjects",
    "dit.updates": "dit.sampling_steps",
    "train.checkpointing": "train.gradient_checkpointing",
    "train.lr_floor": "train.min_lr_ratio",
    "train.warmup_share": "train.warmup_ratio",
}


# What is more than text in a value: kind, how it is written, what it begins with.
TYPED = (
    ("null", r"null|~", "n~"),
    ("bool", r"true|false|True|False", "tfTF"),
    ("int", r"0|-?[1-9]\d*", "-0123456789"),
    ("float", r"-?(0|[1-9]\d*)\.(0|\d*[1-9])|-?\d+\.\d+e[-+]\d+|-?\.inf|\.nan", "-0123456789."),
)

HEARD: list[dict[str, str]] = []  # of `listening`, the innermost last


@contextlib.contextmanager
def listening() -> Iterator[dict[str, str]]:
    """Within the block every check that runs also says what it allows: key -> words. For --list."""
    HEARD.append({})
    try:
        yield HEARD[-1]
    finally:
        HEARD.pop()


def allowed(key: str, words: str) -> None:
    if HEARD:
        HEARD[-1][key] = words


def share(key: str, value: float) -> None:
    allowed(key, "0 to 1")
    if not 0 <= value <= 1:
        raise Stop(f"{key}={value} is impossible: it must be between 0 and 1")


def at_least(key: str, value: float, low: float) -> None:
    allowed(key, f"at least {low:g}")
    if not low <= value < float("inf"):  # also where it is not a number
        raise Stop(f"{key}={value} is impossible: it must be at least {low}, and finite")


def refuse_bad_pattern(key: str, pattern: str) -> "re.Pattern[str]":
    """The compiled expression. Stop: it is none, or empty."""
    try:
        if pattern.strip():
            return re.compile(pattern)
    except re.error as error:
        raise Stop(f"{key}={pattern!r} is not a valid regular expression: {error}") from error
    raise Stop(f"{key} holds an empty name")


def one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    allowed(key, " | ".join(word or '""' for word in known))
    if value not in known:
        raise Stop(f"{key}={value!r} is unknown: {nearest(value, known)}")


def compose(recipe: Recipe, preset: str, demo: bool, scale: str, asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The configuration object, and what differs from the preset (dotted key -> value)."""
    if preset not in recipe.PRESETS:
        raise Stop(f"unknown preset {preset!r}: {nearest(preset, recipe.PRESETS)}", "python step1_setup.py --list")
    settings = dict(recipe.PRESETS[preset])
    if demo:
        settings |= {**recipe.DEMO, **(recipe.TINY if scale == "tiny" else {})}
    config = from_dotted(recipe.Config, settings | asked)
    before = to_dotted(from_dotted(recipe.Config, dict(recipe.PRESETS[preset])))
    return config, {key: value for key, value in to_dotted(config).items() if value != before[key]}


def parse_override(text: str) -> tuple[str, Any]:
    """'lora.rank=8' -> ('lora.rank', 8); the value is YAML, so lists are [a,b] and null is None.

    Only what is written as a number is written, and true and false, are more than text: a scene called 010, 1.10 or no
    keeps its name, and 010 epochs are ten (YAML's would be eight). On and off stay words, for a switch with a third
    position; a setting that is true or false takes them too.
    """
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": {}})
    for kind, pattern, first in TYPED:
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(rf"({pattern})\Z"), list(first))
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Stop(f"{text!r} is not key=value")
    refuse_interpolation(key, value)
    if value in ("on", "off"):
        return key, value
    try:
        return key, yaml.load(value, loader) if value else ""
    except (yaml.YAMLError, ValueError) as error:
        raise Stop(f"the value of {key!r} cannot be read: {value!r}") from error


def value_text(value: Any) -> str:
    """A value as parse_override reads it after the =; a shell may need it quoted."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def refuse_interpolation(key: str, value: Any) -> None:
    """Stop: OmegaConf would put another value for ${…}, perhaps a secret of the environment, and run.json keep it."""
    if "${" in str(value):
        raise Stop(f"the value of {key!r} holds ${{, and settings are taken as they are", "write the value itself")


def refuse_odd(key: str, value: Any, kind: str) -> None:
    """Stop: a list of lists, or text that is the name of nothing (a NUL, half a character)."""
    parts = value if isinstance(value, list) else [value]
    if kind != "dict" and any(isinstance(part, list | dict) for part in parts):
        raise Stop(f"{key}={value!r} is not {a(kind)}")
    if any(isinstance(part, str) and re.search("[\0\ud800-\udfff]", part) for part in parts):
        raise Stop(f"{key}={value!r} holds what is no text")


def from_dotted(kind: type, settings: dict[str, Any]) -> Any:
    """An instance of the dataclass `kind` with dotted settings applied, typed and self-checked."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = OmegaConf.structured(kind)
    known = leaves(kind)
    for key, value in settings.items():
        refuse_interpolation(key, value)
        parent = next((k for k in known if key == k or (known[k] == "dict" and key.startswith(k + "."))), None)
        if parent is None and key in RENAMED:
            raise Stop(f"the setting {key!r} is called {RENAMED[key]!r} now", "python step1_setup.py --list")
        if parent is None:
            raise Stop(
                f"unknown setting {key!r}: {known_elsewhere(key, known) or nearest_key(key, known)}",
                "python step1_setup.py --list",
            )
        refuse_odd(key, value, known[parent])
        try:
            OmegaConf.update(tree, key, value, force_add=known[parent] == "dict")
        except (OmegaConfBaseException, ValueError) as error:
            raise Stop(f"{key}={value!r} is not {a(known[parent])}") from error
    return OmegaConf.to_object(tree)


def of_record(recipe: Recipe, record: dict[str, Any], further: dict[str, Any]) -> Any:
    """The settings that run.json states, with further ones laid over what the user said."""
    asked = record["overrides"] | further
    return compose(recipe, record["preset"], record["demo"], record["scale"], asked)[0]


def leaves(kind: Any) -> dict[str, str]:
    """Every dotted key of a dataclass type with the name of its type; "dict" is a free mapping."""
    return {key: type_name(inner) for key, _, inner in walk(kind)}


def walk(kind: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, the section's class, the field's type) of every setting of a dataclass type."""
    for f in dataclasses.fields(kind):
        inner = f.default_factory if dataclasses.is_dataclass(f.default_factory) else f.type
        if dataclasses.is_dataclass(inner):
            yield from walk(inner, f"{path}{f.name}.")
        else:
            yield path + f.name, kind, inner


def silent_everywhere() -> set[str]:
    """The silent settings that every recipe has."""
    sections = {"train": TrainConfig(), "eval": EvalConfig(), "cache": CacheConfig(), "session": SessionConfig()}
    return set().union(*(marked(section, "silent", f"{name}.") for name, section in sections.items()))


def marked(config: Any, mark: str, path: str = "") -> set[str]:
    """The dotted keys of the settings with a mark (silent, free, scored, measured); a recipe's own default keeps it."""
    found = set()
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            found |= marked(value, mark, f"{path}{name}.")
        elif any(own[name].metadata.get(mark) for own in fields_by_class(config) if name in own):
            found.add(path + name)
    return found


def fields_by_class(config: Any) -> list[dict[str, dataclasses.Field[Any]]]:
    """The dataclass fields of the configuration's class and of each of its bases, as every one of them states them."""
    return [vars(base).get("__dataclass_fields__", {}) for base in type(config).__mro__]


def type_name(kind: Any) -> str:
    """'int', 'list[str]', 'dict': what an error message calls a field's type."""
    name = kind.__name__ if type(kind) is type else str(kind)
    return "dict" if name.startswith("dict") else name


def nearest_key(key: str, known: dict[str, str]) -> str:
    """Suggest from all keys, but list only the neighbours: the whole table would be a page."""
    section = key.rpartition(".")[0] + "."
    neighbours = [k for k in known if k.startswith(section)] or sorted({k.split(".")[0] for k in known})
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"there are: {', '.join(neighbours)}"


def to_dotted(config: Any, path: str = "") -> dict[str, Any]:
    """The inverse of `from_dotted`, for run.json and fingerprints; a free mapping stays one value."""
    flat: dict[str, Any] = {}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            flat |= to_dotted(value, f"{path}{name}.")
        else:
            flat[path + name] = value
    return flat


def note_reads(config: Any, read: set[str], path: str = "") -> Any:
    """The same configuration, which from now on adds the dotted key of every setting that is looked at to `read`.

    lib.core.code derives what a step reads from its code; what is seen here counts too, so that a setting that is read
    in a way that no reader of code can follow still makes an output stale.
    """
    kind: Any = type(config)

    def look_up(self: Any, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if name in kind.__dataclass_fields__ and not dataclasses.is_dataclass(value):
            read.add(path + name)
        return value

    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            note_reads(value, read, f"{path}{name}.")
    plain = {"__reduce__": lambda self: (object.__new__, (kind,), dict(vars(self)))}  # what another process is given
    config.__class__ = type(kind.__name__, (kind,), {"__getattribute__": look_up} | plain)
    return config


def a(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"
