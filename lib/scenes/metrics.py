"""Depth metrics (Eigen et al. 2014), the alignments that let a depth without a unit be scored, and its confidence.

Per frame over valid pixels, then the mean over the frames of a sequence. `scale` is the main alignment: one factor for
the whole sequence, so that frames which disagree about the scale are punished.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from lib.core.records import Metric

# Alignment -> what its metrics end in, and what their titles end in.
SUFFIXES = {"scale": "", "median": "_frame_median", "scale_shift": "_frame_line", "none": "_unaligned"}
ALIGNED = {"": "", "_frame_median": ", scale per frame", "_frame_line": ", line per frame", "_unaligned": ", unaligned"}
DELTAS = {"delta_1": 1.25, "delta_2": 1.25**2, "delta_3": 1.25**3, "delta_103": 1.03, "delta_110": 1.10}
DEPTH = {
    "mae": Metric("m", title="Mean error", meaning="Mean distance between predicted and true depth.", front=True),
    "rmse": Metric("m", title="RMSE", meaning="Root of the mean squared error: large errors count more.", front=True),
    "abs_rel": Metric(title="Relative error", meaning="Mean error as a share of the true depth.", front=True),
    "sq_rel": Metric("m", title="Squared relative error", meaning="Squared error over the true depth, mean."),
}
DEPTH |= {
    name: Metric(
        lower_is_better=False,
        title=f"δ < {limit:.4g}",
        meaning=f"Share of pixels whose depth is wrong by less than a factor of {limit:.4g}.",
        front=name in ("delta_103", "delta_1"),
    )
    for name, limit in DELTAS.items()
}
REGION = {
    f"{name}_{side}": replace(DEPTH[name], title=f"{DEPTH[name].title}, {where}", front=False)
    for side, where in {"region": "inside the region", "outside": "outside the region"}.items()
    for name in ("mae", "abs_rel")
}
# the mean confidence beside it has no better
CONFIDENCE = {"ause": Metric(title="AUSE", meaning="Does a low confidence mark a large error? 0 is a perfect order.")}
MEASURES = {
    name + suffix: replace(metric, title=metric.title + ALIGNED[suffix], front=metric.front and not suffix)
    for suffix in SUFFIXES.values()
    for name, metric in DEPTH.items()
}
EPS = 1e-6  # a median of 0 must not divide


def align(predicted: Tensor, truth: Tensor, valid: Tensor, alignment: str) -> Tensor:
    """Predicted depth (s, h, w) in the unit of the truth.

    alignment: scale, one ratio of medians for the sequence; median, one per frame; scale_shift, a line per frame by
    least squares, whose result may be negative, which counts in every error and never as an inlier; none, as it is.
    """
    if alignment == "none":
        return predicted
    if alignment == "scale":
        return predicted * ratio_of_medians(predicted, truth, valid)
    by_frame = {"median": by_median, "scale_shift": by_line}[alignment]
    return torch.stack([by_frame(*frame) for frame in zip(predicted, truth, valid, strict=True)])


def ratio_of_medians(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """What to multiply the prediction by, as a scalar tensor; medians are the lower middle value, NaN without a valid
    pixel.
    """
    return truth[valid].median() / (predicted[valid].median() + EPS) if valid.any() else predicted.new_tensor(torch.nan)


def by_median(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """A frame (h, w) with the median of the truth."""
    return predicted * ratio_of_medians(predicted, truth, valid)


def by_line(predicted: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """A frame (h, w) on its least-squares line; a constant prediction becomes the mean of the truth.

    In float64: the sums cancel.
    """
    p, t = predicted[valid].double(), truth[valid].double()
    variance = (p - p.mean()).square().sum()
    slope = torch.where(variance > 0, ((p - p.mean()) * (t - t.mean())).sum() / variance, 0)
    return (slope * (predicted - p.mean()) + t.mean()).to(predicted.dtype)


def depth_numbers(predicted: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float]:
    """DEPTH and `negative_share` over the valid pixels of any shape; all NaN where there is none.

    mae, rmse and sq_rel have the unit of the truth, the others none. DELTAS: share with max(p / t, t / p) below the
    limit and p > 0.
    """
    p, t = predicted[valid].double(), truth[valid].double()
    error = (p - t).abs()
    ratio = torch.where(p > 0, torch.maximum(p / t, t / p), torch.inf)
    numbers = {
        "mae": error.mean(),
        "rmse": error.square().mean().sqrt(),
        "abs_rel": (error / t).mean(),
        "sq_rel": (error.square() / t).mean(),
        **{name: (ratio < limit).double().mean() for name, limit in DELTAS.items()},
        "negative_share": (p <= 0).double().mean(),
    }
    return {name: number.item() for name, number in numbers.items()}


def sequence_numbers(predicted: Tensor, truth: Tensor, valid: Tensor, alignment: str) -> dict[str, float]:
    """`depth_numbers` of a sequence (s, h, w): aligned, per frame, then the mean over the frames with valid pixels."""
    return frame_means(align(predicted, truth, valid, alignment), truth, valid)


def frame_means(aligned: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float]:
    """`sequence_numbers` of a prediction (s, h, w) that is aligned already."""
    frames = [depth_numbers(aligned[i], truth[i], valid[i]) for i in range(len(truth)) if valid[i].any()]
    return {name: mean_of([frame[name] for frame in frames]) for name in (*DEPTH, "negative_share")}


def mean_of(numbers: list[float]) -> float:
    """NaN of none. Unlike `spread` it leaves no frame out: one that a network fails on has to count against it."""
    return torch.tensor(numbers, dtype=torch.float64).mean().item()


def region_numbers(aligned: Tensor, truth: Tensor, valid: Tensor, region: Tensor) -> dict[str, float]:
    """REGION: errors inside and outside of a region (s, h, w), under the alignment of the whole sequence."""
    sides = {"region": valid & region, "outside": valid & ~region}
    means = {side: frame_means(aligned, truth, pixels) for side, pixels in sides.items()}
    found = {f"{name}_{side}": mean for side, numbers in means.items() for name, mean in numbers.items()}
    return {name: found[name] for name in REGION}


def confidence_numbers(aligned: Tensor, truth: Tensor, valid: Tensor, confidence: Tensor) -> dict[str, float]:
    """Does a low confidence mark a large error? `ause` and the mean `confidence` over the valid pixels (s, h, w).

    Area under the sparsification error (Ilg et al. 2018): pixels are taken away one by one, the least confident first,
    and what is left has a mean error; the same with the largest error first is the best there is. ause is the mean
    difference of the two curves over the error of all pixels: 0 is a perfect order.
    """
    error, confidence = (aligned - truth).abs()[valid].double(), confidence[valid].double()
    if not len(error):
        return dict.fromkeys(("ause", "confidence"), torch.nan)
    trusted, best = error[confidence.argsort(descending=True, stable=True)], error.sort().values
    counts = torch.arange(1, len(error) + 1, device=error.device)
    gap = ((trusted.cumsum(0) - best.cumsum(0)) / counts).mean() / error.mean().clamp(min=EPS)
    return {"ause": gap.item(), "confidence": confidence.mean().item()}


def spread(numbers: Iterable[float]) -> dict[str, float]:
    """Mean, population standard deviation and median of the finite numbers; NaN where there is none."""
    values = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values):
        return dict.fromkeys(("mean", "std", "median"), torch.nan)
    return {"mean": values.mean().item(), "std": values.std(correction=0).item(), "median": values.quantile(0.5).item()}
