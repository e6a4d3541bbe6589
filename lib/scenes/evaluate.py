"""Scores of held-out sequences, their summary, and the console table in the guide's layout."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.core.records import Batch, Manifest, Metric, Row, Stage
from lib.core.words import change, counted
from lib.scenes import cameras, geometry, metrics, points, units
from lib.scenes.sections import Settings

# Labels of the printed table.
ERRORS = (("MAE", "mae"), ("RMSE", "rmse"), ("Abs Rel", "abs_rel"), ("Sq Rel", "sq_rel"))
POINT_MAP = "Point map after Umeyama"
SHARES = {
    "Threshold accuracy": (
        ("δ < 1.03", "delta_103"), ("δ < 1.10", "delta_110"),
        ("δ < 1.25", "delta_1"), ("δ < 1.25²", "delta_2"), ("δ < 1.25³", "delta_3"),
    ),
    "Cameras": (*((f"AUC@{limit}°", f"pose_auc_{limit}") for limit in cameras.AUC_DEG), ("FoV error °", "fov_error")),
    POINT_MAP: (("Accuracy", "accuracy"), ("Completeness", "completeness"), ("Chamfer", "chamfer")),
    "Confidence": (("AUSE", "ause"), ("Mean", "confidence")),
    "Region": (
        ("MAE inside", "mae_region"), ("MAE outside", "mae_outside"),
        ("Abs Rel in", "abs_rel_region"), ("Abs Rel out", "abs_rel_outside"),
    ),
}  # fmt: skip

# The high-resolution multi-view training scenes of ETH3D.
ETH3D_SCENES = {
    "courtyard", "delivery_area", "electro", "facade", "kicker", "meadow", "office", "pipes", "playground", "relief",
    "relief_2", "terrace", "terrains",
}  # fmt: skip


def measures(config: Settings, stage: Stage) -> dict[str, Metric]:
    """Depth under every alignment, cameras, points, confidence and region.

    The first is the MAE where it is in metres, else the error relative to the depth.
    """
    found = metrics.MEASURES | cameras.MEASURES | points.MEASURES | metrics.CONFIDENCE | metrics.REGION
    main = "mae" if units.in_metres(stage) else "abs_rel"
    return units.named({main: found[main]} | found, stage)


def are_published(manifest: Manifest) -> bool:
    """Whether what the base is asked about are scenes of ETH3D with dense depth, which published figures are about.

    SfM points lie where texture is, and an average over them is another number. Where no scene chooses the checkpoint,
    step 4 asks the base about scenes that train.
    """
    asked = [*(manifest.side("select") or manifest.side("train")), *manifest.side("test")]
    scenes = {record.sample_id.partition("/")[0] for record in asked}
    return scenes <= ETH3D_SCENES and all(record.columns["depth"] != "points" for record in asked)


def rows(stage: Stage, batch: Batch, predicted: dict[str, Any] | None) -> list[Row]:
    """One row per sequence: every metric that has a meaning for it, and the pictures of its first frame.

    predicted: as `row` takes it, batched. None: the trivial predictor, which says 1 everywhere. Aligned to the median,
    that is the best depth that knows nothing.
    """
    predicted = predicted or {"depth": torch.ones_like(batch["depths"])[..., None]}
    kept: Batch = {key: predicted[key].float() for key in ("depth", "depth_conf", "pose_enc") if key in predicted}
    with torch.autocast(batch["depths"].device.type, enabled=False):  # bf16 products would move points and cameras
        found = []
        for i in range(len(batch["depths"])):
            truth = sequence(batch, i)
            found.append(row(truth if units.in_metres(stage) else units.relative(truth), sequence(kept, i)))
        return found


def sequence(batch: Batch, i: int) -> dict[str, Any]:
    """Sequence `i` of a batch, without the batch axis."""
    return {key: value[i] for key, value in batch.items()}


def row(truth: dict[str, Any], predicted: dict[str, Tensor]) -> Row:
    """The scores of one sequence.

    truth: one sample without its batch axis, in the unit of the numbers; predicted: depth (s, h, w, 1), and as far as
    there are, depth_conf (s, h, w) and pose_enc (s, 9). Where it only chooses the checkpoint, clouds of points, which
    take more time than the network, are not compared.
    """
    depth, true_depth, valid = predicted["depth"][..., 0], truth["depths"], truth["valid"]
    numbers: dict[str, float] = {"frames": float(len(depth))}
    for alignment, suffix in metrics.SUFFIXES.items():
        found = metrics.sequence_numbers(depth, true_depth, valid, alignment)
        numbers |= {name + suffix: value for name, value in found.items() if name in metrics.DEPTH}
    aligned = metrics.align(depth, true_depth, valid, "scale")
    if "pose_enc" in predicted:
        numbers |= scene_numbers(truth, depth, predicted["pose_enc"], with_points="chooses" not in truth)
    if "depth_conf" in predicted:
        numbers |= metrics.confidence_numbers(aligned, true_depth, valid, predicted["depth_conf"])
    if "region" in truth:
        numbers |= metrics.region_numbers(aligned, true_depth, valid, truth["region"])
    pictures = {"image": truth["images"][0], "predicted": aligned[0], "truth": true_depth[0], "valid": valid[0]}
    arrays = {name: value.cpu().numpy() for name, value in pictures.items()}
    return Row(truth["sample_id"], truth["group"], numbers, arrays)


def scene_numbers(truth: dict[str, Any], depth: Tensor, code: Tensor, with_points: bool) -> dict[str, float]:
    """Metrics of pose codes (s, 9), and of the points that they give together with the depth (s, h, w)."""
    (height_px, width_px), valid = depth.shape[-2:], truth["valid"]
    found = cameras.camera_numbers(code, truth["extrinsics"], truth["intrinsics"], height_px, width_px)
    if not with_points:
        return found
    predicted = geometry.world_points_from_depth(depth, *geometry.decode_cameras(code, height_px, width_px))
    true_points = geometry.world_points_from_depth(truth["depths"], truth["extrinsics"], truth["intrinsics"])
    return found | points.point_numbers(predicted[valid], true_points[valid])


def summarise(config: Settings, stage: Stage, rows: list[Row]) -> dict[str, float]:
    """Means over the sequences for which a metric has a meaning; NaN where it has none for any."""
    names = [name for name in rows[0].numbers if name != "frames"]
    table = np.array([[row.numbers[name] for name in names] for row in rows])
    known = ~np.isnan(table)
    counts = known.sum(0)
    means = np.where(counts > 0, np.where(known, table, 0).sum(0) / np.maximum(counts, 1), np.nan)
    return dict(zip(names, means.tolist(), strict=True))


def describe(config: Settings, stage: Stage, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """What the guide's users know: mean ± std (median) per metric, for base and adapted side by side."""
    scored = f"{counted(scores['n_samples'], 'held-out sequence')} of {counted(scores['n_groups'], 'scene')}"
    metres, main = units.in_metres(stage), scores["main"]["metric"]
    lengths = "lengths in m" if metres else "lengths in median depths of a sequence, for no unit is known (data.unit)"
    errors = sorted(ERRORS, key=lambda error: error[1] != main)  # the main one first
    lines = [
        f"Depth metrics over {scored} (one scale per sequence; {lengths}):",
        f"  {'':<14}{'untouched base':<34}adapted",
        *(line(label, base, adapted, name, spread) for label, name in errors),
    ]
    for heading, table in SHARES.items():
        found = [line(label, base, adapted, name, mean) for label, name in table if name in base[0].numbers]
        unit = " (m)" if metres and heading == POINT_MAP else ""
        lines += [f"{heading}{unit}:", *found] if found else []
    label = next(label for label, name in errors if name == main)
    lines += [
        f"{label} by sequence length:",
        *by(lambda row: f"{row.numbers['frames']:.0f} frames", main, base, adapted),
    ]
    if scores["n_groups"] > 1:
        lines += [f"{label} by scene:", *by(lambda row: row.group, main, base, adapted)]
    return "\n".join([*lines, verdict(scores, label)])


