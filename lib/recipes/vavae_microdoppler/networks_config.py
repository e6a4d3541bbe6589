"""Settings of the networks: their sizes, where their weights come from, what of them is trained. No heavy imports."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from lib.core import config
from lib.core.config import measured, one_of, refuse_bad_pattern
from lib.core.errors import Stop, nearest
from lib.recipes.vavae_microdoppler.bounds import refuse_outside
from lib.recipes.vavae_microdoppler.presets import DEMO
from lib.recipes.vavae_microdoppler.size import DITS, VGG16, VISIONS, AutoencoderSize, DiTSize, VisionSize

PUBLISHED = "hustvl/vavae-imagenet256-f16d32-dinov2"
PUBLISHED_DIT = "hustvl/lightningdit-xl-imagenet256-64ep"
WEIGHT_TYPES = (".safetensors", ".pt", ".pth", ".ckpt")
# What a file of weights fixes: of a whole VA-VAE, of the two networks that a start from scratch takes from it.
OF_TEACHERS = ("vf_width", "vf_depth", "vf_heads", "lpips_widths")
OF_FILE = (
    *OF_TEACHERS, "channels", "multipliers", "blocks", "attention", "latent_channels", "norm_groups", "critic_width",
    "critic_layers",
)  # fmt: skip
OF_DIT = {"dit": "XL", "dit_width": 0, "dit_depth": 0, "dit_heads": 0, "dit_patch": 1, "latent_channels": 32}


@dataclass
class ModelConfig:
    """The networks and their weights.

    `weights`: the published repository, a path to a file like its (or to a folder), "demo", or "scratch": random
    weights, and only the frozen vision network and LPIPS come from `teachers`.
    """

    # The published repository, a path to a file like its (or to a folder), demo, or scratch (random weights).
    weights: str = PUBLISHED
    teachers: str = PUBLISHED  # of weights=scratch: a repository, path or "demo", as for `weights`
    image_px: int = measured(256)  # side of the spectrograms; step 3 resizes them to it
    channels: int = 128  # width of the first level of the autoencoder
    multipliers: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])  # of `channels`; each level halves the side
    blocks: int = 2  # residual blocks of each level
    attention: list[int] = field(default_factory=lambda: [4])  # levels that attend, 0 = full resolution
    latent_channels: int = 32  # of the latent: 32 in f16d32
    norm_groups: int = 32  # of the group norms
    vf: str = "dinov2_large"  # the vision network; or dinov2_base, dinov2_small, none
    vf_width: int = 0  # 0 = what `vf` names; the demo's network is smaller
    vf_depth: int = 0  # blocks of it; 0 = what `vf` names
    vf_heads: int = 0  # of attention in it; 0 = what `vf` names
    vf_input: str = "published"  # [-1, 1], as the projection was trained with; or imagenet
    fresh_projection: bool = False  # a random one: the file has none, or the vision network is not the published one
    # Channels of the five stages of the perceptual network.
    lpips_widths: list[int] = field(default_factory=lambda: list(VGG16))
    critic_width: int = 64  # channels of the first layer of the patch critic
    critic_layers: int = 3  # of the patch critic; more judge larger patches
    freeze_encoder_layers: int = 0  # the first levels of the encoder; strategy.py: 3 or 4 below 5000 images
    dit: str = "S"  # or B, L, XL: depth, width and heads of the stage dit's network
    dit_width: int = 0  # 0 = what `dit` names; the demo's network is smaller
    dit_depth: int = 0  # blocks of it; 0 = what `dit` names
    dit_heads: int = 0  # of attention in it; 0 = what `dit` names
    dit_patch: int = 1  # side of a token in latent positions
    dit_weights: str = "scratch"  # or published (XL, patch 1; the demo has its own), or a path of a file of that format
    # or table (class table, modulations, last layer; attention and MLPs are frozen), lora (adapters)
    dit_trains: str = "all"

    def __post_init__(self):
        refuse_outside("model", self)
        one_of("model.vf", self.vf, (*VISIONS, "none"))
        one_of("model.vf_input", self.vf_input, ("published", "imagenet"))
        one_of("model.dit", self.dit, tuple(DITS))
        one_of("model.dit_trains", self.dit_trains, ("all", "table", "lora"))
        refuse_no_place("model.weights", self.weights, (PUBLISHED, "demo", "scratch"))
        refuse_no_place("model.teachers", self.teachers, (PUBLISHED, "demo"))
        refuse_no_place("model.dit_weights", self.dit_weights, ("published", "scratch"))
        if self.dit_weights == "scratch" and self.dit_trains != "all":
            cause = f"model.dit_trains={self.dit_trains} freezes a trunk that nobody trained"
            raise Stop(f"{cause}: set model.dit_weights=published or a path")
        if self.vf in ("dinov2_base", "dinov2_small") and not self.fresh_projection and self.weights != "scratch":
            cause = f"model.vf={self.vf} has other features than the published projection was trained for"
            raise Stop(f"{cause}: add model.fresh_projection=true")
        self.refuse_sizes()
        self.refuse_dit_sizes()
        self.refuse_other_than_the_files()

    def refuse_sizes(self) -> None:
        side, least = f"model.image_px={self.image_px}", 3 * 2**self.critic_layers
        if self.image_px < self.downscale or self.image_px % self.downscale:
            raise Stop(f"{side} is not a multiple of {self.downscale}, the autoencoder's reduction")
        if self.image_px < least:
            raise Stop(f"{side} is too small for the critic's {self.critic_layers} layers: {least} at least")
        widths, levels = [self.channels * m for m in self.multipliers], len(self.multipliers)
        if any(width % self.norm_groups for width in widths):
            raise Stop(f"model.norm_groups={self.norm_groups} does not divide every width {widths}")
        if self.freeze_encoder_layers > levels:
            frozen = f"model.freeze_encoder_layers={self.freeze_encoder_layers}"
            raise Stop(f"{frozen} is not between 0 and {levels}, the encoder's levels")
        if not levels or any(level >= levels for level in self.attention):
            raise Stop(f"model.attention={self.attention} names a level that model.multipliers does not have")
        if len(self.lpips_widths) != len(VGG16):
            raise Stop(f"model.lpips_widths={self.lpips_widths} must name {len(VGG16)} widths")
        vision = self.vision_size
        if self.vf != "none" and vision.width % vision.heads:
            raise Stop(f"model.vf_heads={vision.heads} does not divide model.vf_width={vision.width}")

    def refuse_dit_sizes(self) -> None:
        """Rotary positions turn pairs of channels, for the row and for the column: four channels of a head at least."""
        if self.latent_side % self.dit_patch:
            raise Stop(f"model.dit_patch={self.dit_patch} does not divide the latent's side, {self.latent_side}")
        size = self.dit_size(labels=1)
        if size.width % (4 * size.heads):
            cause = f"model.dit_heads={size.heads} and model.dit_width={size.width} do not fit"
            raise Stop(f"{cause}: the width must be a multiple of 4 x heads = {4 * size.heads}")

    def refuse_other_than_the_files(self) -> None:
        """Before 2 or 10 GB are fetched: a size that the file named by `weights` does not have."""
        source, names = (self.weights, OF_FILE) if self.weights != "scratch" else (self.teachers, OF_TEACHERS)
        if source in (PUBLISHED, "demo"):
            refuse_other_size(self, source, {name: size_in(source, name) for name in names})

    def refuse_other_dit(self) -> None:
        """The same for the network of the stage dit."""
        if self.dit_weights == "published":
            small = {name: DEMO[f"model.{name}"] for name in ("dit_width", "dit_depth", "dit_heads")}
            refuse_other_size(self, self.dit_weights, small | {"dit_patch": 1} if self.is_demo else OF_DIT)

    @property
    def source(self) -> str:
        """Where the file of the base comes from, of which a start from scratch takes the frozen networks."""
        return self.teachers if self.weights == "scratch" else self.weights

    @property
    def is_demo(self) -> bool:
        return self.source == "demo"

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


def refuse_no_place(key: str, value: str, known: tuple[str, ...]) -> None:
    """Stop: neither one of the known words nor a path. An empty path would be the current folder."""
    path_like = "/" in value or "\\" in value or value.endswith(WEIGHT_TYPES)
    if value not in known and not path_like:
        cause = f"{key}={value!r} is neither a path (write ./{value or 'NAME'} for a folder here) nor a known word"
        raise Stop(f"{cause}: {nearest(value, known)}")


def size_in(source: str, name: str) -> Any:
    """A size of the networks in the published file, which is the default, or in the demo's."""
    if source == "demo" and f"model.{name}" in DEMO:
        return DEMO[f"model.{name}"]
    stated = ModelConfig.__dataclass_fields__[name]
    return stated.default if stated.default_factory is dataclasses.MISSING else stated.default_factory()


