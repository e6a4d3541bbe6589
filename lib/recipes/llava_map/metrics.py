"""Chamfer average precision of map vectors, by the protocol (and evaluation code) of VectorMapNet and MapTR.

A frame keeps its 50 best (query, class) pairs without a score threshold. Lines are compared on 100 points at equal
arc length, or on 200. A detection looks at its nearest ground truth of its class, whether that is taken or not; it is
true where the Chamfer distance is within the threshold and nobody with a higher score took that line before.
"""

from dataclasses import dataclass

import numpy as np

from lib.recipes.llava_map.classes import CLASSES
from lib.recipes.llava_map.polylines import resample

THRESHOLDS_M = (0.5, 1.0, 1.5)  # of the region of 60 x 30 m; config.REGIONS has those of others
COMPARED_POINTS = 100
GATE_M = 2.0  # lines whose strips of this half width do not touch are never compared
APART = -100.0  # their similarity
SHOWN_SCORE = 0.3  # of predictions in pictures; evaluation has no threshold


@dataclass
class Detections:
    """The detections of one class in some frames: score, and whether each is true at each threshold."""

    scores: np.ndarray  # (n,)
    hits: np.ndarray  # (n, thresholds) bool
    truths: int  # ground-truth lines of the class in these frames


def similarity(predicted: list[np.ndarray], truth: list[np.ndarray], points: int = COMPARED_POINTS) -> np.ndarray:
    """Minus the Chamfer distance in metres of every pair, APART where their strips do not touch.

    Lines (n, 2) in metres -> (predicted, truth) float64.
    """
    result = np.full((len(predicted), len(truth)), APART)
    if not predicted or not truth:
        return result
    ours = np.stack([resample(line, points) for line in predicted])
    theirs = np.stack([resample(line, points) for line in truth])
    rows, columns = touching(ours, theirs)
    if len(rows):
        result[rows, columns] = -chamfer_m(ours[rows], theirs[columns])
    return result


def touching(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index pairs of lines whose flat-ended strips of half width GATE_M meet. Both (lines, points, 2), metres."""
    import shapely

    strips = [
        shapely.buffer(shapely.linestrings(lines), GATE_M, cap_style="flat", join_style="mitre")
        for lines in (ours, theirs)
    ]
    columns, rows = shapely.STRtree(strips[0]).query(strips[1], predicate="intersects")
    return rows, columns


def chamfer_m(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Half the sum of the mean nearest distances in both directions; pairs (n, points, 2) in metres -> (n,)."""
    import torch

    with torch.autocast("cpu", enabled=False):  # scores are what they are, whatever the network is computed in
        distances = torch.cdist(torch.from_numpy(a), torch.from_numpy(b), compute_mode="donot_use_mm_for_euclid_dist")
        there_and_back = distances.amin(2).mean(1) + distances.amin(1).mean(1)
        return np.asarray((0.5 * there_and_back).numpy())


def hits(similarities: np.ndarray, scores: np.ndarray, thresholds_m: tuple[float, ...] = THRESHOLDS_M) -> np.ndarray:
    """Which detections of one frame and class are true, in input order: (detections, thresholds) bool.

    similarities (detections, truths) as `similarity` gives them, scores (detections,).
    """
    true = np.zeros((len(scores), len(thresholds_m)), bool)
    if not similarities.shape[1]:
        return true
    nearest, best = similarities.argmax(1), similarities.max(1)
    for column, threshold in enumerate(thresholds_m):
        taken: set[int] = set()
        for row in np.argsort(-scores, kind="stable"):
            if best[row] >= -threshold and nearest[row] not in taken:
                taken.add(nearest[row])
                true[row, column] = True
    return true


def average_precision(detections: Detections) -> np.ndarray:
    """Area under the monotone precision-recall curve (VOC, all points): (thresholds,); 0 without ground truth."""
    recall, precision = curve(detections)
    if not len(recall) or not detections.truths:
        return np.zeros(detections.hits.shape[1])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, axis=0, prepend=0.0)
    area: np.ndarray = np.sum(steps * envelope, axis=0)
    return area


def curve(detections: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection by falling score: two arrays (n, thresholds)."""
    order = np.argsort(-detections.scores, kind="stable")
    true = np.cumsum(detections.hits[order], axis=0)
    return true / max(detections.truths, 1), true / np.arange(1, len(order) + 1)[:, None]


def table(
    by_class: list[Detections], thresholds_m: tuple[float, ...] = THRESHOLDS_M, classes: tuple[str, ...] = CLASSES
) -> dict[str, float]:
    """AP by class and threshold, by class, and mAP over the classes, whether they occur or not."""
    rows = {name: average_precision(detections) for name, detections in zip(classes, by_class, strict=True)}
    result = {
        f"AP_{name}_{threshold}m": float(ap)
        for name, aps in rows.items()
        for threshold, ap in zip(thresholds_m, aps, strict=True)
    }
    result |= {f"AP_{name}": float(aps.mean()) for name, aps in rows.items()}
    return result | {"mAP": float(np.mean([aps.mean() for aps in rows.values()]))}


def best_pairs(logits: np.ndarray, points: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `keep` best (query, class) pairs of a frame: scores, labels and lines. A query may appear with two classes.

    logits (queries, classes) before the sigmoid, points (queries, points, 2) in any unit.
    """
    flat = logits.ravel()
    order = np.argsort(-flat, kind="stable")[:keep]
    return 1 / (1 + np.exp(-flat[order].astype(np.float64))), order % logits.shape[1], points[order // logits.shape[1]]
