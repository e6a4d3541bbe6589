"""Settings of every recipe of scenes by section: what a person may override, each with its bounds. No heavy imports."""

from dataclasses import dataclass, field
from typing import Protocol

from lib.core import config
from lib.core.config import measured, one_of, refuse_bad_pattern
from lib.core.errors import Stop
from lib.scenes.bounds import multiple, within

NO_WEIGHTS = ("", "scratch", "random", "none")
SUMMARY = "summary.json"  # beside the scenes: what their whole-number depth is divided by
OF_MODEL = "#"  # between a folder and one of its models, in the name of a scene: wall#sparse-1
LAYERS = ("qkv", "proj", "fc1", "fc2", "projects", "scratch")


class DenseSize(Protocol):
    """What of the sizes of a network a dense head has."""

    patch_size: int  # side in px
    embed_dim: int  # channels of a block; a layer that the head reads has twice as many
    dpt_features: int
    dpt_out_channels: list[int]
    dpt_output_hidden: int


@dataclass
class NetworkConfig:
    """Where the weights of a network come from, and the size of its images. A recipe adds the sizes of its network."""

    weights: str = ""  # of the hub, or your own: a file (.safetensors, .pt), or the folder that holds one
    # Of the hub repository; step 2 notes the commit, a run keeps it, and 40 hex digits choose one.
    revision: str = "main"
    image_width_px: int = 518  # pictures are cropped and resized to this; a multiple of the patch
    image_height_px: int = 336  # as image_width_px
    patch_size: int = 14  # side in px

    def __post_init__(self) -> None:
        multiple("model.image_width_px", self.image_width_px, "model.patch_size", self.patch_size)
        multiple("model.image_height_px", self.image_height_px, "model.patch_size", self.patch_size)
        if not self.revision.strip():
            raise Stop("model.revision is empty: it is a branch, or 40 hex digits", "model.revision=main")


def refuse_no_weights(weights: str, why: str, known: tuple[str, ...]) -> None:
    """Stop: a random start. `why` says what it means, `known` are the weights that there are."""
    if weights.strip().lower() in NO_WEIGHTS:
        named = f"name one of {', '.join(known)}, or your own model.safetensors"
        raise Stop(f"model.weights={weights!r} names no weights: {why}", named)


@dataclass
class DataConfig:
    """Where the scenes are, which are held out, and how frames are drawn."""

    root: str = ""  # folder with one folder per scene; empty: what step 2 brings
    # To train on.
    scenes: list[str] = field(default_factory=lambda: ["facade", "electro", "terrace", "playground", "meadow"])
    val_scenes: list[str] = field(default_factory=lambda: ["courtyard"])  # held out and scored in step 5
    # Without val_scenes: the share of the scenes that trains, or of the views of a single scene.
    train_val_split: float = 0.85
    # Where a folder holds several COLMAP models: largest, or each as a scene, all of them on one side of the split.
    sparse_models: str = "largest"
    # With one scene: training views that share more than this with a held-out view are dropped.
    gap_covisibility: float = 0.5
    # Also drop depth where ETH3D's masks say 1: right geometry, unsuited appearance (reflections, flare).
    drop_obs_masks: bool = measured(False)
    # Unit of the scenes: m; unknown; auto = metres where a laser or a 16-bit depth with a scale says so, else unknown.
    # Where it is not known, errors are relative, because COLMAP's own scale is free.
    unit: str = "auto"
    # Folder with <scene>/<photograph>.png, nonzero = region (windows, say); see loss.region_weight.
    region_masks: str = ""
    # 16-bit PNG: depth in metres = value / depth_scale; 0 = from summary.json beside the scenes.
    depth_scale: float = measured(0.0)
    frames: list[int] = field(default_factory=lambda: [2, 8])  # fewest and most frames of a training sample
    # Lowest and highest share of common points with the sample's anchor frame.
    covisibility: list[float] = field(default_factory=lambda: [0.05, 1.0])
    samples_per_epoch: int = 200  # each a few frames of one scene, drawn anew
    # n: the samples of epoch e are those of epoch e % n, so that frozen blocks' output can be kept; 0 = always new,
    # unless cache.policy=auto finds that repeating some is faster.
    distinct_epochs: int = 0
    colour_jitter: float = 0.0  # strength; VGGT was trained with 0.5; 0 = off
    # A frame is cropped to min(1, 1 +- this) of its size and enlarged; VGGT was trained with 0.2.
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
        one_of("data.sparse_models", self.sparse_models, ("largest", "each"))
        one_of("data.unit", self.unit, ("auto", "m", "unknown"))
        within("data.samples_per_epoch", self.samples_per_epoch, 1)
        within("data.stand_in_views", self.stand_in_views, 3)
        for name in ("depth_scale", "distinct_epochs"):
            within(f"data.{name}", getattr(self, name), 0)
        for name in ("colour_jitter", "gap_covisibility"):
            within(f"data.{name}", getattr(self, name), 0, 1)
        within("data.scale_jitter", self.scale_jitter, 0, 0.9)  # a share of the image that is left

    def check_scenes(self) -> None:
        if not self.scenes:
            raise Stop("data.scenes is empty: name the scenes to train on")
        for key in ("scenes", "val_scenes"):
            names = getattr(self, key)
            for name in names:
                if name in ("", ".", "..") or name != name.strip() or "/" in name or "\\" in name:
                    raise Stop(f"data.{key} names {name!r}, but a scene is named by its folder inside data.root alone")
            if marked := next((name for name in names if OF_MODEL in name and self.sparse_models == "each"), None):
                cause = f"data.{key} names {marked!r}, but {OF_MODEL} begins a model's name in data.sparse_models=each"
                raise Stop(cause, "rename the folder")
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise Stop(f"data.{key} names {twice} twice")
        if both := ", ".join(sorted(set(self.scenes) & set(self.val_scenes))):
            raise Stop(f"data.scenes and data.val_scenes both name {both}: a held-out scene must not be trained on")


