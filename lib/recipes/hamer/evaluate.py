"""Scores of held-out hands with FreiHAND's definitions: proper alignment, and beside it the number that permits
reflections.
"""

from typing import Any

import numpy as np

from lib.core.records import Batch, Metric, Parts, Row, Stage
from lib.core.words import counted
from lib.recipes.hamer import metrics
from lib.recipes.hamer.config import Config

# Thresholds at which rows keep the share of right keypoints, for the curves of the report.
CURVE_MM = (5, 10, 15, 20, 25, 30, 35, 40, 45, 50)
CURVE_BOX = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def measure(unit: str, title: str, meaning: str, front: bool = False) -> Metric:
    """Errors in mm are better when they are small, shares when they are large."""
    return Metric(unit, lower_is_better=unit == "mm", title=title, meaning=meaning, front=front)


SOLID = {
    "pa_mpjpe_mm": measure("mm", "PA-MPJPE", "Mean joint error after the best rotation, scale and shift.", True),
    "pa_mpjpe_reflected_mm": measure("mm", "PA-MPJPE, mirrored too", "The same where a mirror image may be fitted."),
    "mpjpe_mm": measure("mm", "MPJPE", "Mean joint error with the wrists together.", True),
    "auc_joints": measure("", "AUC of joints", "Area under the share of joints within 0 to 50 mm, aligned.", True),
    "pa_mpvpe_mm": measure("mm", "PA-MPVPE", "Mean error of the mesh's vertices after the best alignment.", True),
    "f5": measure("", "F-score at 5 mm", "Share of both meshes that lies within 5 mm of the other.", True),
    "f15": measure("", "F-score at 15 mm", "Share of both meshes that lies within 15 mm of the other.", True),
    "auc_vertices": measure("", "AUC of vertices", "Area under the share of vertices within 0 to 50 mm, aligned."),
}
FLAT = {
    f"pck_{percent:02d}": measure(
        "",
        f"2D keypoints within {percent} %",
        f"Share of keypoints nearer to the label than {percent} % of the hand's box.",
        percent == 10,
    )
    for percent in (10, 5, 15)
}


def measures(config: Config, stage: Stage) -> dict[str, Metric]:
    """What held-out hands are scored by; the first is the main one."""
    return SOLID | FLAT if config.scores_3d else FLAT


