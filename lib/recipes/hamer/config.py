"""What can be set in the recipe `hamer`: sizes of the network, data, losses, adapters, presets and the demo."""

from dataclasses import dataclass, field

from lib.core.config import CacheConfig, EvalConfig, LoraConfig, SessionConfig, TrainConfig, at_least, one_of
from lib.core.errors import Stop

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, of values between 0 and 1
# of the MANO_RIGHT.pkl that FreiHAND's labels were made with; older versions differ by up to 6 mm
MANO_MD5 = "fd5a9d35f914987cf1cc04ffe338caa1"
INITS = ("hamer", "vitpose", "demo")
FORMATS = ("made", "freihand", "hamer_npz", "hamer_tar", "folder")
PUBLISHED = ("freihand", "hamer_npz", "hamer_tar")  # benchmarks whose 3D scores are defined with MANO
BACKBONE_TARGETS = ("attn", "mlp", "patch")
HEAD_TARGETS = ("attn", "mlp", "readouts")


@dataclass
class ModelConfig:
    """Sizes of the published network; every one can be smaller."""

    init: str = "hamer"  # hamer (a whole checkpoint) | vitpose (its backbone alone) | demo (shipped)
    checkpoint: str = ""  # path of that checkpoint; "" = where step 2 asked you to put it
    mano: str = "licensed"  # or stand_in: an invented hand in the same format
    crop_px: int = 256  # square crop; the backbone sees the middle three quarters of its columns
    patch_px: int = 16
    width: int = 1280
    depth: int = 32
    heads: int = 16
    mlp_ratio: int = 4
    drop_path: float = 0.0  # HaMeR was trained with 0.55; on small data that only adds noise to adapters
    decoder_width: int = 1024
    decoder_depth: int = 6
    decoder_heads: int = 8
    decoder_head_width: int = 64
    decoder_mlp: int = 1024
    refinements: int = 1
    mean_token: bool = False  # the query token carries the estimate so far; the published model does not do that
    focal_px: float = 5000.0  # of the camera that sees the crop; the checkpoint was trained with this

    def __post_init__(self) -> None:
        one_of("model.init", self.init, INITS)
        one_of("model.mano", self.mano, ("licensed", "stand_in"))
        for name in ("patch_px", "width", "depth", "heads", "decoder_depth", "decoder_heads", "refinements"):
            at_least(f"model.{name}", getattr(self, name), 1)
        if self.width % self.heads:
            raise Stop(f"model.width={self.width} is not a multiple of model.heads={self.heads}")
        if self.crop_px % 8 or self.crop_px < self.patch_px:
            raise Stop(
                f"model.crop_px={self.crop_px} must be a multiple of 8 and at least model.patch_px={self.patch_px}"
            )

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
class DataConfig:
    format: str = "freihand"  # made | freihand | hamer_npz | hamer_tar | folder
    root: str = ""  # your data
    group_pattern: str = ""  # regex over a sample's name; its first group names the subject or sequence. "" = by format
    val_groups: list[str] = field(default_factory=list)  # held out; [] = a share of the groups, drawn with train.seed
    val_share: float = 0.1
    truth: str = "3d"  # held-out hands are scored against all 21 keypoints in 3D (others are left out); or 2d
    box_factor: float = 2.0  # side of a crop whose box comes from keypoints, relative to their extent
    keep_side_px: int = 512  # larger boxes are reduced to this side in step 3, which also removes aliasing
    augment: bool = True
    augment_scale: float = 0.3
    augment_rotation_deg: float = 30.0  # standard deviation, cut at two of them
    augment_rotation_share: float = 0.6
    augment_shift: float = 0.02  # of the box
    augment_colour: float = 0.2
    stand_in_subjects: int = 16  # of the stand-in data: subjects, and hands of each
    stand_in_hands: int = 40
    stand_in_px: int = 128

    def __post_init__(self) -> None:
        one_of("data.format", self.format, FORMATS)
        one_of("data.truth", self.truth, ("3d", "2d"))
        at_least("data.box_factor", self.box_factor, 0.5)
        at_least("data.keep_side_px", self.keep_side_px, 64)
        at_least("data.stand_in_subjects", self.stand_in_subjects, 2)
        if not 0 < self.val_share < 1:
            raise Stop(f"data.val_share={self.val_share} is not between 0 and 1")


@dataclass
class LossConfig:
    """Weights of HaMeR's sums over one sample's joints and coordinates.

    Sums, never means: the learning rate is tuned to them.
    """

    keypoints_3d: float = 0.05
    keypoints_2d: float = 0.01
    global_orient: float = 0.001
    hand_pose: float = 0.001
    betas: float = 0.0005
    adversarial: float = 0.0  # HaMeR: 0.0005. Above 0 a critic is trained as well
    critic_lr: float = 1e-5
    shape_prior: float = 1.0  # pull of unannotated betas to 0, relative to `betas`; keypoints say little of thickness

    def __post_init__(self) -> None:
        for name in vars(self):
            at_least(f"loss.{name}", getattr(self, name), 0)


@dataclass
class TargetsConfig:
    backbone: list[str] = field(default_factory=lambda: list(BACKBONE_TARGETS))
    head: list[str] = field(default_factory=lambda: ["attn", "readouts"])

    def __post_init__(self) -> None:
        for name in self.backbone:
            one_of("lora.targets.backbone", name, BACKBONE_TARGETS)
        for name in self.head:
            one_of("lora.targets.head", name, HEAD_TARGETS)


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
        if not (self.lora.targets.backbone or self.lora.targets.head or self.lora.full_readouts or self.lora.full):
            raise Stop("lora.targets is empty: nothing would be trained")

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
