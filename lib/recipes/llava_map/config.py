"""Settings of the map recipe: sections, presets, and what the demo changes."""

import re
from dataclasses import dataclass, field

from lib.core import config
from lib.core.config import allowed, at_least, measured, one_of, refuse_bad_pattern, scored
from lib.core.errors import Stop
from lib.recipes.llava_map.classes import CENTRELINE, CLASSES
from lib.recipes.llava_map.sizes import ENCODERS, QFORMERS
from lib.recipes.llava_map.splits import OFFICIAL

# region -> half extents and the thresholds of the papers: MapTR's, StreamMapNet's
REGIONS = {"60x30": ((15.0, 30.0), (0.5, 1.0, 1.5)), "100x50": ((25.0, 50.0), (1.0, 1.5, 2.0))}


@dataclass
class ModelConfig:
    encoder: str = "resnet50"  # of the six pictures
    qformer: str = "blip2"  # or "scratch": never a silent fall-back
    # or another id of the hub, or a folder: any causal family that transformers builds and whose mask holds; or "none"
    llm: str = "lmsys/vicuna-7b-v1.5"
    llm_revision: str = ""  # of another id: 40 hex digits
    llm_bits: int = 16  # 4: bitsandbytes' NF4, where it is installed
    tokens_per_view: int = 128  # scene tokens of each of the six cameras
    # What the language model reads before the scene tokens.
    prompt: str = "Six camera views around a car. Find the lane dividers, pedestrian crossings and road boundaries."
    instances: int = 50  # map queries, and so lines at most
    points: int = 20  # of every predicted line
    decoder_width: int = 256  # channels of the map decoder
    decoder_layers: int = 6  # of the map decoder, each with a loss of its own
    decoder_heads: int = 4  # of attention in the map decoder
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
        self.refuse_language_model()

    def refuse_language_model(self) -> None:
        for name in ("llm", "prompt"):
            if not getattr(self, name).strip():
                raise Stop(f"model.{name} is empty", "leave it out for the default")
        if not re.fullmatch(r"([0-9a-f]{40})?", self.llm_revision):
            raise Stop(
                f"model.llm_revision={self.llm_revision!r} is not a commit: 40 hex digits, as the hub shows them"
            )
        if self.llm == "none" and not self.scene_interaction:
            raise Stop("model.llm=none leaves the map queries blind: set model.scene_interaction=true")


@dataclass
class DataConfig:
    # nuScenes folder with maps/, samples/ and v1.0-…; empty: the stand-in with --demo, else data/llava_map/nuscenes
    root: str = ""
    version: str = "v1.0-trainval"  # or v1.0-mini
    # by scene name; or "newsplit", StreamMapNet's lists; or "geographic": the eastern end of each location is held out
    split: str = "official"
    geographic_share: float = 0.15  # of each location's scenes
    geographic_gap_m: float = 60.0  # training scenes that come nearer to a held-out frame are dropped
    width_px: int = 800  # of each of the six pictures, as the encoder sees it
    height_px: int = 448  # as width_px
    region: str = measured("60x30")  # metres ahead and behind, to both sides; or 100x50. Thresholds and rays go with it
    # a fourth class, as in MapTRv2: ways along the middle of lanes; mAP is the mean of four
    centreline: bool = measured(False)
    flip: bool = True  # left-right, with cameras and lines, in half of the samples
    # strength of brightness and contrast, each camera its own; MapTR: 0.5; 0 keeps image tokens cacheable
    colour_jitter: float = 0.0
    stand_in: bool = False  # a procedural world in nuScenes' format, unless data.root is given
    stand_in_scenes: int = 180  # to train on, of the procedural world
    stand_in_val_scenes: int = 32  # held out, of the procedural world
    stand_in_frames: int = 3  # few: the frames of a scene are much alike, and it is other roads that teach
    overlays: int = 4  # frames drawn with their ground truth in step 3

    def __post_init__(self) -> None:
        one_of("data.split", self.split, ("official", "newsplit", "geographic"))
        one_of("data.region", self.region, tuple(REGIONS))
        one_of("data.version", self.version, ("v1.0-mini", "v1.0-trainval"))
        for name in ("width_px", "height_px", "stand_in_frames"):
            at_least(f"data.{name}", getattr(self, name), 1)
        at_least("data.overlays", self.overlays, 0)
        between("data.colour_jitter", self.colour_jitter, 0, 1)
        between("data.geographic_gap_m", self.geographic_gap_m, 0, 100_000)
        between("data.stand_in_scenes", self.stand_in_scenes, 1, len(OFFICIAL["train"]))  # they have official names
        between("data.stand_in_val_scenes", self.stand_in_val_scenes, 1, len(OFFICIAL["val"]))
        between("data.geographic_share", self.geographic_share, 0.001, 0.9)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is mapped; a label is an index into them."""
        return (*CLASSES, CENTRELINE) if self.centreline else CLASSES

    @property
    def half_extent_m(self) -> tuple[float, float]:
        """x to the right of the lidar, y ahead of it."""
        return REGIONS[self.region][0]

    @property
    def thresholds_m(self) -> tuple[float, float, float]:
        """Of average precision."""
        return REGIONS[self.region][1]


@dataclass
class LossConfig:
    """MapTR's weights of sums over points: gradient norms of 14 to 260 are normal, and train.clip belongs to them."""

    cls: float = 2.0  # of the classes: focal loss
    pts: float = 5.0  # of the points: L1
    dir: float = 0.005  # of the directions between neighbouring points: cosine
    orders: str = "v4"  # of closed lines; "v2" is what MapTR's released configurations use

    def __post_init__(self) -> None:
        one_of("loss.orders", self.orders, ("v4", "v2"))
        for name in ("cls", "pts", "dir"):
            between(f"loss.{name}", getattr(self, name), 0, 1e6)
        if not (self.cls or self.pts or self.dir):
            raise Stop("loss.cls, loss.pts and loss.dir are all 0: there is nothing to learn from")


