"""The sizes of a VGGT. The defaults are the published 1B model (Wang et al. 2025, arXiv 2503.11651); no torch here."""

from dataclasses import dataclass, field

from lib.core.errors import Stop
from lib.scenes.bounds import multiple, within

SPECIAL_TOKENS = 1  # the camera token; the register tokens follow it
POSE_NUMBERS = 9  # translation 3, quaternion 4, field of view 2 (geometry.encode_cameras)


@dataclass
class ModelSize:
    """Widths in channels, depths in blocks; `depth` counts pairs of a frame block and a global block.

    The names are the published ones.
    """

    # Side in px of the square that the table of positions was made for; other grids are interpolated.
    img_size: int = 518
    patch_size: int = 14  # side in px
    embed_dim: int = 1024  # width of the tokens
    depth: int = 24  # pairs of a frame block and a global block
    num_heads: int = 16  # of attention in these blocks
    mlp_ratio: float = 4.0  # width of a block's MLP over embed_dim
    num_register_tokens: int = 4  # of each frame, behind its camera token
    qk_norm: bool = True  # normalise queries and keys
    rope_base: float = 100.0  # of the rotary positions
    # Start of the residual branches of the aggregator and the camera trunk; only for training from scratch.
    layer_scale: float = 0.01
    patch_embed_depth: int = 24  # blocks of the DINOv2 that makes the tokens
    patch_embed_num_heads: int = 16  # of attention in these blocks
    patch_embed_mlp_ratio: float = 4.0  # width of their MLP over embed_dim
    camera_trunk_depth: int = 4  # blocks of the camera head
    camera_num_heads: int = 16  # of attention in these blocks
    camera_mlp_ratio: float = 4.0  # width of their MLP over twice embed_dim
    camera_iterations: int = 4  # refinements of the cameras, each from the one before
    dpt_features: int = 256  # channels of the dense heads
    dpt_out_channels: list[int] = field(default_factory=lambda: [256, 512, 1024, 1024])  # channels of their four scales
    dpt_intermediate_layers: list[int] = field(default_factory=lambda: [4, 11, 17, 23])  # what the dense heads read
    dpt_output_hidden: int = 32  # channels before their last layer
    camera_head: bool = True  # predicts the cameras; this recipe needs it
    depth_head: bool = True  # predicts depth and its confidence; this recipe needs it
    point_head: bool = False  # depth and cameras give better points than the point head (the paper, table 3)

    def __post_init__(self) -> None:
        for key in (
            "patch_embed_depth",
            "depth",
            "camera_trunk_depth",
            "camera_iterations",
            "num_register_tokens",
            "dpt_output_hidden",
            "rope_base",
        ):
            within(f"model.{key}", getattr(self, key), 1)
        within("model.layer_scale", self.layer_scale, 0)
        for key in ("mlp_ratio", "patch_embed_mlp_ratio", "camera_mlp_ratio"):
            within(f"model.{key}", getattr(self, key), 1 / 16, 64)
        multiple("model.img_size", self.img_size, "model.patch_size", self.patch_size)
        # RoPE splits a head into y and x, and each of these into pairs; UV embeddings have four equal parts.
        multiple("model.embed_dim", self.embed_dim, "4 x model.num_heads", 4 * self.num_heads)
        multiple("model.embed_dim", self.embed_dim, "model.patch_embed_num_heads", self.patch_embed_num_heads)
        multiple("model.embed_dim x 2", 2 * self.embed_dim, "model.camera_num_heads", self.camera_num_heads)
        multiple("model.dpt_features", self.dpt_features, "8", 8)
        self.check_dense()

    def check_dense(self) -> None:
        layers, channels = list(self.dpt_intermediate_layers), list(self.dpt_out_channels)
        if len(layers) != 4 or len(channels) != 4:
            both = "model.dpt_out_channels and model.dpt_intermediate_layers"
            raise Stop(f"{both} need four numbers each: the DPT head reads four layers")
        if sorted(set(layers)) != layers or not 0 <= layers[0] <= layers[-1] < self.depth:
            rule = f"must ascend within 0..{self.depth - 1}, because model.depth={self.depth}"
            raise Stop(f"model.dpt_intermediate_layers={layers} {rule}")
        for count in channels:
            multiple("model.dpt_out_channels", count, "4", 4)

    @property
    def kept_layers(self) -> tuple[int, ...]:
        """The aggregator layers that some head reads; the others are never stored."""
        dense = self.dpt_intermediate_layers if self.depth_head or self.point_head else []
        return tuple(sorted({*dense, *([self.depth - 1] if self.camera_head else [])}))


# A network of 1.9 million parameters with every part of the large one.
DEMO_SIZE = ModelSize(
    img_size=112,
    embed_dim=96,
    depth=4,
    num_heads=4,
    patch_embed_depth=2,
    patch_embed_num_heads=4,
    camera_trunk_depth=1,
    camera_num_heads=4,
    dpt_features=24,
    dpt_out_channels=[24, 32, 48, 48],
    dpt_intermediate_layers=[0, 1, 2, 3],
)
