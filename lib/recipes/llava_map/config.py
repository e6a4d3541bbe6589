"""Settings of the map recipe: sections, presets, and what the demo changes."""

from dataclasses import dataclass, field

from lib.core import config
from lib.core.config import at_least, one_of
from lib.core.errors import Stop
from lib.recipes.llava_map.sizes import ENCODERS, QFORMERS


@dataclass
class ModelConfig:
    encoder: str = "resnet50"
    qformer: str = "blip2"  # or "scratch": never a silent fall-back
    llm: str = "lmsys/vicuna-7b-v1.5"  # or another Llama-family id or folder, or "none"
    llm_revision: str = ""  # of another id: 40 hex digits
    llm_bits: int = 16  # 4: bitsandbytes' NF4, where it is installed
    tokens_per_view: int = 128  # scene tokens of each of the six cameras
    prompt: str = "Six camera views around a car. Find the lane dividers, pedestrian crossings and road boundaries."
    instances: int = 50
    points: int = 20
    decoder_width: int = 256
    decoder_layers: int = 6
    decoder_heads: int = 4
    scene_interaction: bool = False  # a look past the language model; it can learn the task alone

    def __post_init__(self) -> None:
        one_of("model.encoder", self.encoder, tuple(ENCODERS))
        one_of("model.qformer", self.qformer, tuple(QFORMERS))
        for name in ("tokens_per_view", "instances", "decoder_width", "decoder_layers", "decoder_heads"):
            at_least(f"model.{name}", getattr(self, name), 1)
        at_least("model.points", self.points, 2)
        if self.llm_bits not in (4, 16):
            raise Stop(f"model.llm_bits={self.llm_bits} is unknown: allowed: 4, 16")
        if self.decoder_width % self.decoder_heads or self.decoder_width % 8:
            heads = f"model.decoder_heads={self.decoder_heads}"
            raise Stop(f"model.decoder_width={self.decoder_width} is not a multiple of 8 and of {heads}")
        if self.llm == "none" and not self.scene_interaction:
            raise Stop("model.llm=none leaves the map queries blind: set model.scene_interaction=true")


@dataclass
class DataConfig:
    # nuScenes folder with maps/, samples/ and v1.0-…; empty: the stand-in with --demo, else data/llava_map/nuscenes
    root: str = ""
    version: str = "v1.0-trainval"  # or v1.0-mini
    split: str = "official"  # by scene name; or "geographic": the eastern end of each location is held out
    geographic_share: float = 0.15  # of each location's scenes
    geographic_gap_m: float = 60.0  # training scenes that come nearer to a held-out frame are dropped
    width_px: int = 800
    height_px: int = 448
    half_width_m: float = 15.0  # region of interest: x to the right of the lidar
    half_length_m: float = 30.0  # y ahead of it
    flip: bool = True  # left-right, with cameras and lines, in half of the samples
    # strength of brightness and contrast, each camera its own; MapTR: 0.5; 0 keeps image tokens cacheable
    colour_jitter: float = 0.0
    stand_in: bool = False
    stand_in_scenes: int = 180
    stand_in_val_scenes: int = 32
    stand_in_frames: int = 3  # few: the frames of a scene are much alike, and it is other roads that teach
    overlays: int = 4  # frames drawn with their ground truth in step 3

    def __post_init__(self) -> None:
        one_of("data.split", self.split, ("official", "geographic"))
        one_of("data.version", self.version, ("v1.0-mini", "v1.0-trainval"))
        for name in ("width_px", "height_px", "stand_in_scenes", "stand_in_val_scenes", "stand_in_frames"):
            at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("colour_jitter", "geographic_gap_m", "overlays"):
            at_least(f"data.{name}", getattr(self, name), 0)
        for name in ("half_width_m", "half_length_m"):
            at_least(f"data.{name}", getattr(self, name), 1)
        if not 0 < self.geographic_share < 1:
            raise Stop(f"data.geographic_share={self.geographic_share} is not between 0 and 1")

    @property
    def half_extent_m(self) -> tuple[float, float]:
        return self.half_width_m, self.half_length_m


@dataclass
class LossConfig:
    """MapTR's weights of sums over points: gradient norms of 14 to 260 are normal, and train.clip belongs to them."""

    cls: float = 2.0
    pts: float = 5.0
    dir: float = 0.005
    orders: str = "v4"  # of closed lines; "v2" is what MapTR's released configurations use

    def __post_init__(self) -> None:
        one_of("loss.orders", self.orders, ("v4", "v2"))
        for name in ("cls", "pts", "dir"):
            at_least(f"loss.{name}", getattr(self, name), 0)


@dataclass
class LoraConfig(config.LoraConfig):
    """Adapters on the language model, in stage 3 only."""

    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


