"""Settings of the recipe: what a person may override, the presets, and the small demo. No heavy imports."""

import re
from dataclasses import dataclass, field

from lib.core import config
from lib.core.config import at_least, scored, one_of
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.size import DITS, VGG16, VISIONS, AutoencoderSize, DiTSize, VisionSize

PUBLISHED = "hustvl/vavae-imagenet256-f16d32-dinov2"
PUBLISHED_DIT = "hustvl/lightningdit-xl-imagenet256-64ep"
RECORDING = r"(?P<recording>(?:rec|recording|seg|segment|take|session)[-_]?\d+)"
STAGES = ("align", "reconstruct", "margin", "single", "decoder", "dit")


@dataclass
class ModelConfig:
    """The networks and their weights. `weights`: the published repository, a path to a file like its, or "demo"."""

    weights: str = PUBLISHED
    image_px: int = 256
    channels: int = 128
    multipliers: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])  # of `channels`; each level halves the side
    blocks: int = 2
    attention: list[int] = field(default_factory=lambda: [4])  # levels that attend, 0 = full resolution
    latent_channels: int = 32
    norm_groups: int = 32
    vf: str = "dinov2_large"  # the vision network; or dinov2_base, dinov2_small, none
    vf_width: int = 0  # 0 = what `vf` names; the demo's network is smaller
    vf_depth: int = 0
    vf_heads: int = 0
    vf_input: str = "published"  # [-1, 1], as the projection was trained with; or imagenet
    fresh_projection: bool = False  # a random one: the file has none, or the vision network is not the published one
    lpips_widths: list[int] = field(default_factory=lambda: list(VGG16))
    critic_width: int = 64
    critic_layers: int = 3
    freeze_encoder_layers: int = 0  # the first levels of the encoder; the guide: 3 or 4 below 5000 images
    dit: str = "S"  # or B, L, XL: depth, width and heads of the stage dit's network
    dit_width: int = 0  # 0 = what `dit` names; the demo's network is smaller
    dit_depth: int = 0
    dit_heads: int = 0
    dit_patch: int = 1  # side of a token in latent positions
    dit_weights: str = "scratch"  # or published (XL, patch 1; the demo has its own), or a path of a file of that format
    dit_trains: str = "all"  # or table (class table, last layer; the trunk is frozen), lora (adapters in the trunk too)

    def __post_init__(self):
        one_of("model.vf", self.vf, (*VISIONS, "none"))
        one_of("model.vf_input", self.vf_input, ("published", "imagenet"))
        one_of("model.dit", self.dit, tuple(DITS))
        one_of("model.dit_trains", self.dit_trains, ("all", "table", "lora"))
        if self.dit_weights == "scratch" and self.dit_trains != "all":
            cause = f"model.dit_trains={self.dit_trains} freezes a trunk that nobody trained"
            raise Stop(f"{cause}: set model.dit_weights=published or a path")
        if self.dit_patch < 1 or self.latent_side % self.dit_patch:
            raise Stop(f"model.dit_patch={self.dit_patch} does not divide the latent's side, {self.latent_side}")
        if self.vf in ("dinov2_base", "dinov2_small") and not self.fresh_projection:
            cause = f"model.vf={self.vf} has other features than the published projection was trained for"
            raise Stop(f"{cause}: add model.fresh_projection=true")
        self.refuse_sizes()

    def refuse_sizes(self) -> None:
        side, least = f"model.image_px={self.image_px}", 3 * 2**self.critic_layers
        if self.image_px < self.downscale or self.image_px % self.downscale:
            raise Stop(f"{side} is not a multiple of {self.downscale}, the autoencoder's reduction")
        if self.image_px < least:
            raise Stop(f"{side} is too small for the critic's {self.critic_layers} layers: {least} at least")
        widths, levels = [self.channels * m for m in self.multipliers], len(self.multipliers)
        if self.norm_groups < 1 or any(width % self.norm_groups for width in widths):
            raise Stop(f"model.norm_groups={self.norm_groups} does not divide every width {widths}")
        if not 0 <= self.freeze_encoder_layers <= levels:
            frozen = f"model.freeze_encoder_layers={self.freeze_encoder_layers}"
            raise Stop(f"{frozen} is not between 0 and {levels}, the encoder's levels")

    @property
    def downscale(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    @property
    def latent_side(self) -> int:
        return self.image_px // self.downscale

    @property
    def autoencoder(self) -> AutoencoderSize:
        return AutoencoderSize(
            self.channels, tuple(self.multipliers), self.blocks, tuple(self.attention),
            self.latent_channels, self.latent_channels, self.norm_groups, self.image_px,
        )  # fmt: skip

    @property
    def vision_size(self) -> VisionSize:
        width, depth, heads = VISIONS.get(self.vf, (0, 0, 0))
        return VisionSize(
            self.vf_width or width, self.vf_depth or depth, self.vf_heads or heads,
            self.latent_side, self.vf_input == "imagenet",
        )  # fmt: skip

    def dit_size(self, labels: int) -> DiTSize:
        depth, width, heads = DITS[self.dit]
        return DiTSize(
            self.dit_depth or depth, self.dit_width or width, self.dit_heads or heads,
            self.latent_side, self.latent_channels, labels, self.dit_patch,
        )  # fmt: skip


@dataclass
class DataConfig:
    """One folder per user with images of any type or raw echoes (.npy, complex), and which recordings are held out."""

    root: str = ""  # holds one folder per user; empty: what step 2 brings
    users: list[str] = field(default_factory=list)  # empty: every folder
    recording_pattern: str = RECORDING  # searched in the file's name
    recordings_csv: str = ""  # beside the user folders: file,recording; goes before the pattern
    val_share: float = 0.2  # of each user's images, in whole recordings, or the last block in time where there are none
    gap_images: int = 4  # left out between the blocks where windows may overlap and recordings are unknown
    kind: str = "images"  # or iq
    prf_hz: float = 1600.0  # the rest is for raw echoes
    wavelength_m: float = 0.01249
    window_s: float = 0.14
    duration_s: float = 2.4
    stride_s: float = 0.6
    low_m_s: float = -1.5
    high_m_s: float = 5.0
    range_db: float = 38.0
    colours: str = "jet"
    stand_in: bool = False  # simulated walkers, unless data.root is given
    stand_in_users: int = 12
    stand_in_recordings: int = 12
    stand_in_windows: int = 4
    stand_in_difference: float = 0.5  # scale of what tells users apart
    stand_in_px: int = 256  # side of the images as simulated; step 3 reduces them to model.image_px like anybody's

    def __post_init__(self):
        one_of("data.kind", self.kind, ("images", "iq"))
        one_of("data.colours", self.colours, ("jet", "gray"))
        if not 0 < self.val_share < 1:
            raise Stop(f"data.val_share={self.val_share} is not between 0 and 1")
        at_least("data.gap_images", self.gap_images, 0)
        for name in ("stand_in_users", "stand_in_recordings", "stand_in_windows", "stand_in_px"):
            at_least(f"data.{name}", getattr(self, name), 1)
        self.refuse_pattern()

    def refuse_pattern(self) -> None:
        pattern = f"data.recording_pattern={self.recording_pattern!r}"
        try:
            groups = re.compile(self.recording_pattern).groupindex
        except re.error as error:
            raise Stop(f"{pattern} is not a regular expression: {error}") from error
        if self.recording_pattern and "recording" not in groups:
            raise Stop(f"{pattern} has no group named 'recording', e.g. (?P<recording>rec\\d+)")


@dataclass
class LossConfig:
    """Weights by the guide; where it is silent or wrong (critic start, KL) by the published configuration."""

    perceptual: float = 1.0
    kl: float = 1e-6
    critic: float = 0.5
    critic_kind: str = "hinge"  # or vanilla
    critic_drift: float = 1e-3  # times the mean square of its logits; the published code has 0
    critic_start_share: float = 0.17  # of the first stage (5 of 30 epochs); later stages have it from their first step
    critic_warmup_share: float = 0.03  # of a stage: a fresh critic learns alone for so long before it is listened to
    align_vf: float = 0.5  # share of the alignment's gradient at the encoder's last layer, by stage
    reconstruct_vf: float = 0.1
    margin_vf: float = 0.1
    adaptive_vf: bool = True  # false: the three numbers are plain factors, and the alignment is switched off in effect
    distance_weight: float = 1.0
    cosine_weight: float = 1.0
    distance_margin: float = 0.25  # in the stages margin and single
    cosine_margin: float = 0.5
    averaged: bool = False  # means over pixels instead of sums (the original's pp_style)
    fix_projection: bool = True  # the projection stands still in the stage margin, as in the published last stage
    velocity_cosine: float = 1.0  # stage dit: 1 - cosine of the velocities beside their squared error
    contrastive: float = 0.0  # stage dit: between users, on the tokens of the middle block; the guide: 0.3
    contrastive_temperature: float = 0.1

    def __post_init__(self):
        one_of("loss.critic_kind", self.critic_kind, ("hinge", "vanilla"))
        if self.contrastive_temperature <= 0:
            raise Stop(f"loss.contrastive_temperature={self.contrastive_temperature} is impossible: it must be above 0")
        for name in (
            "perceptual", "kl", "critic", "critic_drift", "align_vf", "reconstruct_vf", "margin_vf",
            "distance_weight", "cosine_weight", "velocity_cosine", "contrastive",
        ):  # fmt: skip
            at_least(f"loss.{name}", getattr(self, name), 0)


@dataclass
class DiTConfig:
    """Stage dit: its latents, and how spectrograms are sampled. What is free changes what is drawn, never what is
    trained.
    """

    latents: str = ""  # a latent folder that another run made; empty: made here, by the autoencoder of the stage before
    label_dropout: float = 0.1  # share of the samples that train the null row of the class table, for guidance
    method: str = scored("euler")  # or heun (two evaluations a step), dopri5 (adaptive)
    sampling_steps: int = scored(50)
    shift: float = scored(0.3)  # spends more steps near noise; 0 = evenly
    guidance: float = scored(3.0)  # on all channels; 1 = none
    guidance_start: float = scored(0.1)  # no guidance before this time (0 = noise, 1 = data)
    guidance_first3: bool = scored(False)  # the published sampler guides 3 channels of 32 and needs a scale of 7 to 10

    def __post_init__(self):
        one_of("dit.method", self.method, ("euler", "heun", "dopri5"))
        at_least("dit.sampling_steps", self.sampling_steps, 1)
        for name in ("label_dropout", "shift", "guidance_start"):
            if not 0 <= getattr(self, name) < 1:
                raise Stop(f"dit.{name}={getattr(self, name)} is not in [0, 1)")
        if self.guidance != 1 and not self.label_dropout:
            raise Stop(
                "dit.guidance subtracts the null row, which dit.label_dropout=0 leaves untrained: set dit.guidance=1"
            )


@dataclass
class LoraConfig(config.LoraConfig):
    """Adapters of the stage dit (model.dit_trains=lora)."""

    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: [r"blocks\..*\.(qkv|proj|w12|w3)"])


