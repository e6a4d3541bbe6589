"""Settings of the recipe by section: what a person may override, each with its bounds. No heavy imports."""

from dataclasses import dataclass, field, fields

from lib.core.config import one_of
from lib.core.errors import Stop
from lib.recipes.vggt_eth3d.size import DEMO_SIZE, ModelSize
from lib.scenes import sections
from lib.scenes.bounds import within

# The published weights and their licences.
LICENCES = {
    "facebook/VGGT-1B": "VGGT licence, non-commercial",
    "facebook/VGGT-1B-Commercial": (
        "VGGT licence, commercial use allowed, not military (accept it on the model page first)"
    ),
}
# What a random start means to a person who asks for one.
FROM_SCRATCH = "VGGT was trained from random weights for 9 days on 64 cards, and this recipe adapts what came out"


@dataclass
class ModelConfig(ModelSize, sections.NetworkConfig):
    """The network (sizes: size.py), its weights, and the size of its images.

    518 x 336 is the 3:2 of ETH3D at the published width.
    """

    # Or facebook/VGGT-1B-Commercial, or your own: a file (.safetensors, .pt), or the folder that holds one.
    weights: str = "facebook/VGGT-1B"
    # bf16 holds the frozen linear layers of the aggregator, 78 % of the network, in half the memory.
    base_precision: str = "fp32"

    def __post_init__(self) -> None:
        ModelSize.__post_init__(self)
        sections.NetworkConfig.__post_init__(self)
        one_of("model.base_precision", self.base_precision, ("fp32", "bf16"))
        sections.refuse_no_weights(self.weights, FROM_SCRATCH, tuple(LICENCES))
        for head in ("camera_head", "depth_head"):
            if not getattr(self, head):
                raise Stop(f"model.{head}=false is impossible: depth and cameras are trained and scored")
        self.check_weights()

    def check_weights(self) -> None:
        """Stop: sizes that the named weights do not have; they would be found out after a download of 5 GB."""
        size = size_of(self.weights)
        other = [f.name for f in fields(ModelSize) if size and getattr(self, f.name) != getattr(size, f.name)]
        if other and (other != ["point_head"] or self.weights not in LICENCES):
            given = ", ".join(f"model.{name}={getattr(self, name)}" for name in other)
            own = f"whose {other[0]} is {getattr(size, other[0])}"
            cause = f"{given}: impossible with model.weights={self.weights}, {own}"
            pictures = "smaller pictures: set model.image_width_px and model.image_height_px (multiples of 14) instead"
            raise Stop(cause, pictures if other == ["img_size"] else "leave it out, or name weights of that size")


@dataclass
class LossConfig(sections.LossConfig):
    """The camera head's iterations and the point head have terms of their own."""

    point_weight: float = 0.0  # of the loss of the points; needs model.point_head
    iteration_decay: float = 0.6  # of the camera head's earlier iterations
    point_gradient: str = "normal"  # as depth_gradient, for points, which have normals too: normal, normal_conf

    def __post_init__(self) -> None:
        super().__post_init__()
        within("loss.iteration_decay", self.iteration_decay, 1e-6, 1)
        one_of("loss.point_gradient", self.point_gradient, ("", "grad", "grad_conf", "normal", "normal_conf"))
        if not (self.camera_weight or self.depth_weight or self.point_weight):
            raise Stop("loss.camera_weight, depth_weight and point_weight are all 0: nothing would be learned")


@dataclass
class Settings(sections.Settings):
    """All sections together; `Config` checks what they say of one another."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)


def size_of(weights: str) -> ModelSize | None:
    """The sizes of the weights that this recipe knows by name, None of a person's own."""
    return DEMO_SIZE if weights == "demo" else ModelSize() if weights in LICENCES else None
