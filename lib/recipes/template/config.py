"""What can be set: one dataclass per section, with defaults, checks, presets and the demo.

Every field is a setting: `data.root=PICTURES` on the command line is `config.data.root` in the code. A step is stale
when a setting that its code reads has changed, so read settings where they are used, as `config.section.field`.
"""

from dataclasses import dataclass, field

from lib.core.config import CacheConfig, EvalConfig, LoraConfig, SessionConfig, TrainConfig, at_least
from lib.core.errors import Stop


@dataclass
class ModelConfig:
    """CHANGE: the sizes of your network."""

    stand_in: bool = False  # the base that stand_in.py writes, instead of a published one
    folder: str = ""  # with base.safetensors; "" = where step 2 asks you to put it
    window_px: int = 5  # side of the square around a pixel that its clean value is made from

    def __post_init__(self) -> None:
        at_least("model.window_px", self.window_px, 3)
        if self.window_px % 2 == 0:
            raise Stop(f"model.window_px={self.window_px} is even: a square around a pixel has an odd side")


@dataclass
class DataConfig:
    """CHANGE: what your data needs to be told."""

    root: str = ""  # your pictures; "" = where step 2 asks you to put them
    side_px: int = 16  # pictures of another size are skipped
    val_share: float = 0.35  # of the pictures: whole cameras are held out until they make so much
    augment: bool = True  # mirror training pictures left to right
    stand_in: bool = False  # pictures that stand_in.py draws, instead of data.root
    stand_in_cameras: int = 16  # that drew the stand-in pictures; a group each
    stand_in_pictures: int = 16  # of each camera

    def __post_init__(self) -> None:
        at_least("data.side_px", self.side_px, 1)
        at_least("data.stand_in_cameras", self.stand_in_cameras, 2)
        at_least("data.stand_in_pictures", self.stand_in_pictures, 1)
        if not 0 < self.val_share < 1:
            raise Stop(f"data.val_share={self.val_share} is not between 0 and 1")


@dataclass
class TemplateTrainConfig(TrainConfig):
    """The loop's settings with other defaults. A field of your own may be added here too."""

    epochs: int = 8
    lr: float = 1e-2
    global_batch: int = 8
    micro_batch: int = 8
    evaluate_epochs: float = 4.0


@dataclass
class Config:
    """train, eval, cache and session are read by the shared rooms; the other sections are yours alone."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TemplateTrainConfig = field(default_factory=TemplateTrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    session: SessionConfig = field(default_factory=SessionConfig)


# CHANGE: named sets of settings; the first one is the default.
PRESETS = {
    "rank4": {"lora.rank": 4, "lora.alpha": 8.0, "lora.dropout": 0.0},
    "rank1": {"lora.rank": 1, "lora.alpha": 2.0, "lora.dropout": 0.0},
}
DEMO = {"model.stand_in": True, "data.stand_in": True}  # over a preset with --demo: seconds on a CPU
TINY = {"data.stand_in_cameras": 6, "data.stand_in_pictures": 4, "train.epochs": 20}  # over DEMO, for tests
EXPECTED = {  # CHANGE: what a good run shows, measured, one sentence a preset
    "rank4": "mae of held-out cameras at least 20 % below the untouched base's in the demo",
    "rank1": "at least 15 % in the demo, with a quarter of the trained parameters",
}
