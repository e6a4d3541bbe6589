"""The configuration, the four presets, and the small demo. No heavy imports."""

from dataclasses import dataclass

from lib.core.config import to_dotted
from lib.core.errors import Stop
from lib.recipes.vggt_eth3d.sections import Settings
from lib.recipes.vggt_eth3d.size import DEMO_SIZE
from lib.scenes import demo


@dataclass
class Config(Settings):
    """The recipe's settings, checked against one another."""

    def __post_init__(self) -> None:
        from lib.recipes.vggt_eth3d import costs
        from lib.scenes import checks

        if self.model.base_precision == "bf16" and self.train.precision not in ("bf16", "fp16"):
            given = f"train.precision={self.train.precision}"
            raise Stop(f"model.base_precision=bf16 needs mixed precision, but {given}: add train.precision=bf16")
        checks.refuse_without_region(self)
        if self.loss.point_weight and not self.model.point_head:
            raise Stop(f"loss.point_weight={self.loss.point_weight} needs points: set model.point_head=true too")
        checks.refuse_uneven_batches(self)
        checks.refuse_long_stand_in(self)
        self.check_trained()
        checks.refuse_unkept_blocks(self, costs.frozen_blocks(self) or 0)

    def check_trained(self) -> None:
        """Stop: a regex that matches nothing, nothing that is trained, or a trained layer that is held in bf16."""
        from lib.recipes.vggt_eth3d import costs
        from lib.scenes import checks

        shapes = costs.tensors(self.model)
        checks.refuse_without_match("lora.targets", self.lora.targets, lambda one: costs.adapted(shapes, [one]))
        checks.refuse_without_match(
            "lora.full", self.lora.full, lambda one: costs.fully_trained(shapes, [one], costs.MODULE)
        )
        adapted = costs.adapted(shapes, costs.lora_targets(self))
        full = costs.fully_trained(shapes, costs.full_tensors(self), costs.MODULE)
        if not adapted and not full:
            raise Stop(f"lora.layers={self.lora.layers} are in no block of lora.strategy={self.lora.strategy}")
        if not self.loss.depth_weight and all(name.startswith("depth_head.") for name in adapted + full):
            raise Stop("loss.depth_weight=0 leaves nothing to learn: only the depth head is trained")
        held = [name for name in full if costs.in_autocast(name.rpartition(".")[0])]
        if held and self.model.base_precision == "bf16":
            raise Stop(
                f"model.base_precision=bf16 is for frozen layers, but lora.full trains {held[0].rpartition('.')[0]}",
                "set model.base_precision=fp32",
            )


# The guide's numbers: rank 16, alpha 32, dropout 0.1, learning rate 1e-4, weight decay 0.01, warm-up 10 %, 20 epochs.
GUIDE = {
    "lora.rank": 16,
    "lora.alpha": 32.0,
    "lora.dropout": 0.1,
    "train.lr": 1e-4,
    "train.weight_decay": 0.01,
    "train.warmup_ratio": 0.1,
    "train.epochs": 20,
    "loss.camera_weight": 2.0,
    "loss.depth_weight": 5.0,
}
PRESETS = {
    "strategy_b": GUIDE | {"lora.strategy": "b"},
    "strategy_a": GUIDE | {"lora.strategy": "a"},
    "strategy_c": GUIDE | {"lora.strategy": "c", "loss.camera_weight": 3.0},
    "head_full": GUIDE | {"lora.strategy": "head_full"},
}

# A network of 1.9 million parameters with every part of the large one, on procedural buildings.
DEMO = demo.DEMO | {f"model.{name}": value for name, value in to_dotted(DEMO_SIZE).items()}
TINY = demo.TINY

EXPECTED = {
    "strategy_a": "held-out depth error below the untouched base; only the depth head is adapted",
    "strategy_b": "held-out depth error clearly below the untouched base and below strategy a",
    "strategy_c": "depth error near strategy b's; cameras move too, more risk of overfitting",
    "head_full": "the control: the depth head trained fully, without adapters",
}
