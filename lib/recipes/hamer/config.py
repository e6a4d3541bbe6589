"""What can be set in the recipe `hamer`: sizes of the network, data, losses, adapters, presets and the demo."""

from dataclasses import dataclass, field
from pathlib import Path

from lib.core.config import (
    CacheConfig,
    EvalConfig,
    LoraConfig,
    SessionConfig,
    TrainConfig,
    at_least,
    measured,
    one_of,
    to_dotted,
)
from lib.core.errors import Stop
from lib.recipes.hamer.data_config import PUBLISHED, DataConfig

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, of values between 0 and 1
# of the MANO_RIGHT.pkl that FreiHAND's labels were made with; older versions differ by up to 6 mm
MANO_MD5 = "fd5a9d35f914987cf1cc04ffe338caa1"
INITS = ("hamer", "vitpose", "demo")
SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt")  # of a checkpoint
# What lora.targets may name: layers by their published names, or several of them at once.
BACKBONE_TARGETS = {
    "attn": ("qkv", "proj"), "mlp": ("fc1", "fc2"), "patch": ("patch",),
    "qkv": ("qkv",), "proj": ("proj",), "fc1": ("fc1",), "fc2": ("fc2",),
}  # fmt: skip
HEAD_TARGETS = {
    "attn": ("to_qkv", "to_kv", "to_q", "to_out"), "mlp": ("net",), "readouts": ("decpose", "decshape", "deccam"),
    "to_qkv": ("to_qkv",), "to_kv": ("to_kv",), "to_q": ("to_q",), "to_out": ("to_out",),
    "decpose": ("decpose",), "decshape": ("decshape",), "deccam": ("deccam",),
}  # fmt: skip
BACKBONE_SIZES = ("crop_px", "patch_px", "width", "depth", "heads", "mlp_ratio")  # settings model.*
HEAD_SIZES = ("decoder_width", "decoder_depth", "decoder_heads", "decoder_head_width", "decoder_mlp", "mean_token")


@dataclass
class ModelConfig:
    """Sizes of the published network; every one can be smaller."""

    init: str = "hamer"  # hamer (a whole checkpoint) | vitpose (its backbone alone) | demo (shipped)
    checkpoint: str = ""  # path of that checkpoint; "" = where step 2 asked you to put it
    mano: str = measured("licensed")  # or stand_in: an invented hand in the same format
    crop_px: int = 256  # square crop; the backbone sees the middle three quarters of its columns
    patch_px: int = 16  # side of the square that becomes a token
    width: int = 1280  # of the backbone's tokens
    depth: int = 32  # blocks of the backbone
    heads: int = 16  # of attention in the backbone
    mlp_ratio: int = 4  # width of the backbone's MLP over width
    drop_path: float = 0.0  # HaMeR was trained with 0.55; on small data that only adds noise to adapters
    decoder_width: int = 1024  # of the head's query
    decoder_depth: int = 6  # layers of the head
    decoder_heads: int = 8  # of attention in the head
    decoder_head_width: int = 64  # channels of each of them
    decoder_mlp: int = 1024  # width of the head's MLP
    refinements: int = 1  # rounds of the head, each from the estimate of the one before
    mean_token: bool = False  # the query token carries the estimate so far; the published model does not do that
    focal_px: float = 5000.0  # of the camera that sees the crop; the checkpoint was trained with this

    def __post_init__(self) -> None:
        one_of("model.init", self.init, INITS)
        one_of("model.mano", self.mano, ("licensed", "stand_in"))
        sizes = {name for name in (*BACKBONE_SIZES, *HEAD_SIZES, "refinements") if name != "mean_token"}
        for name in sorted(sizes):
            at_least(f"model.{name}", getattr(self, name), 1)
        if self.width % self.heads:
            raise Stop(f"model.width={self.width} is not a multiple of model.heads={self.heads}")
        if self.crop_px % 8 or self.crop_px * 3 // 4 < self.patch_px:
            cause = f"model.crop_px={self.crop_px} must be a multiple of 8, and three quarters of it at least"
            raise Stop(f"{cause} model.patch_px={self.patch_px}")
        if not 0 <= self.drop_path < 1:
            raise Stop(f"model.drop_path={self.drop_path} is not in [0, 1)")
        if not 0 < self.focal_px < float("inf"):
            raise Stop(f"model.focal_px={self.focal_px} is impossible: a focal length is above 0")
        if self.checkpoint and Path(self.checkpoint).suffix not in SUFFIXES:
            cause = f"model.checkpoint={self.checkpoint!r} does not end in one of {', '.join(SUFFIXES)}"
            raise Stop(cause, "give the path of a checkpoint's file; model.init says what is in it")

    @property
    def margin_px(self) -> int:
        return self.crop_px // 8

    @property
    def patches(self) -> int:
        rows, columns = (
            (side + 4 - self.patch_px) // self.patch_px + 1 for side in (self.crop_px, self.crop_px * 3 // 4)
        )
        return rows * columns


