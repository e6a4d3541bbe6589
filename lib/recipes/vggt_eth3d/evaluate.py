"""Scores of held-out sequences, their summary, and the console table in the guide's layout."""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lib.recipes import Manifest, Parts, Row
from lib.recipes.vggt_eth3d import SUFFIXES, cameras, geometry, metrics, points
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.sources import LICENCES

ERRORS = (("MAE", "mae"), ("RMSE", "rmse"), ("Abs Rel", "abs_rel"), ("Sq Rel", "sq_rel"))
SHARES = {
    "Threshold accuracy": (
        ("δ < 1.03", "delta_103"), ("δ < 1.10", "delta_110"), ("δ < 1.25", "delta_1"), ("δ < 1.25²", "delta_2"), ("δ < 1.25³", "delta_3"),
    ),
    "Cameras": (*((f"AUC@{limit}°", f"pose_auc_{limit}") for limit in cameras.AUC_DEG), ("FoV error °", "fov_error")),
    "Point map after Umeyama (m)": (("Accuracy", "accuracy"), ("Completeness", "completeness"), ("Chamfer", "chamfer")),
    "Confidence": (("AUSE", "ause"), ("Mean", "confidence")),
    "Region": (
        ("MAE inside", "mae_region"), ("MAE outside", "mae_outside"), ("Abs Rel in", "abs_rel_region"), ("Abs Rel out", "abs_rel_outside"),
    ),
}  # fmt: skip

# The high-resolution multi-view training scenes of ETH3D, on which the published base has AbsRel 0.036 in its authors' table.
ETH3D_SCENES = {
    "courtyard", "delivery_area", "electro", "facade", "kicker", "meadow", "office", "pipes", "playground", "relief", "relief_2",
    "terrace", "terrains",
}  # fmt: skip
PUBLISHED_ABS_REL = 0.08  # a random depth head has 0.43


def base_limits(cfg: Config, manifest: Manifest) -> dict[str, float]:
    """Known for published weights on ETH3D scenes with dense depth; SfM points lie where texture is, which is another average."""
    held_out = manifest.side("val")
    scenes = {record.sample_id.partition("/")[0] for record in held_out}
    dense = all(record.columns["depth"] != "points" for record in held_out)
    published = cfg.model.weights in LICENCES and scenes <= ETH3D_SCENES and dense
    return {"abs_rel": PUBLISHED_ABS_REL} if published else {}


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    """One row per sequence: every metric that has a meaning for it, and the pictures of its first frame."""
    from lib.recipes.vggt_eth3d import assemble

    if parts is None:
        predicted = {"depth": torch.ones_like(batch["depths"])[..., None]}  # aligned to the median: the best depth that knows nothing
    else:
        predicted = assemble.forward(cfg, parts, batch)
    kept = {key: predicted[key].float() for key in ("depth", "depth_conf", "pose_enc") if key in predicted}
    with torch.autocast(batch["depths"].device.type, enabled=False):  # a matrix product in bf16 would move points and cameras
        return [row(sequence(batch, i), sequence(kept, i)) for i in range(len(batch["depths"]))]


def sequence(batch: dict[str, Any], i: int) -> dict[str, Any]:
    return {key: value[i] for key, value in batch.items()}


def row(truth: dict[str, Any], predicted: dict[str, Tensor]) -> Row:
    """truth: one sample without its batch axis; predicted: depth (s, h, w, 1), and as far as there are depth_conf, pose_enc (s, 9)."""
    depth, true_depth, valid = predicted["depth"][..., 0], truth["depths"], truth["valid"]
    numbers: dict[str, float] = {"frames": float(len(depth))}
    for alignment, suffix in SUFFIXES.items():
        found = metrics.sequence_numbers(depth, true_depth, valid, alignment)
        numbers |= {name + suffix: value for name, value in found.items() if name in metrics.METRICS}
    aligned = metrics.align(depth, true_depth, valid, "scale")
    if "pose_enc" in predicted:
        numbers |= scene_numbers(truth, depth, predicted["pose_enc"])
    if "depth_conf" in predicted:
        numbers |= metrics.confidence_numbers(aligned, true_depth, valid, predicted["depth_conf"])
    if "region" in truth:
        numbers |= metrics.region_numbers(aligned, true_depth, valid, truth["region"])
    pictures = {"image": truth["images"][0], "predicted": aligned[0], "truth": true_depth[0], "valid": valid[0]}
    return Row(truth["sample_id"], truth["group"], numbers, {name: value.cpu().numpy() for name, value in pictures.items()})