@dataclass
class TrainConfig(config.TrainConfig):
    """Adam (0.5, 0.9), fp32 in spirit: losses are always fp32. A floor that is not below the rate makes the rate
    constant.
    """

    stages: list[str] = field(default_factory=lambda: ["align", "reconstruct", "margin"])
    plan: str = "auto"  # by the untouched base's scores (decision.py): light (half of every stage) or deep
    epochs: int = 30  # of the first stage
    reconstruct_share: float = 0.5  # of `epochs`: 15
    margin_share: float = 1 / 3  # of `epochs`: 10
    dit_share: float = 10.0  # of `epochs`: 300
    lr: float = 1e-4
    reconstruct_lr_share: float = 0.5
    margin_lr_share: float = 0.2
    dit_lr_share: float = 2.0  # 2e-4, as published
    lr_floor: float = 1e-4
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    global_batch: int = 16
    micro_batch: int = 8
    clip: float = 0.5  # of the loss per pixel

    def __post_init__(self):
        super().__post_init__()
        one_of("train.plan", self.plan, ("auto", "light", "deep"))
        for stage in self.stages:
            one_of("train.stages", stage, STAGES)
        if not self.stages or len(set(self.stages)) != len(self.stages):
            raise Stop(f"train.stages={self.stages} must name at least one stage, each once")
        if "dit" in self.stages[:-1]:
            raise Stop("the stage dit needs the latents of a finished autoencoder: it must be the last of train.stages")


