"""Settings of the recipe: what a person may override, the four presets, and the small demo. No heavy imports."""

from dataclasses import dataclass, field

from lib.core import config
from lib.core.config import at_least, one_of
from lib.core.errors import Stop
from lib.recipes.vggt_eth3d.size import ModelSize

# The published weights and their licences.
LICENCES = {
    "facebook/VGGT-1B": "VGGT licence, non-commercial",
    "facebook/VGGT-1B-Commercial": (
        "VGGT licence, commercial use allowed, not military (accept it on the model page first)"
    ),
}


@dataclass
class ModelConfig(ModelSize):
    """The network (sizes: size.py), its weights, and the size of its images.

    518 x 336 is the 3:2 of ETH3D at the published width.
    """

    weights: str = "facebook/VGGT-1B"  # or facebook/VGGT-1B-Commercial, or a path of model.safetensors / model.pt
    # Of the hub repository; step 2 notes the commit, a run keeps it, and 40 hex digits choose one.
    revision: str = "main"
    # bf16 holds the frozen linear layers of the aggregator, 78 % of the network, in half the memory.
    base_precision: str = "fp32"
    image_width_px: int = 518
    image_height_px: int = 336

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("model.base_precision", self.base_precision, ("fp32", "bf16"))
        self.check_multiple("image_width_px", self.image_width_px, "patch_size", self.patch_size)
        self.check_multiple("image_height_px", self.image_height_px, "patch_size", self.patch_size)


@dataclass
class DataConfig:
    """Where the scenes are, which are held out, and how frames are drawn."""

    root: str = ""  # folder with one folder per scene; empty: what step 2 brings
    scenes: list[str] = field(default_factory=lambda: ["facade", "electro", "terrace", "playground", "meadow"])
    val_scenes: list[str] = field(default_factory=lambda: ["courtyard"])
    # Without val_scenes: the share of the scenes that trains, or of the views of a single scene.
    train_val_split: float = 0.85
    # With one scene: training views that share more than this with a held-out view are dropped.
    gap_covisibility: float = 0.5
    # Also drop depth where ETH3D's masks say 1: right geometry, unsuited appearance (reflections, flare).
    drop_obs_masks: bool = False
    # Folder with <scene>/<photograph>.png, nonzero = region (windows, say); see loss.region_weight.
    region_masks: str = ""
    # 16-bit PNG: depth in metres = value / depth_scale; 0 = from summary.json beside the scenes.
    depth_scale: float = 0.0
    frames: list[int] = field(default_factory=lambda: [2, 8])  # fewest and most frames of a training sample
    # Lowest and highest share of common points with the sample's anchor frame.
    covisibility: list[float] = field(default_factory=lambda: [0.05, 1.0])
    samples_per_epoch: int = 200
    # n: the samples of epoch e are those of epoch e % n, so that frozen layers' output can be kept; 0 = always new.
    distinct_epochs: int = 0
    colour_jitter: float = 0.0  # strength; 0.5 is what VGGT was trained with; 0 = off
    # A frame is cropped to min(1, 1 +- this) of its size and enlarged; 0.2 is what VGGT was trained with.
    scale_jitter: float = 0.0
    stand_in: bool = False  # the demo's procedural buildings instead of ETH3D, unless data.root is given
    stand_in_views: int = 12  # per procedural scene

    def __post_init__(self) -> None:
        self.check_scenes()
        if len(self.frames) != 2 or not 1 <= self.frames[0] <= self.frames[1]:
            raise Stop(f"data.frames={self.frames} is not [fewest, most] with 1 <= fewest <= most")
        if len(self.covisibility) != 2 or not 0 <= self.covisibility[0] < self.covisibility[1] <= 1:
            raise Stop(f"data.covisibility={self.covisibility} is not [low, high] with 0 <= low < high <= 1")
        if not 0 < self.train_val_split < 1:
            raise Stop(f"data.train_val_split={self.train_val_split} is not between 0 and 1")
        at_least("data.samples_per_epoch", self.samples_per_epoch, 1)
        at_least("data.stand_in_views", self.stand_in_views, 3)
        for name in ("depth_scale", "distinct_epochs", "colour_jitter", "scale_jitter", "gap_covisibility"):
            at_least(f"data.{name}", getattr(self, name), 0)
        if self.scale_jitter >= 1:
            raise Stop(f"data.scale_jitter={self.scale_jitter} is a share of the image: below 1")

    def check_scenes(self) -> None:
        if not self.scenes:
            raise Stop("data.scenes is empty: name the scenes to train on")
        if both := ", ".join(sorted(set(self.scenes) & set(self.val_scenes))):
            raise Stop(f"data.scenes and data.val_scenes both name {both}: a held-out scene must not be trained on")


@dataclass
class LossConfig:
    """Weights and constants of the training loss: the guide's, which are the published ones where it is silent."""

    camera_weight: float = 2.0
    depth_weight: float = 5.0
    point_weight: float = 0.0
    translation_weight: float = 1.0
    rotation_weight: float = 1.0
    focal_weight: float = 0.5
    camera_norm: str = "l1"  # or l2
    iteration_decay: float = 0.6  # of the camera head's earlier iterations
    # The term on spatial differences: grad_conf weights it by the confidence, "" leaves it out.
    depth_gradient: str = "grad"
    point_gradient: str = "normal"
    confidence_error: float = 1.0  # gamma in gamma * error * confidence - alpha * log(confidence)
    confidence_reward: float = 0.2  # alpha
    valid_range: float = 0.99  # errors above this quantile are left out; -1 = none
    min_valid_px: int = 100  # fewer valid pixels give no loss
    region_weight: float = 1.0  # of pixels in the region of data.region_masks; the others weigh 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_weight") or name == "min_valid_px":
                at_least(f"loss.{name}", value, 0)
        one_of("loss.camera_norm", self.camera_norm, ("l1", "l2"))
        one_of("loss.depth_gradient", self.depth_gradient, ("", "grad", "grad_conf"))  # a depth has no normals
        one_of("loss.point_gradient", self.point_gradient, ("", "grad", "grad_conf", "normal", "normal_conf"))
        if self.valid_range > 1:
            raise Stop(f"loss.valid_range={self.valid_range} is a share: at most 1, or -1 for none")