def verdict(scores: dict[str, Any], label: str) -> str:
    """The main metric in one sentence, with the interval of its difference where there is one."""
    main = scores["metrics"][scores["main"]["metric"]]
    share = change(main["difference"], main["base"])
    adapted = f"adapted {main['adapted']:.4f}{f' ({share})' if share else ''}"
    said = f"base {main['base']:.4f}, {adapted}, median depth {main['trivial']:.4f}"
    if main["low"] is None or math.isnan(main["low"]):
        few = f"{counted(scores['n_groups'], 'scene')}, and sequences over the same photos are not independent samples"
        return f"Depth {label}: {said}: no verdict ({few})"
    interval = f"95 % interval of the difference [{main['low']:.4f}, {main['high']:.4f}]"
    return f"Depth {label}: {said}; {interval}, {scores['resampled']} resampled: {main['verdict'] or 'no verdict'}"


def line(label: str, base: list[Row], adapted: list[Row], name: str, number: Callable[[list[Row], str], str]) -> str:
    """One metric of both sides; `number` makes the text of some rows."""
    return f"  {label + ':':<14}" + " ".join(f"{number(rows, name):<33}" for rows in (base, adapted)).rstrip()


def by(kind: Callable[[Row], str], name: str, base: list[Row], adapted: list[Row]) -> list[str]:
    """A line of one metric for every kind of row."""
    found = []
    for one in dict.fromkeys(map(kind, base)):
        before, after = ([row for row in rows if kind(row) == one] for rows in (base, adapted))
        found.append(line(one, before, after, name, mean))
    return found


def spread(rows: list[Row], name: str) -> str:
    found = metrics.spread(row.numbers[name] for row in rows)
    return f"{found['mean']:.4f} ± {found['std']:.4f} (median: {found['median']:.4f})"


def mean(rows: list[Row], name: str) -> str:
    return f"{metrics.spread(row.numbers[name] for row in rows)['mean']:.4f}"
