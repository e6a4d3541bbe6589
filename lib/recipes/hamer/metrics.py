"""FreiHAND's official evaluation (Zimmermann et al., ICCV 2019) and HInt's 2D PCK (HaMeR, CVPR 2024).

In numpy, metres in and out.
"""

import numpy as np

F_THRESHOLDS_M = {"f5": 0.005, "f15": 0.015}
AUC_MAX_M, AUC_STEPS = 0.05, 100
PCK_CONFIDENCE = 0.5


def align(predicted: np.ndarray, truth: np.ndarray, reflections: bool = False) -> np.ndarray:
    """`predicted` (b, n, 3) after the best similarity (scale, rotation, translation) onto `truth` (b, n, 3).

    FreiHAND's script permits reflections, so that a mirrored hand has error 0; `reflections=True` gives its number.
    """
    centre = truth.mean(1, keepdims=True, dtype=float)
    (p, _), (t, size) = unit(predicted), unit(truth)
    u, stretch, vt = np.linalg.svd(t.swapaxes(1, 2) @ p)
    if not reflections:
        sign = np.sign(np.linalg.det(u @ vt))
        u[..., -1] *= sign[:, None]
        stretch[:, -1] *= sign
    return p @ (u @ vt).swapaxes(1, 2) * stretch.sum(1)[:, None, None] * size + centre


def unit(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (b, n, 3) about their mean, divided by their size (b, 1, 1); the 1e-8 is the official script's."""
    centred = points - points.mean(1, keepdims=True, dtype=float)
    size = np.linalg.norm(centred, axis=(1, 2), keepdims=True) + 1e-8
    return centred / size, size


def distances(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Euclidean: (b, n, d), (b, n, d) -> (b, n), in the unit of both."""
    return np.linalg.norm(predicted.astype(float) - truth.astype(float), axis=-1)


def f_score(predicted: np.ndarray, truth: np.ndarray, thresholds_m: tuple[float, ...]) -> np.ndarray:
    """Harmonic mean of the shares of points that have a point of the other set nearer than a threshold.

    (n, 3) m, (m, 3) m -> one value per threshold, 0 … 1.
    """
    from scipy.spatial import cKDTree

    to_truth, to_predicted = cKDTree(truth).query(predicted)[0], cKDTree(predicted).query(truth)[0]
    limits = np.asarray(thresholds_m)[:, None]
    precision, recall = (to_truth < limits).mean(1), (to_predicted < limits).mean(1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def pck_curve(errors_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """errors (b, n) m -> thresholds (100,) m, share of keypoints within them, area under that curve (0 … 1)."""
    thresholds = np.linspace(0, AUC_MAX_M, AUC_STEPS)
    curve = (errors_m[..., None] <= thresholds).mean(0).mean(0)
    return thresholds, curve, float(np.trapezoid(curve, thresholds) / AUC_MAX_M)


def within(predicted: np.ndarray, truth: np.ndarray, tight_side: np.ndarray, threshold: float) -> np.ndarray:
    """Is a 2D keypoint within `threshold` box sides of the truth? 1, 0 or NaN (not annotated), (b, 21).

    predicted (b, 21, 2), truth (b, 21, 3) with confidence, tight_side (b,): all in the same unit.
    """
    distance = np.linalg.norm(predicted - truth[..., :2], axis=-1)
    return np.where(truth[..., 2] > PCK_CONFIDENCE, distance <= threshold * tight_side[:, None], np.nan)


def pck(correct: np.ndarray) -> float:
    """The mean over images of each joint in `correct` (b, 21), then over joints.

    Joints that are annotated nowhere do not count.
    """
    seen = ~np.isnan(correct)
    counted = seen.any(0)
    return float((np.nansum(correct[:, counted], 0) / seen[:, counted].sum(0)).mean())