@dataclass
class LossConfig:
    """Weights and constants of the training loss: the guide's, which are the published ones where it is silent."""

    camera_weight: float = 2.0  # of the loss of the cameras
    depth_weight: float = 5.0  # of the loss of the depth
    translation_weight: float = 1.0  # within the loss of the cameras
    rotation_weight: float = 1.0  # within the loss of the cameras
    focal_weight: float = 0.5  # within the loss of the cameras: field of view
    camera_norm: str = "l1"  # or l2
    # The term on spatial differences: grad_conf weights it by the confidence, "" leaves it out.
    depth_gradient: str = "grad"
    # Of the dense maps: trained as published; detached: it moves no depth, and has an end; frozen: without its term.
    confidence: str = "trained"
    confidence_error: float = 1.0  # gamma in gamma * error * confidence - alpha * log(confidence)
    confidence_reward: float = 0.2  # alpha
    valid_range: float = 0.99  # errors above this quantile are left out; -1 = none
    min_valid_px: int = 100  # fewer valid pixels give no loss
    region_weight: float = 1.0  # of pixels in the region of data.region_masks; the others weigh 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_weight") or name == "confidence_reward":
                within(f"loss.{name}", value, 0)
        within("loss.min_valid_px", self.min_valid_px, 1)
        within("loss.confidence_error", self.confidence_error, 1e-6)  # at 0 the confidence grows without end
        one_of("loss.confidence", self.confidence, ("trained", "detached", "frozen"))
        one_of("loss.camera_norm", self.camera_norm, ("l1", "l2"))
        one_of("loss.depth_gradient", self.depth_gradient, ("", "grad", "grad_conf"))  # a depth has no normals
        if self.valid_range != -1 and not 0 < self.valid_range <= 1:
            raise Stop(f"loss.valid_range={self.valid_range} is a share: above 0 and at most 1, or -1 for none")


STRATEGIES = ("a", "b", "c")  # those with adapters


@dataclass
class LoraConfig(config.LoraConfig):
    """`strategy` names the adapted blocks relative to the network's depth, `layers` the kinds of layers in them.

    `targets` (regexes over the names of layers) replaces both.
    """

    # a: depth head; b: and the second half of the blocks; c: all blocks and the camera trunk; head_full: no adapters.
    strategy: str = "b"
    # Of the blocks: attn.qkv, attn.proj, mlp.fc1, mlp.fc2; of the depth head: projects, scratch.
    layers: list[str] = field(default_factory=lambda: list(LAYERS))
    targets: list[str] = field(default_factory=list)  # regexes over names of layers, instead of strategy and layers
    # lora.dropout before adapters of convolutions too: none; channel, whole channels; pixel, the guide's, which makes a
    # step of strategy a take 1.7 times as long. In the demo strategies a and b end at 1.814 and 1.739 m with none, at
    # 1.808 and 1.718 m with pixel, within intervals of 0.5 m.
    conv_dropout: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("lora.conv_dropout", self.conv_dropout, ("pixel", "channel", "none"))
        one_of("lora.strategy", self.strategy, (*STRATEGIES, "head_full"))
        for name in self.layers:
            one_of("lora.layers", name, LAYERS)
        if set(self.layers) != set(LAYERS) and (self.targets or self.strategy == "head_full"):
            instead = "lora.targets" if self.targets else "lora.strategy=head_full"
            raise Stop(f"lora.layers={self.layers} has no meaning with {instead}, which names what is trained")
        for pattern in self.targets:
            refuse_bad_pattern("lora.targets", pattern)


@dataclass
class EvalConfig(config.EvalConfig):
    lengths: list[int] = field(default_factory=lambda: [1, 2, 4, 8])  # frames per held-out sequence
    sequences_per_scene: int = 4  # at most, for each length; they share no frame

    def __post_init__(self) -> None:
        super().__post_init__()
        within("eval.sequences_per_scene", self.sequences_per_scene, 1)
        if not self.lengths or min(self.lengths) < 1:
            raise Stop(f"eval.lengths={self.lengths} needs frame counts of at least 1")
        if len(set(self.lengths)) < len(self.lengths):
            raise Stop(f"eval.lengths={self.lengths} names a length twice: the same sequences would be scored again")
        if self.batch != 1:
            reason = "held-out sequences have different lengths, so this recipe scores them one by one"
            raise Stop(f"eval.batch={self.batch} is impossible: {reason}")


@dataclass
class Settings:
    """All sections together. A recipe extends them, and checks what they say of one another."""

    model: NetworkConfig = field(default_factory=NetworkConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: config.TrainConfig = field(default_factory=config.TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cache: config.CacheConfig = field(default_factory=config.CacheConfig)
    session: config.SessionConfig = field(default_factory=config.SessionConfig)
