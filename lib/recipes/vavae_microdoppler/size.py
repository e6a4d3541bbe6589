"""The sizes of the recipe's networks; the published ones are the defaults. No torch here: `--plan` reads them."""

from dataclasses import dataclass

# Name -> width, depth, heads
VISIONS = {"dinov2_large": (1024, 24, 16), "dinov2_base": (768, 12, 12), "dinov2_small": (384, 12, 6)}
DITS = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}  # depth, width, heads
VGG16 = (64, 128, 256, 512, 512)  # channels of the five parts


@dataclass(frozen=True)
class AutoencoderSize:
    """The published sizes (`f16d32`) are the defaults. `attention`: the levels that attend, 0 = full resolution."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2  # residual blocks of an encoder level; a decoder level has one more
    attention: tuple[int, ...] = (4,)
    encoder_channels: int = 32  # half of what the encoder's last convolution puts out
    latent_channels: int = 32
    norm_groups: int = 32
    image_px: int = 256

    @property
    def levels(self) -> int:
        return len(self.multipliers)

    @property
    def downscale(self) -> int:
        return 2 ** (self.levels - 1)


@dataclass(frozen=True)
class VisionSize:
    """DINOv2 ViT-L/14 by default; `grid` is the side of the latent, so that features and latents share positions."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    grid: int = 16
    imagenet: bool = False  # normalise the input as DINOv2 was trained, instead of as the projection was


@dataclass(frozen=True)
class DiTSize:
    """The options of the released XL/1 are the defaults."""

    depth: int = 28
    width: int = 1152
    heads: int = 16
    latent_side: int = 16
    latent_channels: int = 32
    labels: int = 31
    patch: int = 1
    mlp_ratio: float = 4.0
    swiglu: bool = True
    rope: bool = True
    rmsnorm: bool = True
    qk_norm: bool = False
    shift: bool = True  # without it the modulation only scales and gates

    @property
    def side(self) -> int:
        return self.latent_side // self.patch

    @property
    def hidden(self) -> int:
        """Width of the MLP; SwiGLU has three matrices, so two thirds give the same count."""
        return int(self.width * self.mlp_ratio * (2 / 3 if self.swiglu else 1))

    def tensors(self) -> list[str]:
        """The names of all that can be trained; a test compares them with the network."""
        linear = ["attn.qkv", "attn.proj", "mlp.w12", "mlp.w3", "adaLN_modulation.1"]
        block = [f"{name}.{kind}" for name in linear for kind in ("weight", "bias")]
        block += ["norm1.weight", "norm2.weight"]
        ends = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2"]
        ends += ["final_layer.linear", "final_layer.adaLN_modulation.1"]
        found = [f"{name}.{kind}" for name in ends for kind in ("weight", "bias")]
        found += ["y_embedder.embedding_table.weight", "final_layer.norm_final.weight"]
        return found + [f"blocks.{number}.{name}" for number in range(self.depth) for name in block]

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA on qkv, proj, w12, w3 and the modulation of every block: rank x (in + out) each."""
        w, h = self.width, self.hidden
        return self.depth * rank * (4 * w + 2 * w + (w + 2 * h) + (h + w) + (w + 6 * w))