def refuse_other_size(model: ModelConfig, source: str, wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if getattr(model, name) != value:
            has = f"model.{name}={getattr(model, name)} does not fit the weights {source}, which have {value}"
            raise Stop(f"{has}: leave it out, or name other weights (for the small demo's: --demo)")


@dataclass
class LoraConfig(config.LoraConfig):
    """Adapters of the stage dit (model.dit_trains=lora)."""

    dropout: float = 0.0
    # Regexes over names of the diffusion network's layers.
    targets: list[str] = field(default_factory=lambda: [r"blocks\..*\.(qkv|proj|w12|w3|adaLN_modulation\.1)"])

    def __post_init__(self):
        super().__post_init__()
        if not self.targets:
            raise Stop("lora.targets is empty: adapters need a layer", "leave it out, or set model.dit_trains=table")
        for pattern in self.targets:
            refuse_bad_pattern("lora.targets", pattern)

    def refuse_without_match(self, size: DiTSize) -> None:
        """Stop: an expression that matches no layer (targets) or no tensor (full) of the network of the stage dit."""
        tensors = size.tensors()
        layers = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight") and "norm" not in name}
        known = ", ".join(sorted({re.sub(r"\.\d+\.", ".N.", name) for name in layers}))
        for key, patterns, names in (
            ("lora.targets", self.targets, layers),
            ("lora.full", self.full, {f"dit.{name}" for name in tensors}),
        ):
            for pattern in patterns:
                if not any(re.fullmatch(pattern, name) for name in names):
                    raise Stop(f"{key}={pattern!r} matches nothing of the stage dit; its layers: {known}")
