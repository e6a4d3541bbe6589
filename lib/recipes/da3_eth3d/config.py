"""The presets of both sizes, and the small demo. No heavy imports."""

from dataclasses import dataclass
from typing import Any

from lib.core.config import to_dotted
from lib.core.errors import Stop
from lib.recipes.da3_eth3d.sections import DEMO_SIZE, Settings
from lib.recipes.da3_eth3d.size import NAMES
from lib.scenes import demo


@dataclass
class Config(Settings):
    """The recipe's settings, checked against one another."""

    def __post_init__(self) -> None:
        from lib.recipes.da3_eth3d import costs
        from lib.scenes import checks

        for check in (checks.refuse_without_region, checks.refuse_uneven_batches, checks.refuse_long_stand_in):
            check(self)
        self.check_trained()
        checks.refuse_unkept_blocks(self, costs.frozen_blocks(self))

    def check_trained(self) -> None:
        """Stop: a regex that matches nothing, nothing that is trained, or a chain that is trained without a loss."""
        from lib.recipes.da3_eth3d import costs
        from lib.scenes.checks import refuse_without_match

        shapes = costs.tensors(self.model)
        refuse_without_match("lora.targets", self.lora.targets, lambda one: costs.adapted(shapes, [one]))
        refuse_without_match("lora.full", self.lora.full, lambda one: costs.fully_trained(shapes, [one], costs.MODULE))
        trained = costs.trained_names(self)
        if not trained:
            raise Stop(f"lora.layers={self.lora.layers} are in no block of lora.strategy={self.lora.strategy}")
        if dead := next((name for name in trained if costs.is_dead(name)), None):
            raise Stop(
                f"{dead} would be trained, but no output is made of it, only of the ray chain's last level",
                "leave it out of lora.targets and lora.full (lora.ray=true names the right ones)",
            )
        if any(costs.is_of_rays(name) for name in trained) and not self.loss.ray_weight:
            raise Stop("the ray chain is trained, but loss.ray_weight=0: it would learn nothing", "loss.ray_weight=1")
        if (
            not self.loss.depth_weight
            and all(name.startswith("head.") for name in trained)
            and not self.loss.ray_weight
        ):
            raise Stop("loss.depth_weight=0 leaves nothing to learn: only the depth head is trained")


# Rank, dropout and schedule are the guide's for VGGT. The paper states no fine-tuning rate for these networks. Dropout
# before adapters of convolutions would keep a second copy of each full-size map: 4.1 GB instead of 3.4 in small_b with
# four views of 504 x 336, and a tenth of its time.
ALL = {
    "lora.rank": 16,
    "lora.alpha": 32.0,
    "lora.dropout": 0.1,
    "train.lr": 1e-4,
    "train.warmup_ratio": 0.1,
    "train.epochs": 20,
}


SMALL, BASE = NAMES


def preset(weights: str, strategy: str) -> dict[str, Any]:
    size = {f"model.{name}": value for name, value in to_dotted(NAMES[weights]).items()}
    return size | {"model.weights": weights, "lora.strategy": strategy} | ALL


PRESETS = {
    "base_b": preset(BASE, "b"),
    "base_a": preset(BASE, "a"),
    "base_c": preset(BASE, "c"),
    "small_a": preset(SMALL, "a"),
    "small_b": preset(SMALL, "b"),
    "small_c": preset(SMALL, "c"),
    "small_head_full": preset(SMALL, "head_full"),
}

DEMO = demo.DEMO | {f"model.{name}": value for name, value in to_dotted(DEMO_SIZE).items()}
TINY = demo.TINY

EXPECTED = {
    "base_b": "held-out depth error clearly below the untouched base",
    "base_a": "depth error below the base, less than b: only the depth head is adapted",
    "base_c": "depth error near b's; cameras move too, more risk of overfitting",
    "small_a": "as base_a, a quarter of its size and blurrier",
    "small_b": "as base_b, a quarter of its size and blurrier",
    "small_c": "as base_c, a quarter of its size and blurrier",
    "small_head_full": "the control: the depth side of the head trained fully, without adapters",
}
