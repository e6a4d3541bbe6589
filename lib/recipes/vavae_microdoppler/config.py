"""Settings of the recipe: what a person may override, and what is impossible. No heavy imports."""

from dataclasses import dataclass, field

from lib.core import config
from lib.core.config import measured, one_of, refuse_bad_pattern, scored
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.bounds import refuse_outside
from lib.recipes.vavae_microdoppler.networks_config import LoraConfig, ModelConfig

STAGES = ("align", "reconstruct", "margin", "single", "decoder", "dit")
TRANSFORM_PULSES = 1024  # of radar.Spectrogram


@dataclass
class DataConfig:
    """One folder per user with images of any type or raw echoes (.npy, complex), and which recordings are held out."""

    root: str = ""  # holds one folder per user; empty: what step 2 brings
    layout: str = (
        "auto"  # asks where folders look like no users; users: <root>/<user>/..., nested: <root>/any/<user>/...
    )
    users: list[str] = field(default_factory=list)  # empty: every folder
    recording_pattern: str = "auto"  # recordings.py knows the usual words; or a regular expression, or "" for none
    recordings_csv: str = ""  # in the root: file,recording; goes before the pattern
    split: str = ""  # somebody's split as JSON, see given_split.py: what it holds out is held out; empty: our own
    val_share: float = 0.2  # of each user's images, in whole recordings, or the last block in time where there are none
    gap_images: int = 4  # left out between the blocks where windows may overlap and recordings are unknown
    kind: str = "images"  # or iq: raw echoes, or arrays: spectrograms as real numbers, kept in 16 bit
    variable: str = ""  # of files with several arrays: its name
    values: str = measured("db")  # of kind=arrays; or power, amplitude
    array_layout: str = measured("velocity_time")  # of kind=arrays; or time_velocity
    low_first: bool = measured(False)  # of kind=arrays: the first row is the lowest velocity
    iq_layout: str = "auto"  # the longest axis is time; or range_time, time_range, interleaved (echoes.py)
    range_bins: list[int] = field(default_factory=list)  # first and last that count; empty: all
    prf_hz: float = measured(1600.0)  # the rest is for raw echoes
    wavelength_m: float = measured(0.01249)  # of the radar; 24 GHz
    window_s: float = measured(0.14)  # of the short-time transform
    duration_s: float = measured(2.4)  # of a spectrogram
    hop_s: float = measured(0.0)  # between columns; 0 = duration_s / model.image_px, else an image lasts image_px hops
    notch_m_s: float = measured(0.0)  # half width of what is left out around zero Doppler
    stride_s: float = measured(0.6)  # between the starts of two spectrograms of a recording
    low_m_s: float = measured(-1.5)  # velocity at the lower edge of a spectrogram
    high_m_s: float = measured(5.0)  # velocity at the upper edge
    range_db: float = measured(38.0)  # from black to the strongest echo
    colours: str = measured("jet")  # of spectrograms that are made from raw echoes
    stand_in: bool = False  # simulated walkers, unless data.root is given
    stand_in_users: int = 12  # of the simulated walkers
    stand_in_recordings: int = 12  # of each simulated walker
    stand_in_windows: int = 4  # spectrograms of each simulated recording
    stand_in_difference: float = 0.5  # scale of what tells users apart
    stand_in_px: int = 256  # side of the images as simulated; step 3 reduces them to model.image_px like anybody's

    def __post_init__(self):
        refuse_outside("data", self)
        one_of("data.kind", self.kind, ("images", "iq", "arrays"))
        one_of("data.values", self.values, ("db", "power", "amplitude"))
        one_of("data.array_layout", self.array_layout, ("velocity_time", "time_velocity"))
        one_of("data.iq_layout", self.iq_layout, ("auto", "range_time", "time_range", "interleaved"))
        if self.range_bins and (len(self.range_bins) != 2 or self.range_bins[0] > self.range_bins[1]):
            raise Stop(f"data.range_bins={self.range_bins} must be the first and the last one, e.g. [10,14]")
        one_of("data.layout", self.layout, ("auto", "users", "nested"))
        one_of("data.colours", self.colours, ("jet", "gray"))
        if len(set(self.users)) != len(self.users) or "" in self.users:
            raise Stop(f"data.users={self.users} must name folders, each once")
        self.refuse_pattern()
        self.refuse_spectrogram()

    def refuse_pattern(self) -> None:
        pattern = self.recording_pattern
        if pattern not in ("", "auto"):
            groups = refuse_bad_pattern("data.recording_pattern", pattern).groupindex
            if "recording" not in groups:
                cause = f"data.recording_pattern={pattern!r} has no group named 'recording'"
                raise Stop(f"{cause}, e.g. (?P<recording>rec\\d+)")

    def refuse_spectrogram(self) -> None:
        """Of raw echoes: Doppler shifts that differ by the pulse rate are one, so velocities fold."""
        span_m_s, limit_m_s = self.high_m_s - self.low_m_s, self.wavelength_m * self.prf_hz / 2
        if span_m_s <= 0:
            raise Stop(f"data.high_m_s={self.high_m_s} is not above data.low_m_s={self.low_m_s}")
        if self.kind == "iq" and span_m_s > limit_m_s:
            cause = (
                f"data.high_m_s - data.low_m_s spans {span_m_s:g} m/s, but velocities fold after {limit_m_s:.2f} m/s"
            )
            raise Stop(f"{cause} at data.prf_hz={self.prf_hz:g}")
        if self.kind == "iq" and self.window_s * self.prf_hz > TRANSFORM_PULSES:
            pulses = f"data.window_s={self.window_s} has {self.window_s * self.prf_hz:.0f} pulses"
            raise Stop(f"{pulses}, more than the {TRANSFORM_PULSES} of the transform")


