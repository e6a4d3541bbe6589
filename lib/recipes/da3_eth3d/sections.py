"""Settings that this recipe adds to those of all scenes. No heavy imports."""

from dataclasses import dataclass, field, fields

from lib.core.config import one_of, scored
from lib.core.errors import Stop
from lib.recipes.da3_eth3d.size import NAMES, ModelSize
from lib.scenes import sections

# A network of 1.7 million parameters with every part of the large ones.
DEMO_SIZE = ModelSize(
    img_size=112,
    embed_dim=96,
    depth=10,
    num_heads=4,
    alt_start=2,
    qknorm_start=2,
    rope_start=2,
    out_layers=[3, 5, 7, 9],
    dpt_features=24,
    dpt_out_channels=[24, 32, 48, 48],
    camera_encoder_depth=1,
)


@dataclass
class ModelConfig(ModelSize, sections.NetworkConfig):
    """The network (sizes: size.py), its weights, and the size of its images: 504 x 336 is the 3:2 of ETH3D at the
    published width.
    """

    # Or depth-anything/DA3-SMALL, or your own: a file (.safetensors), or its folder.
    weights: str = "depth-anything/DA3-BASE"
    image_width_px: int = 504

    def __post_init__(self) -> None:
        for part in (ModelSize, sections.NetworkConfig):
            part.__post_init__(self)
        why = "it was trained from DINOv2 for 200 000 steps on 128 cards, and this recipe adapts what came out"
        sections.refuse_no_weights(self.weights, why, tuple(NAMES))
        self.check_variant()
        self.check_size()

    def check_variant(self) -> None:
        """Stop: a published variant that this recipe cannot adapt, before anything of it is fetched."""
        from lib.recipes.da3_eth3d.base import refuse_other_variant

        refuse_other_variant(self.weights)

    def check_size(self) -> None:
        """Stop: sizes that the named weights do not have."""
        size = DEMO_SIZE if self.weights == "demo" else NAMES.get(self.weights)
        other = [f.name for f in fields(ModelSize) if size and getattr(self, f.name) != getattr(size, f.name)]
        if other:
            given = ", ".join(f"model.{name}={getattr(self, name)}" for name in other)
            preset = "a preset of that size (base_b, small_b, …)"
            raise Stop(f"{given}: impossible with model.weights={self.weights}", f"leave it out, or take {preset}")


@dataclass
class DataConfig(sections.DataConfig):
    """Known cameras go into the network, in training and in scoring, or they do not."""

    # given: those of the COLMAP model, through the camera encoder, which the base was trained with in a fifth of its
    # samples; step 5 then reports the error without them too.
    poses: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.poses", self.poses, ("none", "given"))


@dataclass
class LossConfig(sections.LossConfig):
    """The paper gives its four terms the weight 1 (section 3.3); what it does not state is ours (losses.py)."""

    camera_weight: float = 1.0
    depth_weight: float = 1.0
    ray_weight: float = 0.0  # of the ray map's L1, at eight times the grid of patches
    confidence: str = "detached"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.camera_weight or self.depth_weight or self.ray_weight):
            raise Stop("loss.camera_weight, depth_weight and ray_weight are all 0: nothing would be learned")


@dataclass
class LoraConfig(sections.LoraConfig):
    """a: depth chain of the head; b: and the second half of the blocks; c: all blocks and the camera decoder;
    head_full: the depth chain without adapters.
    """

    ray: bool = False  # adapters on the ray chain too


@dataclass
class EvalConfig(sections.EvalConfig):
    cameras: str = scored("decoder")  # predicted cameras come from: decoder, or rays (slower, often more exact)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("eval.cameras", self.cameras, ("decoder", "rays"))


@dataclass
class Settings(sections.Settings):
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
