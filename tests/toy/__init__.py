"""A recipe of a few parameters with every function of the contract: the loop's promises are tested in milliseconds.

The base is y = W2 tanh(W1 x); the data follow the same formula with another W1, one outer product away, which adapters
of rank 2 can learn. It lies outside lib/recipes, as a user's own recipe does: `--recipe tests/toy`.
"""

from dataclasses import dataclass, field

from lib.core.config import CacheConfig, EvalConfig, LoraConfig, SessionConfig
from lib.core.config import TrainConfig as CommonTrainConfig

WIDTH = 8


@dataclass
class ModelConfig:
    width: int = WIDTH


@dataclass
class DataConfig:
    noise: float = 0.01
    scale: float = 1.0  # of the arrays: step 3 alone reads it, and no word of the manifest depends on it
    augment: bool = False


@dataclass
class TrainConfig(CommonTrainConfig):
    """`fault` is what a test injects, at the optimiser step after the dash: nan-7 (the loss), inf-7 (a module's
    output), memory-5 (until a micro-batch holds one sample), full-5 (whatever it holds), slow (20 ms a step).
    """

    fault: str = ""
    stages: int = 1
    stand: bool = False  # the last stage stands on a file made from the stage before it
    plan: str = "long"  # auto: what the base decides: short (half the steps) if it is good, else long
    second_loss: bool = False
    running: bool = False  # a second module keeps a running mean of the inputs


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    session: SessionConfig = field(default_factory=SessionConfig)


PRESETS = {
    "small": {
        "lora.rank": 2,
        "lora.alpha": 4.0,
        "train.epochs": 4,
        "train.lr": 3e-2,
        "cache.policy": "tokens",
        "train.global_batch": 4,
        "train.micro_batch": 2,
        "eval.resamples": 50,
    }
}
DEMO = {"train.epochs": 2}
TINY = {"train.epochs": 1}
EXPECTED = {"small": "an error below the base's"}
PRECISIONS = ("bf16", "fp16", "fp32")
FUNCTIONS = {
    "sources": "assets",
    "data": "prepare split summarise_data",
    "recipe": "plan stages stage_inputs decide build sampler collate objectives measures score_batch summarise "
    "describe predict adopt figures export",
}
