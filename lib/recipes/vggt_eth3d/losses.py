"""VGGT's training loss: that of scenes, over the camera head's iterations, and a term on points where there are any."""

from typing import Any

from torch import Tensor

from lib.recipes.vggt_eth3d.sections import LossConfig
from lib.scenes import geometry, losses


def objective(predicted: dict[str, Any], batch: dict[str, Any], loss: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """`lib.scenes.losses.objective` of what `VGGT.forward` returns."""

    def points(
        predicted: dict[str, Any], truth: geometry.Scene, batch: dict[str, Any], pixel_weight: Tensor | None
    ) -> list[losses.Term]:
        if "world_points" not in predicted or not loss.point_weight:
            return []
        given, confidence = predicted["world_points"], predicted["world_points_conf"]
        known = (truth.world_points, batch["valid"])
        found = losses.dense_loss(given, confidence, *known, loss, loss.point_gradient, pixel_weight)
        return [("point", loss.point_weight, found)]

    return losses.objective(predicted, batch, loss, points, loss.iteration_decay)
