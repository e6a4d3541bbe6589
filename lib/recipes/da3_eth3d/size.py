"""The sizes of a Depth Anything 3 of the any-view series (Lin et al. 2025, arXiv 2511.10647); no torch here.

Nearly all of them stand in the shapes of the published tensors, so `size_of` reads them there: the hub's config.json
names Python objects to be called, and is never opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.core.errors import Stop
from lib.scenes.bounds import multiple, within

POSE_NUMBERS = 9  # translation 3, quaternion 4, field of view 2
TRUNK = "backbone.pretrained."  # what stands before the names of the backbone's tensors
RAY_LEVELS = 4  # of the ray chain's read-outs; the last one is used, the others are in the file and get no gradient


@dataclass
class ModelSize:
    """Widths in channels, depths in blocks. The defaults are BASE, with the published names where there are any."""

    img_size: int = 518  # side in px of the square that the table of positions was made for
    patch_size: int = 14  # side in px
    embed_dim: int = 768  # channels of a block
    depth: int = 12  # blocks
    num_heads: int = 12  # of attention in a block
    mlp_ratio: float = 4.0  # width of a block's MLP over embed_dim
    alt_start: int = 4  # from this block on every odd one attends over all views
    qknorm_start: int = 4  # from this block on queries and keys are normalised
    rope_start: int = 4  # from this block on positions are rotary too
    out_layers: list[int] = field(default_factory=lambda: [5, 7, 9, 11])  # the blocks that the heads read
    dpt_features: int = 128  # channels in which the dense head fuses its maps
    # Channels of its four maps.
    dpt_out_channels: list[int] = field(default_factory=lambda: [96, 192, 384, 768])
    dpt_output_hidden: int = 32  # channels before its last layer
    camera_encoder_depth: int = 4  # blocks of what encodes known cameras
    camera_encoder_heads: int = 16  # of attention in them

    def __post_init__(self) -> None:
        within("model.mlp_ratio", self.mlp_ratio, 1 / 16, 64)
        within("model.depth", self.depth, 1)
        within("model.dpt_output_hidden", self.dpt_output_hidden, 1)
        layers = list(self.out_layers)
        if len(layers) != 4 or sorted(set(layers)) != layers or not 0 <= layers[0] <= layers[-1] < self.depth:
            raise Stop(f"model.out_layers={layers}: the dense head reads four blocks, ascending in 0..{self.depth - 1}")
        if len(self.dpt_out_channels) != 4:
            raise Stop(f"model.dpt_out_channels={self.dpt_out_channels}: the dense head has four maps")
        for key in ("alt_start", "qknorm_start", "rope_start"):
            within(f"model.{key}", getattr(self, key), 1, self.depth - 1)
        within("model.camera_encoder_depth", self.camera_encoder_depth, 1)
        # RoPE splits a head into y and x, and each of these into pairs; UV embeddings have four equal parts.
        multiple("model.embed_dim", self.embed_dim, "4 x model.num_heads", 4 * self.num_heads)
        multiple("model.embed_dim", self.embed_dim, "model.camera_encoder_heads", self.camera_encoder_heads)
        multiple("model.img_size", self.img_size, "model.patch_size", self.patch_size)
        multiple("model.dpt_features", self.dpt_features, "8", 8)
        for channels in self.dpt_out_channels:
            multiple("model.dpt_out_channels", channels, "4", 4)

    @property
    def cells(self) -> int:
        """The side of the table of positions in patches."""
        return self.img_size // self.patch_size

    def crosses(self, block: int) -> bool:
        """Whether a block attends over the tokens of all views, and not inside each view."""
        return block >= self.alt_start and block % 2 == 1


BASE = ModelSize()
SMALL = ModelSize(embed_dim=384, num_heads=6, dpt_features=64, dpt_out_channels=[48, 96, 192, 384])
NAMES = {"depth-anything/DA3-SMALL": SMALL, "depth-anything/DA3-BASE": BASE}  # on the hub


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> ModelSize:
    """The size of a network with tensors of these names (without "model.") and shapes.

    What no shape tells is as in all published sizes: the blocks that are read are every second one up to the last,
    rotary positions begin with the norms of queries and keys, and so does attention over all views; the camera encoder
    has 16 heads. KeyError: a tensor that every such network has is absent.
    """
    width, _, patch, _ = shapes[f"{TRUNK}patch_embed.proj.weight"]
    depth = count(shapes, TRUNK + "blocks.{}.norm1.weight")
    normed = [index for index in range(depth) if f"{TRUNK}blocks.{index}.attn.q_norm.weight" in shapes]
    head_dim = shapes[f"{TRUNK}blocks.{normed[0]}.attn.q_norm.weight"][0] if normed else 64
    start = normed[0] if normed else depth - 1
    return ModelSize(
        img_size=round((shapes[f"{TRUNK}pos_embed"][1] - 1) ** 0.5) * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // head_dim,
        mlp_ratio=shapes[f"{TRUNK}blocks.0.mlp.fc1.weight"][0] / width,
        alt_start=start,
        qknorm_start=start,
        rope_start=start,
        out_layers=list(range(depth - 7, depth, 2)),
        dpt_features=shapes["head.scratch.layer1_rn.weight"][0],
        dpt_out_channels=[shapes[f"head.projects.{index}.weight"][0] for index in range(4)],
        dpt_output_hidden=shapes["head.scratch.output_conv2.0.weight"][0],
        camera_encoder_depth=count(shapes, "cam_enc.trunk.{}.norm1.weight"),
    )


def count(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    """How many of the numbers 0, 1, 2, ... stand in such a name."""
    found = 0
    while name.format(found) in shapes:
        found += 1
    return found
