"""FreiHAND's official evaluation (Zimmermann et al., ICCV 2019) and HInt's 2D PCK (HaMeR, CVPR 2024), in numpy, metres in and out."""
import numpy

F_THRESHOLDS_M = {"f5": 0.005, "f15": 0.015}
AUC_MAX_M, AUC_STEPS = 0.05, 100
PCK_THRESHOLDS = (0.05, 0.1, 0.15)  # of the tight box
PCK_CONFIDENCE = 0.5


def align(predicted: numpy.ndarray, truth: numpy.ndarray, reflections: bool = False) -> numpy.ndarray:
    """`predicted` (b, n, 3) after the best similarity (scale, rotation, translation) onto `truth`.

    FreiHAND's script permits reflections, so that a mirrored hand has error 0; `reflections=True` gives its number.
    """
    centre = truth.mean(1, keepdims=True, dtype=float)
    (p, _), (t, size) = unit(predicted), unit(truth)
    u, stretch, vt = numpy.linalg.svd(t.swapaxes(1, 2) @ p)
    if not reflections:
        sign = numpy.sign(numpy.linalg.det(u @ vt))
        u[..., -1] *= sign[:, None]
        stretch[:, -1] *= sign
    return p @ (u @ vt).swapaxes(1, 2) * stretch.sum(1)[:, None, None] * size + centre


def unit(points: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Points about their mean, divided by their size; the 1e-8 is the official script's."""
    centred = points - points.mean(1, keepdims=True, dtype=float)
    size = numpy.linalg.norm(centred, axis=(1, 2), keepdims=True) + 1e-8
    return centred / size, size


def distances(predicted: numpy.ndarray, truth: numpy.ndarray) -> numpy.ndarray:
    """Euclidean, (b, n)."""
    return numpy.linalg.norm(predicted.astype(float) - truth.astype(float), axis=-1)


def f_score(predicted: numpy.ndarray, truth: numpy.ndarray, thresholds_m: tuple[float, ...]) -> numpy.ndarray:
    """(n, 3), (m, 3) -> (thresholds,): harmonic mean of the shares of points that have a point of the other set nearer than that."""
    from scipy.spatial import cKDTree

    to_truth, to_predicted = cKDTree(truth).query(predicted)[0], cKDTree(predicted).query(truth)[0]
    limits = numpy.asarray(thresholds_m)[:, None]
    precision, recall = (to_truth < limits).mean(1), (to_predicted < limits).mean(1)
    return 2 * precision * recall / numpy.maximum(precision + recall, 1e-12)


def pck_curve(errors_m: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, float]:
    """errors (b, n) -> thresholds (100,) m, share of keypoints within them, area under that curve (0 ... 1)."""
    thresholds = numpy.linspace(0, AUC_MAX_M, AUC_STEPS)
    curve = (errors_m[..., None] <= thresholds).mean(0).mean(0)
    return thresholds, curve, float(numpy.trapezoid(curve, thresholds) / AUC_MAX_M)


def within(predicted: numpy.ndarray, truth: numpy.ndarray, tight_side: numpy.ndarray, threshold: float) -> numpy.ndarray:
    """2D: predicted (b, 21, 2), truth (b, 21, 3) with confidence, side (b,) in the same unit -> 1, 0 or NaN (not annotated), (b, 21)."""
    distance = numpy.linalg.norm(predicted - truth[..., :2], axis=-1)
    return numpy.where(truth[..., 2] > PCK_CONFIDENCE, distance <= threshold * tight_side[:, None], numpy.nan)


def pck(correct: numpy.ndarray) -> float:
    """Mean over images of each joint, then over joints; joints that are annotated nowhere do not count."""
    seen = ~numpy.isnan(correct)
    counted = seen.any(0)
    return float((numpy.nansum(correct[:, counted], 0) / seen[:, counted].sum(0)).mean())