def score_batch(config: Config, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
    """One row per hand, in fp32 whatever the network runs in.

    Without a network the answer is the mean hand of the training crops, which has keypoints only.
    """
    if parts is None:
        found = {"pred_keypoints_3d": batch["mean_3d"], "pred_keypoints_2d": batch["mean_2d"]}
    else:
        from lib.recipes.hamer.assemble import forward

        found = forward(config, parts, batch)
    predicted = {name: value.float().cpu().numpy() for name, value in found.items()}
    truth = {name: batch[name].cpu().numpy() for name in ("keypoints_2d", "keypoints_3d", "image", "vertices")}
    if parts is not None and truth["vertices"].all():
        truth["mesh"] = true_vertices(parts, batch)
    return [row(config, parts, batch, i, predicted, truth) for i in range(len(batch["sample_id"]))]


def true_vertices(parts: Parts, batch: Batch) -> np.ndarray:
    """(b, 778, 3) m, of the labelled pose and shape, in fp32: under autocast it would move by 0.06 to 0.27 mm."""
    import torch

    from lib.recipes.hamer.geometry import hand_rotations

    mano = parts.modules["hamer"].mano
    with torch.autocast(batch["pose"].device.type, enabled=False):
        return mano(*hand_rotations(batch["pose"].float()), batch["betas"].float())[0].cpu().numpy()


def row(
    config: Config,
    parts: Parts | None,
    batch: Batch,
    i: int,
    predicted: dict[str, np.ndarray],
    truth: dict[str, np.ndarray],
) -> Row:
    numbers = flat_numbers(predicted["pred_keypoints_2d"][i], truth["keypoints_2d"][i], 1 / config.data.box_factor)
    if config.scores_3d:
        numbers |= joint_numbers(predicted["pred_keypoints_3d"][i], truth["keypoints_3d"][i, :, :3])
    arrays = {
        "image": truth["image"][i],
        "true_2d": truth["keypoints_2d"][i],
        "predicted_2d": predicted["pred_keypoints_2d"][i],
    }
    if parts is not None:
        mano = parts.modules["hamer"].mano
        arrays |= {"vertices": predicted["pred_vertices"][i], "translation": predicted["pred_cam_t"][i]}
        arrays |= {"faces": mano.faces_tensor.cpu().numpy(), "stand_in": mano.stand_in}
    if "mesh" in truth:
        numbers |= mesh_numbers(predicted["pred_vertices"][i], truth["mesh"][i])
    return Row(batch["sample_id"][i], batch["group"][i], numbers, arrays)


def joint_numbers(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Scores of one hand's joints, (21, 3) m each."""
    predicted, truth = predicted[None], truth[None]
    errors = metrics.distances(metrics.align(predicted, truth), truth)
    reflected = metrics.distances(metrics.align(predicted, truth, reflections=True), truth)
    rooted = metrics.distances(predicted - predicted[:, :1], truth - truth[:, :1])
    numbers = {
        "pa_mpjpe_mm": 1000 * errors.mean(),
        "pa_mpjpe_reflected_mm": 1000 * reflected.mean(),
        "mpjpe_mm": 1000 * rooted.mean(),
    }
    numbers |= {"auc_joints": metrics.pck_curve(errors)[2]}
    numbers |= {f"within_{limit:02d}_mm": (1000 * errors <= limit).mean() for limit in CURVE_MM}
    return {name: float(value) for name, value in numbers.items()}


def mesh_numbers(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Scores of one hand's mesh, (778, 3) m each, aligned on the vertices themselves."""
    aligned = metrics.align(predicted[None], truth[None])
    errors = metrics.distances(aligned, truth[None])
    scores = metrics.f_score(aligned[0], truth, tuple(metrics.F_THRESHOLDS_M.values()))
    found = dict(zip(metrics.F_THRESHOLDS_M, map(float, scores), strict=True))
    return found | {"pa_mpvpe_mm": float(1000 * errors.mean()), "auc_vertices": metrics.pck_curve(errors)[2]}


def flat_numbers(predicted: np.ndarray, truth: np.ndarray, tight_side: float) -> dict[str, float]:
    """2D PCK of one hand: (21, 2), (21, 3) with confidence, the side of its box, all in fractions of the crop.

    NaN for a hand without confident 2D keypoints.
    """
    found = {}
    for threshold in CURVE_BOX:
        right = metrics.within(predicted[None], truth[None], np.array([tight_side]), threshold)
        found[f"pck_{100 * threshold:02.0f}"] = float(metrics.pck(right)) if not np.isnan(right).all() else float("nan")
    return found


def summarise(config: Config, stage: Stage, rows: list[Row]) -> dict[str, float]:
    """Means over the hands for which a metric has a meaning, NaN where it has none for any. Every hand has 21 keypoints
    in 3D, so the mean of their AUCs is FreiHAND's AUC.
    """
    names = [name for name in measures(config, stage) if name in rows[0].numbers]
    table = np.array([[row.numbers[name] for name in names] for row in rows])
    known = ~np.isnan(table)
    counts = known.sum(0)
    means = np.where(counts > 0, np.where(known, table, 0).sum(0) / np.maximum(counts, 1), np.nan)
    return {name: float(value) for name, value in zip(names, means, strict=True)}


def describe(config: Config, stage: Stage, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """A table of the metrics, and what a stand-in hand means for them; the verdict is said before."""
    hands, groups = counted(scores["n_samples"], "held-out hand"), counted(scores["n_groups"], "group")
    lines = [f"{hands} of {groups}", f"  {'':<24}{'base':>10}{'adapted':>10}{'mean hand':>11}"]
    for name, entry in scores["metrics"].items():
        trivial = "" if entry["trivial"] is None else f"{entry['trivial']:.3f}"
        lines.append(f"  {name:<24}{entry['base']:>10.3f}{entry['adapted']:>10.3f}{trivial:>11}")
    if config.model.mano == "stand_in":
        lines.append("Made with the stand-in hand, not MANO: these numbers cannot be compared with published ones.")
        if config.data.truth == "3d" and not config.scores_3d:
            lines.append(f"With it there are no 3D scores on {config.data.format}.")
    return "\n".join(lines)