@dataclass
class LossConfig:
    """Weights by the guide; where it is silent or wrong (critic start, KL) by the published configuration."""

    perceptual: float = 1.0  # weight of LPIPS
    kl: float = 1e-6  # weight of the KL divergence of the latents
    critic: float = 0.5  # weight of the critic's opinion, against the reconstruction's gradient
    critic_kind: str = "hinge"  # or vanilla
    critic_drift: float = 1e-3  # times the mean square of its logits; the published code has 0
    critic_start_share: float = 0.17  # of the first stage (5 of 30 epochs); later stages have it from their first step
    critic_warmup_share: float = 0.03  # of a stage: a fresh critic learns alone for so long before it is listened to
    align_vf: float = 0.5  # share of the alignment's gradient at the encoder's last layer, by stage
    reconstruct_vf: float = 0.1  # as align_vf, in the stage reconstruct
    margin_vf: float = 0.1  # as align_vf, in the stage margin
    adaptive_vf: bool = True  # false: the three numbers are plain factors, and the alignment is switched off in effect
    distance_weight: float = 1.0  # of the distances between positions, within the alignment
    cosine_weight: float = 1.0  # of the cosine to the vision features, within the alignment
    distance_margin: float = 0.25  # in the stages margin and single
    cosine_margin: float = 0.5  # as distance_margin, of the cosine
    averaged: bool = False  # means over pixels instead of sums (the original's pp_style)
    fix_projection: bool = True  # the projection stands still in the stage margin, as in the published last stage
    velocity_cosine: float = 1.0  # stage dit: 1 - cosine of the velocities beside their squared error
    contrastive: float = 0.0  # stage dit: between users, on the tokens of the middle block; the guide: 0.3
    contrastive_temperature: float = 0.1  # of that loss: lower separates harder

    def __post_init__(self):
        refuse_outside("loss", self)
        one_of("loss.critic_kind", self.critic_kind, ("hinge", "vanilla"))


@dataclass
class DiTConfig:
    """Stage dit: its latents, and how spectrograms are sampled. What is free changes what is drawn, never what is
    trained.
    """

    latents: str = measured("")  # a folder that another run made; empty: made here, after the autoencoder's stages
    label_dropout: float = 0.1  # share of the samples that train the null row of the class table, for guidance
    method: str = scored("euler")  # or heun (two evaluations a step), dopri5 (adaptive)
    sampling_steps: int = scored(50)  # of the sampler, from noise to a spectrogram
    shift: float = scored(0.3)  # spends more steps near noise; 0 = evenly
    guidance: float = scored(3.0)  # on all channels; 1 = none
    guidance_start: float = scored(0.1)  # no guidance before this time (0 = noise, 1 = data)
    guidance_first3: bool = scored(False)  # the published sampler guides 3 channels of 32 and needs a scale of 7 to 10

    def __post_init__(self):
        refuse_outside("dit", self)
        one_of("dit.method", self.method, ("euler", "heun", "dopri5"))
        if self.guidance != 1 and not self.label_dropout:
            raise Stop(
                "dit.guidance subtracts the null row, which dit.label_dropout=0 leaves untrained: set dit.guidance=1"
            )


@dataclass
class TrainConfig(config.TrainConfig):
    """Adam (0.5, 0.9), fp32 in spirit: losses are always fp32. A floor that is not below the rate makes the rate
    constant.
    """

    stages: list[str] = field(default_factory=lambda: ["align", "reconstruct", "margin"])  # in this order
    plan: str = "auto"  # by the untouched base's scores (decision.py): light (half of every stage) or deep
    epochs: int = 30  # of the first stage
    reconstruct_share: float = 0.5  # of `epochs`: 15
    margin_share: float = 1 / 3  # of `epochs`: 10
    dit_share: float = 10.0  # of `epochs`: 300
    lr: float = 1e-4
    reconstruct_lr_share: float = 0.5  # of `lr`, in the stage reconstruct
    margin_lr_share: float = 0.2  # of `lr`, in the stage margin
    dit_lr_share: float = 2.0  # 2e-4, as published
    min_lr_ratio: float = 1.0  # constant, as published
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    global_batch: int = 16
    micro_batch: int = 8
    clip: float = 0.5  # of the loss per pixel

    def __post_init__(self):
        super().__post_init__()
        refuse_outside("train", self)
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
    utility: bool = scored(True)  # stage dit: do generated images help a classifier? Minutes; dit/utility.py


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
        self.refuse_untrained()
        if "dit" in self.train.stages:
            self.model.refuse_other_dit()
            self.lora.refuse_without_match(self.model.dit_size(labels=1))
        elif self.lora.full:
            raise Stop("lora.full opens tensors of the stage dit, which is not in train.stages: leave it out")

    def refuse_untrained(self) -> None:
        """From scratch, every tensor of the autoencoder is trained by this run."""
        if self.model.weights != "scratch":
            return
        if "decoder" in self.train.stages or self.train.stages == ["dit"]:
            cause = f"model.weights=scratch leaves a random encoder in train.stages={self.train.stages}"
            raise Stop(f"{cause}: train the whole autoencoder first, train.stages=[align,reconstruct,margin]")
        if self.model.freeze_encoder_layers:
            layers = f"model.freeze_encoder_layers={self.model.freeze_encoder_layers}"
            raise Stop(f"{layers} keeps random layers as they are (model.weights=scratch): set it to 0")