@dataclass
class EvalConfig(config.EvalConfig):
    inception: str = scored("")  # TorchScript file of the network of published FIDs (inception.py); empty: none


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    dit: DiTConfig = field(default_factory=DiTConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cache: config.CacheConfig = field(default_factory=config.CacheConfig)
    session: config.SessionConfig = field(default_factory=config.SessionConfig)

    def __post_init__(self):
        frozen = "decoder" in self.train.stages
        if frozen and set(self.train.stages) - {"decoder", "dit"}:
            raise Stop("the stage decoder trains other tensors than the rest, so it is alone: train.stages=[decoder]")
        if self.dit.latents and self.train.stages != ["dit"]:
            cause = "dit.latents belong to a finished autoencoder, which no stage of this run may train"
            raise Stop(f"{cause}: set train.stages=[dit]")
        if frozen and self.model.vf != "none":
            raise Stop("the stage decoder leaves the encoder as it is, so there is nothing to align: add model.vf=none")


# A generated set is scored as a whole: more selection samples, seldom. Averages: the published decay; lib warms it up.
DIT = {
    "train.stages": ["dit"], "train.epochs": 12, "train.dit_share": 16.0, "train.ema": 0.9999, "train.global_batch": 64,
    "train.micro_batch": 32, "train.evaluate_epochs": 4.0, "train.weight_decay": 0.01, "train.warmup_ratio": 0.02,
    "eval.select_samples": 64, "eval.batch": 32, "eval.figures": 24,
}  # fmt: skip

PRESETS = {
    "three_stages": {"train.stages": ["align", "reconstruct", "margin"]},
    "single_stage": {"train.stages": ["single"], "train.epochs": 50},
    "decoder_only": {"train.stages": ["decoder"], "model.vf": "none", "train.epochs": 20},
    "frozen_encoder": {
        "train.stages": ["single"], "train.epochs": 25, "train.lr": 1e-5, "train.lr_floor": 1e-5,
        "model.freeze_encoder_layers": 3, "loss.distance_weight": 0.5, "loss.cosine_weight": 0.5,
    },
    "dit_scratch_s": DIT | {"model.dit": "S"},
    "dit_frozen": DIT | {"model.dit": "XL", "model.dit_weights": "published", "model.dit_trains": "table"},
    "dit_lora": DIT | {"model.dit": "XL", "model.dit_weights": "published", "model.dit_trains": "lora"},
}  # fmt: skip

# The published structure with 1.1 million parameters, one level less (f8) and images of 64 px, on simulated walkers.
# The critic has one layer, so that it judges 30 x 30 patches of an image as the published one does. It has learnt for
# minutes where the published one learnt for days: at its weight of 0.5 it costs as much PSNR as the adaptation gains
# (+0.8 dB instead of +2.1), so it counts a fifth.
DEMO = {
    "model.weights": "demo", "model.image_px": 64, "model.channels": 16, "model.multipliers": [1, 2, 4, 4],
    "model.blocks": 1, "model.attention": [3], "model.norm_groups": 4,
    "model.vf_width": 96, "model.vf_depth": 4, "model.vf_heads": 4, "model.lpips_widths": [8, 16, 32, 48, 48],
    "model.critic_width": 16, "model.critic_layers": 1,
    "model.dit_width": 128, "model.dit_depth": 6, "model.dit_heads": 4,
    "data.stand_in": True, "data.stand_in_users": 6, "data.stand_in_recordings": 12, "data.stand_in_windows": 3,
    "data.stand_in_px": 128, "data.stand_in_difference": 0.7,
    "train.epochs": 8, "train.lr": 2.5e-4, "train.global_batch": 8, "train.micro_batch": 8, "loss.critic": 0.1,
    "train.dit_lr_share": 4.0,
}  # fmt: skip

# PIPELINE_SCALE=tiny: all five steps in 45 seconds.
TINY = {
    "model.image_px": 32, "data.stand_in_users": 3, "data.stand_in_recordings": 3, "data.stand_in_windows": 2,
    "train.epochs": 3, "train.global_batch": 4, "train.micro_batch": 4,
}  # fmt: skip

EXPECTED = {
    "three_stages": "held-out PSNR at least 2 dB above the untouched base, alignment cosine not below the base's",
    "single_stage": "the published one-stage recipe: PSNR near three_stages', margins from the start",
    "decoder_only": "PSNR above the base with the published latent space untouched; latents_stats.pt stays valid",
    "frozen_encoder": "the guide's second half: first levels frozen, learning rate 1e-5; a smaller gain, little risk",
    "dit_scratch_s": "generated spectrograms that a judge of real ones gives to the right user in 80 %, "
    "no collapse, no copies",
    "dit_frozen": "the published XL with a new class table and last layer: better than its base, below dit_lora",
    "dit_lora": "the published XL with adapters: the same marks as dit_scratch_s from fewer recordings",
}