@dataclass
class LoraConfig(config.LoraConfig):
    """`strategy` names the adapted layers relative to the network's depth; `targets` (regexes) replaces them."""

    # a: depth head; b: and the second half of the blocks; c: all blocks and the camera trunk; head_full: no adapters.
    strategy: str = "b"
    targets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("lora.strategy", self.strategy, ("a", "b", "c", "head_full"))


@dataclass
class EvalConfig(config.EvalConfig):
    lengths: list[int] = field(default_factory=lambda: [1, 2, 4, 8])  # frames per held-out sequence
    sequences_per_scene: int = 4  # at most, for each length; they share no frame

    def __post_init__(self) -> None:
        at_least("eval.sequences_per_scene", self.sequences_per_scene, 1)
        if not self.lengths or min(self.lengths) < 1:
            raise Stop(f"eval.lengths={self.lengths} needs frame counts of at least 1")
        if self.batch != 1:
            reason = "held-out sequences have different lengths, so this recipe scores them one by one"
            raise Stop(f"eval.batch={self.batch} is impossible: {reason}")


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: config.TrainConfig = field(default_factory=config.TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cache: config.CacheConfig = field(default_factory=config.CacheConfig)
    session: config.SessionConfig = field(default_factory=config.SessionConfig)

    def __post_init__(self) -> None:
        fewest, most = self.data.frames
        if self.model.base_precision == "bf16" and self.train.precision not in ("bf16", "fp16"):
            given = f"train.precision={self.train.precision}"
            raise Stop(f"model.base_precision=bf16 needs mixed precision, but {given}: add train.precision=bf16")
        if self.loss.region_weight != 1 and not self.data.region_masks:
            given = f"loss.region_weight={self.loss.region_weight}"
            raise Stop(f"{given} has no region to weigh: set data.region_masks too")
        if self.train.micro_batch > 1 and fewest != most:
            given = f"train.micro_batch={self.train.micro_batch}"
            one_by_one = f"train.micro_batch=1 and train.global_batch={self.train.global_batch}"
            raise Stop(
                f"{given} needs samples of one length, but data.frames={self.data.frames}: "
                f"take data.frames=[{most},{most}], or {one_by_one}"
            )


# The guide's numbers: rank 16, alpha 32, dropout 0.1, learning rate 1e-4, weight decay 0.01, warm-up 10 %, 20 epochs.
GUIDE = {
    "lora.rank": 16,
    "lora.alpha": 32.0,
    "lora.dropout": 0.1,
    "train.lr": 1e-4,
    "train.weight_decay": 0.01,
    "train.warmup_ratio": 0.1,
    "train.epochs": 20,
    "loss.camera_weight": 2.0,
    "loss.depth_weight": 5.0,
}
PRESETS = {
    "strategy_b": GUIDE | {"lora.strategy": "b"},
    "strategy_a": GUIDE | {"lora.strategy": "a"},
    "strategy_c": GUIDE | {"lora.strategy": "c", "loss.camera_weight": 3.0},
    "head_full": GUIDE | {"lora.strategy": "head_full"},
}

STREETS = ["linden", "market", "mill", "station", "quarry", "orchard", "foundry", "brewery", "library", "bakery"]

# A network of 1.9 million parameters with every part of the large one, on procedural buildings.
DEMO = {
    "model.weights": "demo",
    "model.image_width_px": 112,
    "model.image_height_px": 84,
    "model.img_size": 112,
    "model.embed_dim": 96,
    "model.depth": 4,
    "model.num_heads": 4,
    "model.patch_embed_depth": 2,
    "model.patch_embed_num_heads": 4,
    "model.camera_trunk_depth": 1,
    "model.camera_num_heads": 4,
    "model.dpt_features": 24,
    "model.dpt_out_channels": [24, 32, 48, 48],
    "model.dpt_intermediate_layers": [0, 1, 2, 3],
    "data.stand_in": True,
    "data.scenes": STREETS,
    "data.stand_in_views": 10,
    "data.val_scenes": ["harbour", "chapel", "garden", "viaduct", "college"],
    "data.frames": [3, 3],
    "data.samples_per_epoch": 80,
    "train.epochs": 8,
    "train.lr": 1e-3,
    "train.micro_batch": 2,
    "train.global_batch": 2,
}

# PIPELINE_SCALE=tiny: all five steps in 45 seconds.
TINY = {
    "data.scenes": ["linden", "market"],
    "data.val_scenes": ["harbour"],
    "data.stand_in_views": 6,
    "data.frames": [2, 2],
    "data.samples_per_epoch": 8,
    "train.epochs": 2,
}

EXPECTED = {
    "strategy_a": "held-out depth error below the untouched base; only the depth head is adapted",
    "strategy_b": "held-out depth error clearly below the untouched base and below strategy a",
    "strategy_c": "depth error near strategy b's; cameras move too, more risk of overfitting",
    "head_full": "the control: the depth head trained fully, without adapters",
}