@dataclass
class LossConfig:
    """Weights of HaMeR's sums over one sample's joints and coordinates.

    Sums, never means: the learning rate is tuned to them.
    """

    keypoints_3d: float = 0.05  # of the 21 keypoints in m, relative to the wrist
    keypoints_2d: float = 0.01  # of the 21 keypoints in the crop
    global_orient: float = 0.001  # of the wrist's rotation matrix
    hand_pose: float = 0.001  # of the 15 joint rotation matrices
    betas: float = 0.0005  # of the 10 shape numbers
    adversarial: float = 0.0  # HaMeR: 0.0005. Above 0 a critic is trained as well
    critic_lr: float = 1e-5  # learning rate of the critic
    shape_prior: float = 1.0  # pull of unannotated betas to 0, relative to `betas`; keypoints say little of thickness

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise Stop(f"loss.{name}={value} is impossible: it must be at least 0")
        if self.adversarial and not self.critic_lr:
            raise Stop("loss.critic_lr=0 with loss.adversarial above 0: the critic would never learn")
        if not any((self.keypoints_3d, self.keypoints_2d, self.global_orient, self.hand_pose, self.betas)):
            raise Stop("all weights of loss.* are 0, so nothing would be trained", "set loss.keypoints_2d above 0")


@dataclass
class TargetsConfig:
    """Layers that get adapters, e.g. [qkv, fc1] and [to_kv, decpose]; `attn`, `mlp` and `readouts` are several."""

    # Kinds of layers of the ViT that get adapters.
    backbone: list[str] = field(default_factory=lambda: ["attn", "mlp", "patch"])
    # Kinds of layers of the head that get adapters.
    head: list[str] = field(default_factory=lambda: ["attn", "readouts"])

    def __post_init__(self) -> None:
        for name in self.backbone:
            one_of("lora.targets.backbone", name, tuple(BACKBONE_TARGETS))
        for name in self.head:
            one_of("lora.targets.head", name, tuple(HEAD_TARGETS))


@dataclass
class HamerLoraConfig(LoraConfig):
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    last_blocks: int = 0  # of the backbone that get adapters; the rest is frozen and its output is kept. 0 = all
    full_readouts: bool = False  # train the three read-outs fully instead (111 725 parameters)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("lora.last_blocks", self.last_blocks, 0)


@dataclass
class HamerTrainConfig(TrainConfig):
    epochs: int = 10
    lr: float = 5e-5
    global_batch: int = 32
    micro_batch: int = 8


