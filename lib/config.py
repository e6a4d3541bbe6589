"""Typed configuration: defaults < preset < demo < key=value, with errors that name the key and the nearest right one."""
import dataclasses
import difflib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from lib.errors import Stop, nearest


@dataclass
class TrainConfig:
    """The loop's own settings. A recipe may extend this class."""

    epochs: int = 20
    lr: float = 1e-4
    lr_floor: float = 1e-6  # where warm-up starts and the cosine ends
    warmup_share: float = 0.1  # of the stage's steps
    weight_decay: float = 0.01
    global_batch: int = 1  # samples per optimiser step, over all processes
    micro_batch: int = 1  # samples per forward; part of the run record, because dropout noise depends on it
    clip: float = 1.0  # L2 norm per group; 0 = off
    ema: float = 0.0  # decay of the averaged weights, with warm-up; 0 = off
    seed: int = 42
    precision: str = "auto"  # auto | bf16 | fp16 | fp32
    checkpointing: bool = False  # recompute activations in the backward pass
    workers: int = 0  # loader processes
    evaluate_epochs: float = 1.0  # epochs between evaluations
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 0  # 0 = by minutes alone
    keep_checkpoints: int = 2
    keep_best: bool = True
    patience_evaluations: int = 0  # stop after so many evaluations without a better one; 0 = never
    stop_after_bad_steps: int = 5  # non-finite steps in a row
    log_seconds: float = 10.0  # between plain progress lines

    def __post_init__(self):
        for name in ("epochs", "global_batch", "micro_batch", "keep_checkpoints", "stop_after_bad_steps"):
            at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("lr", "clip", "weight_decay", "ema", "checkpoint_minutes", "evaluate_epochs"):
            at_least(f"train.{name}", getattr(self, name), 0)
        one_of("train.precision", self.precision, ("auto", "bf16", "fp16", "fp32"))
        if self.global_batch % self.micro_batch:
            raise Stop(f"train.global_batch={self.global_batch} is not a multiple of train.micro_batch={self.micro_batch}")


@dataclass
class EvalConfig:
    """Step 5's own settings. A recipe may extend this class."""

    resamples: int = 1000  # of the bootstrap
    batch: int = 1
    figures: int = 4  # held-out samples drawn in the report
    checkpoint: str = "best"  # what step 5 scores: best, last or step-N (its --checkpoint)
    select_samples: int = 16  # held-out samples that choose the best checkpoint during training


@dataclass
class CacheConfig:
    prefix: bool = True  # keep what frozen layers compute
    quota_gb: float = 20.0


@dataclass
class SessionConfig:
    reserve_seconds: float = 60.0  # kept for the last checkpoint before a deadline


@dataclass
class LoraConfig:
    """Adapters. A recipe extends this with its targets."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.1
    full: list[str] = field(default_factory=list)  # further tensors to train fully: regexes over "<module>.<tensor>"
    peft: dict[str, Any] = field(default_factory=dict)  # PEFT's own LoraConfig fields, passed through

    def __post_init__(self):
        at_least("lora.rank", self.rank, 1)
        at_least("lora.alpha", self.alpha, 0)
        if not 0 <= self.dropout < 1:
            raise Stop(f"lora.dropout={self.dropout} is not in [0, 1)")
        for name in self.peft:
            one_of("lora.peft field", name, PEFT_FIELDS)


# The fields of peft.LoraConfig that make sense here; a test compares them with the installed PEFT.
PEFT_FIELDS = (
    "use_rslora", "use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern", "bias", "lora_bias",
    "layers_to_transform", "layers_pattern", "exclude_modules", "use_qalora", "qalora_group_size",
)  # fmt: skip


def at_least(key: str, value: float, low: float) -> None:
    if value < low:
        raise Stop(f"{key}={value} is impossible: it must be at least {low}")


def one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise Stop(f"{key}={value!r} is unknown: {nearest(value, known)}")


def compose(recipe: ModuleType, preset: str, demo: bool, scale: str, asked: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The configuration object, and what differs from the preset (dotted key -> value)."""
    if preset not in recipe.PRESETS:
        raise Stop(f"unknown preset {preset!r}: {nearest(preset, recipe.PRESETS)}", "python step1_setup.py --list")
    settings = dict(recipe.PRESETS[preset])
    if demo:
        settings |= recipe.DEMO | (recipe.TINY if scale == "tiny" else {})
    config = from_dotted(recipe.Config, settings | asked)
    before = to_dotted(from_dotted(recipe.Config, dict(recipe.PRESETS[preset])))
    return config, {key: value for key, value in to_dotted(config).items() if value != before[key]}


def parse_override(text: str) -> tuple[str, Any]:
    """'lora.rank=8' -> ('lora.rank', 8); the value is YAML, so lists are [a,b] and null is None."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Stop(f"{text!r} is not key=value")
    try:
        return key, yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise Stop(f"the value of {key!r} cannot be read: {value!r}") from error


def from_dotted(kind: type, settings: dict[str, Any]) -> Any:
    """An instance of the dataclass `kind` with dotted settings applied, typed and self-checked."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = OmegaConf.structured(kind)
    known = leaves(kind)
    for key, value in settings.items():
        parent = next((k for k in known if key == k or (known[k] == "dict" and key.startswith(k + "."))), None)
        if parent is None:
            raise Stop(f"unknown setting {key!r}: {nearest_key(key, known)}", "python step1_setup.py --list")
        try:
            OmegaConf.update(tree, key, value, force_add=known[parent] == "dict")
        except (OmegaConfBaseException, ValueError) as error:
            raise Stop(f"{key}={value!r} is not {a(known[parent])}") from error
    return OmegaConf.to_object(tree)


def leaves(kind: type, path: str = "") -> dict[str, str]:
    """Every dotted key of a dataclass type with the name of its type; "dict" is a free mapping."""
    found = {}
    for f in dataclasses.fields(kind):
        inner = f.default_factory if dataclasses.is_dataclass(f.default_factory) else f.type
        if dataclasses.is_dataclass(inner):
            found |= leaves(inner, f"{path}{f.name}.")
        else:
            found[path + f.name] = type_name(inner)
    return found


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
    flat = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            flat |= to_dotted(value, f"{path}{f.name}.")
        else:
            flat[path + f.name] = value
    return flat


def a(word: str) -> str:
    return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"