@dataclass
class LoraConfig(config.LoraConfig):
    """Adapters on the language model, in stage 3 only.

    A target is the bare name of a linear layer, in every block (q_proj, k_proj, v_proj, o_proj; gate_proj, up_proj,
    down_proj for the MLP; whatever names the family has), a whole name (layers.3.mlp.up_proj), or a regex over those.
    """

    # Layers of the language model that get adapters.
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.targets:
            raise Stop("lora.targets is empty: adapters need a layer, for example lora.targets=[q_proj,v_proj]")
        for pattern in self.targets:
            refuse_bad_pattern("lora.targets", pattern)


@dataclass
class TrainConfig(config.TrainConfig):
    """`lr` is for everything new (queries, decoder, bridge).

    The Q-Former has a share of it, the language model a rate of its own.
    """

    # Stage2 trains around the frozen language model, stage3 trains it too.
    stages: list[str] = field(default_factory=lambda: ["stage2"])
    lr_share_qformer: float = 0.1  # of train.lr
    lr_llm: float = 1e-4  # of the adapters, or of the whole language model, in stage 3
    stage3: str = "lora"  # or "full": several large cards, and train.shard
    stage3_epochs: int = 3  # of stage 3
    clip: float = 35.0  # MapTR's; its losses are sums, and norms of 14 to 260 are normal

    def __post_init__(self) -> None:
        super().__post_init__()
        between("train.lr_share_qformer", self.lr_share_qformer, 0, 100)
        between("train.lr_llm", self.lr_llm, 0, 1)
        at_least("train.stage3_epochs", self.stage3_epochs, 1)
        one_of("train.stage3", self.stage3, ("lora", "full"))
        if self.stages not in (["stage2"], ["stage3"], ["stage2", "stage3"]):
            raise Stop(f"train.stages={self.stages} is impossible: allowed: [stage2], [stage3], [stage2,stage3]")


@dataclass
class EvalConfig(config.EvalConfig):
    detections: int = measured(50)  # best (query, class) pairs kept of a frame, without a threshold
    guide_threshold: float = 0.3  # the second column: the guide's score threshold, one class a query
    # of a line when distances are measured: 100 as MapTR, 200 as others; mAP differs by about 0.002
    compared_points: int = measured(100, scored=True, free=True)
    # what is left of mAP with the pictures of another scene, with the prompt's words shuffled, and where the map
    # queries pass the language model by: four times the time of step 5
    ablations: bool = scored(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("eval.detections", self.detections, 1)
        if self.compared_points not in (100, 200):
            raise Stop(f"eval.compared_points={self.compared_points} compares with no paper: allowed: 100, 200")
        between("eval.guide_threshold", self.guide_threshold, 0, 1)


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
        if self.model.llm_bits == 4 and self.trains_llm():
            raise Stop("model.llm_bits=4 cannot be trained: set model.llm_bits=16, or train.stage3=lora")
        if self.model.llm_bits == 4 and self.train.shard == "on":
            raise Stop("model.llm_bits=4 cannot be spread over processes: set model.llm_bits=16, or train.shard=off")
        stride_px = ENCODERS[self.model.encoder].stride_px
        for name in ("width_px", "height_px"):  # a token of the encoder is so large
            at_least(f"data.{name}", getattr(self.data, name), stride_px)

    @property
    def prompt(self) -> str:
        """What the language model reads: the fourth class is asked for where it is mapped."""
        return self.model.prompt + (" Find the centre lines of lanes, too." if self.data.centreline else "")

    def trains_llm(self) -> bool:
        """Does a stage train the language model's own tensors, as far as names say?"""
        in_full = "stage3" in self.train.stages and self.train.stage3 == "full"
        return in_full or any(pattern.startswith("llm") for pattern in self.lora.full)


def between(key: str, value: float, low: float, high: float) -> None:
    """Stop where a number is outside of [low, high], or no number."""
    allowed(key, f"{low:g} to {high:g}")
    if not low <= value <= high:
        raise Stop(f"{key}={value} is impossible: it must be between {low:g} and {high:g}")