@dataclass
class TrainConfig(config.TrainConfig):
    """`lr` is for everything new (queries, decoder, bridge).

    The Q-Former has a share of it, the language model a rate of its own.
    """

    stages: list[str] = field(default_factory=lambda: ["stage2"])
    lr_share_qformer: float = 0.1  # of train.lr
    lr_llm: float = 1e-4  # of the adapters, or of the whole language model, in stage 3
    stage3: str = "lora"  # or "full": FSDP or DeepSpeed through `accelerate launch`
    stage3_epochs: int = 3
    clip: float = 35.0  # MapTR's; its losses are sums, and norms of 14 to 260 are normal

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lr_share_qformer", "lr_llm"):
            at_least(f"train.{name}", getattr(self, name), 0)
        at_least("train.stage3_epochs", self.stage3_epochs, 1)
        one_of("train.stage3", self.stage3, ("lora", "full"))
        if self.stages not in (["stage2"], ["stage3"], ["stage2", "stage3"]):
            raise Stop(f"train.stages={self.stages} is impossible: allowed: [stage2], [stage3], [stage2,stage3]")


@dataclass
class EvalConfig(config.EvalConfig):
    detections: int = 50  # best (query, class) pairs kept of a frame, without a threshold
    guide_threshold: float = 0.3  # the second column: the guide's score threshold, one class a query


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cache: config.CacheConfig = field(default_factory=config.CacheConfig)
    session: config.SessionConfig = field(default_factory=config.SessionConfig)

    def __post_init__(self) -> None:
        if self.model.llm == "none" and "stage3" in self.train.stages:
            raise Stop("model.llm=none has nothing to adapt in stage 3: leave stage3 out of train.stages")


# The guide: queries and decoder 1e-4, Q-Former 1e-5, 12 epochs of trainval, 16 frames a step, 500 of 21 098 steps of
# warm-up. Its clip of 0.1 belonged to a loss 20 times smaller; with MapTR's sums it is 35.
GUIDE = {
    "train.lr": 1e-4,
    "train.lr_share_qformer": 0.1,
    "train.weight_decay": 0.01,
    "train.epochs": 12,
    "train.global_batch": 16,
    "train.warmup_ratio": 0.024,
}
STAGE3 = GUIDE | {
    "train.stages": ["stage2", "stage3"],
    "train.stage3_epochs": 3,
    "lora.rank": 32,
    "lora.alpha": 64.0,
    "lora.dropout": 0.05,
}
PRESETS = {
    "stage2": GUIDE,
    "stage2_scratch_lr": GUIDE | {"train.lr": 4e-4, "train.lr_share_qformer": 0.25, "train.epochs": 24},
    "stage3_lora": STAGE3 | {"train.stage3": "lora", "train.lr_llm": 1e-4},
    "stage3_full": STAGE3 | {"train.stage3": "full", "train.lr_llm": 1e-6},
    "no_llm": GUIDE | {"model.llm": "none", "model.scene_interaction": True},
}

# A network of 2 million parameters with every part of the large one, on procedural roads; frames of the last location
# are held out.
DEMO = {
    "model.encoder": "demo", "model.qformer": "demo", "model.llm": "demo", "model.tokens_per_view": 16,
    "model.prompt": "Map the road.",
    "model.instances": 20, "model.points": 12, "model.decoder_width": 96, "model.decoder_layers": 3,
    "data.stand_in": True, "data.width_px": 200, "data.height_px": 112,
    "train.epochs": 6, "train.lr": 2e-3, "train.micro_batch": 4, "train.global_batch": 4,
}  # fmt: skip

# PIPELINE_SCALE=tiny: all five steps in 45 seconds.
TINY = {
    "data.stand_in_scenes": 6,
    "data.stand_in_val_scenes": 2,
    "data.stand_in_frames": 2,
    "data.overlays": 1,
    "train.epochs": 1,
}

EXPECTED = {
    "stage2": "demo: mAP about 0.35 on unseen roads, where a straight road scores 0.10 and the pictures of another "
    "scene lead to 0.04; crossings are right to 1.5 m only. nuScenes: nothing published for this network, MapTR's "
    "ResNet-50 reaches 0.50 on the official split and such methods about half of that on a geographic one",
    "stage2_scratch_lr": "faster than stage2: what is new is trained at rates that MapTR's head was trained at",
    "stage3_lora": "not below stage2; whether the language model's adapters add anything is what the comparison with "
    "no_llm says",
    "stage3_full": "81 to 108 GB of optimiser state: several large cards",
    "no_llm": "the ablation: what is left when map queries look at the scene tokens without a language model; demo: "
    "mAP about 0.30",
}