def scene_numbers(truth: dict[str, Any], depth: Tensor, code: Tensor) -> dict[str, float]:
    """Cameras, and the points that depth and camera give together."""
    size, valid = depth.shape[-2:], truth["valid"]
    found = cameras.camera_numbers(code, truth["extrinsics"], truth["intrinsics"], *size)
    predicted = geometry.world_points_from_depth(depth, *geometry.decode_cameras(code, *size))
    true_points = geometry.world_points_from_depth(truth["depths"], truth["extrinsics"], truth["intrinsics"])
    return found | points.point_numbers(predicted[valid], true_points[valid])


def summarise(rows: list[Row]) -> dict[str, float]:
    """Means over the sequences for which a metric has a meaning; NaN where it has none for any."""
    import numpy

    names = [name for name in rows[0].numbers if name != "frames"]
    table = numpy.array([[row.numbers[name] for name in names] for row in rows])
    known = ~numpy.isnan(table)
    counts = known.sum(0)
    means = numpy.where(known, table, 0).sum(0) / numpy.maximum(counts, 1)
    return dict(zip(names, (float(mean) if count else float("nan") for mean, count in zip(means, counts, strict=True)), strict=True))


def describe(scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """What the guide's users know: mean ± std (median) per metric, for base and adapted side by side."""
    title = f"Depth metrics over {scores['n_samples']} held-out sequences of {scores['n_groups']} scenes (one scale per sequence):"
    lines = [title, f"  {'':<14}{'untouched base':<34}adapted", *(line(label, base, adapted, name, spread) for label, name in ERRORS)]
    for heading, table in SHARES.items():
        found = [line(label, base, adapted, name, mean) for label, name in table if name in base[0].numbers]
        lines += [f"{heading}:", *found] if found else []
    lines += ["MAE by sequence length:", *by(lambda row: f"{row.numbers['frames']:.0f} frames", base, adapted)]
    if scores["n_groups"] > 1:
        lines += ["MAE by scene:", *by(lambda row: row.group, base, adapted)]
    main = scores["metrics"][scores["main"]["metric"]]
    change = 100 * main["difference"] / main["base"]
    lines.append(
        f"Depth MAE: base {main['base']:.4f}, adapted {main['adapted']:.4f} ({change:+.1f} %), median depth {main['trivial']:.4f}; "
        f"95 % interval of the difference [{main['low']:.4f}, {main['high']:.4f}], {scores['resampled']} resampled: "
        f"{main['verdict'] or 'no verdict'}"
    )
    return "\n".join(lines)


def line(label: str, base: list[Row], adapted: list[Row], name: str, number: Callable[[list[Row], str], str]) -> str:
    return f"  {label + ':':<14}" + "".join(f"{number(rows, name):<34}" for rows in (base, adapted)).rstrip()


def by(kind: Callable[[Row], str], base: list[Row], adapted: list[Row]) -> list[str]:
    """A line of the main error for every kind of row."""
    kinds = dict.fromkeys(map(kind, base))
    return [line(one, *([row for row in rows if kind(row) == one] for rows in (base, adapted)), "mae", mean) for one in kinds]


def spread(rows: list[Row], name: str) -> str:
    found = metrics.spread(row.numbers[name] for row in rows)
    return f"{found['mean']:.4f} ± {found['std']:.4f} (median: {found['median']:.4f})"


def mean(rows: list[Row], name: str) -> str:
    return f"{metrics.spread(row.numbers[name] for row in rows)['mean']:.4f}"