@dataclass
class HamerEvalConfig(EvalConfig):
    batch: int = 8


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: HamerLoraConfig = field(default_factory=HamerLoraConfig)
    train: HamerTrainConfig = field(default_factory=HamerTrainConfig)
    eval: HamerEvalConfig = field(default_factory=HamerEvalConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    session: SessionConfig = field(default_factory=SessionConfig)

    def __post_init__(self) -> None:
        if self.lora.last_blocks > self.model.depth:
            raise Stop(f"lora.last_blocks={self.lora.last_blocks} is more than model.depth={self.model.depth}")
        full = self.lora.full_readouts or self.lora.full or self.model.init == "vitpose"
        if not (full or self.adapted_backbone or self.adapted_head):
            raise Stop("lora.targets is empty: nothing would be trained")
        refuse_other_sizes(self.model)

    @property
    def adapted_backbone(self) -> list[str]:
        """Kinds of layers of the backbone that get adapters. Before `lora.last_blocks`, nothing is adapted."""
        chosen = {layer for name in self.lora.targets.backbone for layer in BACKBONE_TARGETS[name]}
        return sorted(chosen - ({"patch"} if self.lora.last_blocks else set()))

    @property
    def adapted_head(self) -> list[str]:
        """Kinds of layers of the head that get adapters: not those that are trained fully."""
        chosen = {layer for name in self.lora.targets.head for layer in HEAD_TARGETS[name]}
        if self.model.init == "vitpose":  # there the whole head is new
            return []
        return sorted(chosen - (set(HEAD_TARGETS["readouts"]) if self.lora.full_readouts else set()))

    @property
    def scores_3d(self) -> bool:
        """The stand-in hand gets no 3D score on a published benchmark: its shape and its poses are not MANO's."""
        return self.data.truth == "3d" and not (self.model.mano == "stand_in" and self.data.format in PUBLISHED)


PRESETS = {
    "rank8": {"lora.rank": 8, "lora.alpha": 16.0, "lora.dropout": 0.1, "train.lr": 5e-5},
    "rank4": {"lora.rank": 4, "lora.alpha": 4.0, "lora.dropout": 0.0, "train.lr": 1e-4},
    "rank16": {"lora.rank": 16, "lora.alpha": 32.0, "lora.dropout": 0.1, "train.lr": 5e-5},
}

# A small network with the true key names, and pictures of the stand-in hand. Only model.*, data.* and four train
# settings may change.
DEMO = {
    "model.init": "demo",
    "model.mano": "stand_in",
    "model.crop_px": 128,
    "model.width": 128,
    "model.depth": 4,
    "model.heads": 4,
    "model.decoder_width": 96,
    "model.decoder_depth": 2,
    "model.decoder_heads": 4,
    "model.decoder_head_width": 24,
    "model.decoder_mlp": 192,
    "data.format": "made",
    "data.val_share": 0.3,
    "data.box_factor": 1.2,
    "data.keep_side_px": 256,
    "data.augment_rotation_deg": 8.0,
    "data.augment_scale": 0.1,
    "data.stand_in_subjects": 40,
    "data.stand_in_hands": 30,
    "train.epochs": 24,
    "train.lr": 2e-3,
    "train.global_batch": 16,
    "train.micro_batch": 16,
}
TINY = {"data.stand_in_subjects": 5, "data.stand_in_hands": 8, "train.epochs": 2}
EXPECTED = {
    "rank8": "PA-MPJPE of held-out people's gloved hands at least 15 % below the untouched base in the demo; "
    "0.9 % of HaMeR is trained",
    "rank4": "in the demo a gain like rank8's with half of its parameters: least memory, small data",
    "rank16": "in the demo a gain like rank8's with twice its parameters: for more data than that",
}


def refuse_other_sizes(model: ModelConfig) -> None:
    """A published or shipped checkpoint has one size; another one would fail when it is loaded, after the download."""
    if model.checkpoint:
        return
    names = BACKBONE_SIZES if model.init == "vitpose" else (*BACKBONE_SIZES, *HEAD_SIZES)
    published = to_dotted(ModelConfig()) | (
        {key[6:]: value for key, value in DEMO.items()} if model.init == "demo" else {}
    )
    for name in names:
        if getattr(model, name) != published[name]:
            cause = f"model.{name}={getattr(model, name)}, but the checkpoint of model.init={model.init} has"
            raise Stop(
                f"{cause} {published[name]}", "leave it out, or set model.checkpoint to a checkpoint of that size"
            )
