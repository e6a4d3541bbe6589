"""Point-map metrics: how far predicted points lie from the true surface after the best similarity, and true points from
the predicted ones.

Predicted points come from depth and camera, which the paper finds more accurate than the point head (its section 4.2).
"""

import torch
from torch import Tensor

from lib.core.records import Metric
from lib.scenes import geometry

MEASURES = {
    "accuracy": Metric("m", title="Point accuracy", meaning="Distance from a predicted point to the nearest true one."),
    "completeness": Metric(
        "m", title="Completeness", meaning="Distance from a true point to the nearest predicted one."
    ),
    "chamfer": Metric("m", title="Chamfer distance", meaning="Mean of accuracy and completeness.", front=True),
}
MOST_POINTS = 20_000  # evenly over the valid pixels: two searches then take a tenth of a second


def point_numbers(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """MEASURES in the unit of the truth (units.py), for points (n, 3) of the same pixels.

    NaN for fewer than 3 points, or where no similarity fits.
    accuracy: mean distance from a predicted point to the nearest true one; completeness: from a true point to the
    nearest predicted one; chamfer: their mean. The alignment (Umeyama 1991) uses the correspondence of pixels, the
    distances do not.
    """
    from scipy.spatial import KDTree

    every = -(-len(truth) // MOST_POINTS) or 1
    predicted, truth = (points[::every].double().cpu() for points in (predicted, truth))
    if len(truth) < 3 or not predicted.isfinite().all() or torch.equal(predicted, predicted[:1].expand_as(predicted)):
        return dict.fromkeys(MEASURES, torch.nan)
    scale, rotation, translation = geometry.umeyama(predicted, truth)
    aligned, true = (scale * predicted @ rotation.mT + translation).numpy(), truth.numpy()
    accuracy = float(KDTree(true).query(aligned)[0].mean())
    completeness = float(KDTree(aligned).query(true)[0].mean())
    return {"accuracy": accuracy, "completeness": completeness, "chamfer": (accuracy + completeness) / 2}
