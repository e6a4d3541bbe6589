"""Golden kinds of the map recipe; the numbers come from MapTR, mmdet and the nuScenes devkit (golden README)."""

import numpy as np
import torch

from lib.recipes.llava_map import layout, losses, metrics, polylines
from lib.recipes.llava_map.polylines import FAR_M
from tests.golden import Case, Distance, Tolerance, Waiver
from tests.golden_map_frames import frame_key, gt_extraction, transforms


def attention_mask(case: Case) -> dict:
    found = {}
    for size in case.config["cases"]:
        tokens = layout.Layout(size["prefix"], size["instances"], size["points"])
        allowed = tokens.allowed()
        block = tokens.position_ids() - size["prefix"]
        found |= {
            f"{size['name']}.allowed": allowed,
            f"{size['name']}.density": allowed.double().mean(),
            f"{size['name']}.relative_position_id_inside_block": torch.where(
                torch.arange(len(block)) < size["prefix"], -1, block
            ),
        }
    return found


def chamfer_ap(case: Case) -> dict:
    thresholds = tuple(case.config["thresholds_m"])
    frames = [
        match_frame(*pair, case.config["classes"], thresholds)
        for pair in zip(case.inputs["predictions"], case.inputs["ground_truth"], strict=True)
    ]
    found = {}
    for number, classes in enumerate(frames):
        for name, (similarities, _, true, _) in classes.items():
            key = f"{frame_key(case, number)}.{name}"
            found[f"{key}.similarity"] = similarities
            found |= {f"{key}.tp_at_{threshold}": true[:, i] for i, threshold in enumerate(thresholds)}
    merged = [merge([classes[name] for classes in frames], len(thresholds)) for name in case.config["classes"]]
    return found | tables(case, merged, thresholds)


def match_frame(prediction: dict, truth: dict, classes: list[str], thresholds: tuple[float, ...]) -> dict:
    found = {}
    for name in classes:
        ours = [v for v in prediction["vectors"] if v["cls_name"] == name and len(v["pts"]) > 1]
        theirs = [np.array(v["pts"]) for v in truth["vectors"] if v["cls_name"] == name]
        scores = np.array([v["confidence_level"] for v in ours])
        similarities = metrics.similarity([np.array(v["pts"]) for v in ours], theirs)
        found[name] = similarities, scores, metrics.hits(similarities, scores, thresholds), len(theirs)
    return found


def merge(rows: list, thresholds: int) -> metrics.Detections:
    scores = np.concatenate([row[1] for row in rows])
    return metrics.Detections(
        scores, np.concatenate([row[2] for row in rows]).reshape(-1, thresholds), sum(row[3] for row in rows)
    )


def tables(case: Case, merged: list, thresholds: tuple[float, ...]) -> dict:
    names = case.config["classes"]
    aps = {name: metrics.average_precision(detections) for name, detections in zip(names, merged, strict=True)}
    found = {"map_table.mAP": np.mean([ap.mean() for ap in aps.values()])}
    for name, detections in zip(names, merged, strict=True):
        found[f"map_table.{name}_AP"] = aps[name].mean()
        for i, threshold in enumerate(thresholds):
            key = f"per_threshold.{threshold}.classes.{name}"
            true = int(detections.hits[:, i].sum())
            recall = true / max(detections.truths, 1) if len(detections.scores) else float("nan")
            found |= {
                f"map_table.{name}_AP_thr_{threshold}": aps[name][i],
                f"{key}.ap": aps[name][i],
                f"{key}.tp_total": true,
            }
            found |= {
                f"{key}.num_gts": detections.truths,
                f"{key}.num_dets": len(detections.scores),
                f"{key}.final_recall": recall,
            }
    seen = [name for name, detections in zip(names, merged, strict=True) if detections.truths]
    found |= {
        f"per_threshold.{t}.mean_over_classes_with_gt": np.mean([aps[n][i] for n in seen])
        for i, t in enumerate(thresholds)
    }
    return found | ranges(case, found)


def ranges(case: Case, found: dict) -> dict:
    """Where the order inside a tie is open, a class's AP, and what follows from it, may be anywhere in a range."""
    spans = {
        key.split(".")[1]: (low, case.expected[key[:-1] + "1"])
        for key, low in case.expected.items()
        if key.startswith("acceptable_range.") and key.endswith(".0")
    }
    result = {
        f"acceptable_range.{key}.{end}": case.expected[f"acceptable_range.{key}.{end}"]
        for key in spans
        for end in (0, 1)
    }
    for key, (low, high) in spans.items():
        ours = found[f"map_table.{key}"]
        outside = Distance(float(max(low - ours, ours - high, 0)))
        name = key.removesuffix("_AP")
        tied = [k for k in found if k.startswith(f"map_table.{name}_AP") or k.endswith(f"classes.{name}.ap")]
        result |= dict.fromkeys(
            [*tied, "map_table.mAP", *(k for k in found if k.endswith("mean_over_classes_with_gt"))], outside
        )
    return result


def permutations(case: Case) -> dict:
    points, half = case.config["num_points"], tuple(case.config["roi_half_extent_xy"])
    curves = [np.array(polyline) for polyline in case.inputs["polylines"]]
    v2, v4 = ([polylines.orders(curve, points, half, pattern) for curve in curves] for pattern in ("v2", "v4"))
    closed = [polylines.is_closed(curve) for curve in curves]
    v1 = [group[: len(group) // 2] if ring else group for group, ring in zip(v4, closed, strict=True)]
    v3 = [np.concatenate([group, group[:, ::-1]]) if ring else group for group, ring in zip(v2, closed, strict=True)]
    limits = [polylines.clamped(curve, half) for curve in curves]
    counts = torch.tensor([[len(group) for group in groups] for groups in zip(v1, v2, v3, v4, strict=True)])
    found = {
        "sampled": np.stack([polylines.sampled(curve, points, half) for curve in curves]),
        "bbox_xyxy": np.stack([np.concatenate([limit.min(0), limit.max(0)]) for limit in limits]),
        "start_end": np.stack([np.concatenate([limit[0], limit[-1]]) for limit in limits]),
        "num_variants": torch.cat([case.expected["num_variants"][:, :1], counts], dim=1),  # column 0 is the waived v0
    }
    return found | {
        f"variants_v{i}": in_order(groups, case.expected[f"variants_v{i}"])
        for i, groups in enumerate((v1, v2, v3, v4), start=1)
    }


def in_order(groups: list[np.ndarray], expected: torch.Tensor) -> torch.Tensor:
    """Our orders of each polyline, in the stored sequence (which is free) and padded to the stored width."""
    result = torch.full_like(expected, FAR_M)
    for row, group, stored in zip(result, groups, expected, strict=True):
        real = stored[(stored != FAR_M).flatten(1).any(1)]
        ours = torch.tensor(group.copy()).float()
        nearest = torch.cdist(real.flatten(1), ours.flatten(1), p=1).argmin(1)
        assert len(real) == len(ours) and len(nearest.unique()) == len(torch.unique(real, dim=0)), (
            "not the same set of orders"
        )
        row[: len(real)] = ours[nearest]
    return result


def matching_losses(case: Case) -> dict:
    low, high = torch.tensor(case.config["pc_range"][:2]), torch.tensor(case.config["pc_range"][3:5])
    half, points = tuple(case.config["roi_half_extent_xy"]), case.config["num_points"]
    pattern = case.config["permutation_pattern"]
    match_weights = losses.Weights(case.config["match_cls"], case.config["match_pts"])
    weights = losses.Weights(*(case.config[name] for name in ("loss_cls", "loss_pts", "loss_dir")))
    assert (match_weights.cls, match_weights.pts) == (weights.cls, weights.pts), (
        "one pair of weights serves matching and loss"
    )
    found, truths = {}, []
    for number, frame in enumerate(case.inputs["frames"]):
        orders = torch.zeros(0, 1, points, 2)
        if frame["labels"]:
            groups = [polylines.orders(np.array(curve), points, half, pattern) for curve in frame["polylines"]]
            orders = in_order(groups, case.expected[f"frame{number}.target_variants_m"])
            found[f"frame{number}.target_variants_m"] = orders
        truths.append(losses.Truth(torch.tensor(frame["labels"], dtype=torch.long), (orders - low) / (high - low)))
    return found | losses_of(case, truths, weights, low, high)


def losses_of(case: Case, truths: list, weights, low, high) -> dict:
    logits, points = (case.inputs[name].clone().requires_grad_() for name in ("pred_logits", "pred_points_01"))
    total, _ = losses.map_loss(logits, points, truths, weights, high - low)
    total.backward()
    found = {"grad_pred_logits": logits.grad, "grad_pred_points_01": points.grad}
    found["total_over_layers"] = total.detach().reshape(case.expected["total_over_layers"].shape)
    for number, layer in enumerate(zip(logits.detach(), points.detach(), strict=True)):
        terms, matches = losses.layer_loss(*layer, truths, weights, high - low)
        found |= {
            f"layer{number}.{name}": term.reshape(case.expected[f"layer{number}.{name}"].shape)
            for name, term in terms.items()
        }
        found |= {f"layer{number}.{name}": torch.zeros(()) for name in ("loss_bbox", "loss_iou")}  # their weight is 0
        for frame, (m, truth) in enumerate(zip(matches, truths, strict=True)):
            found |= {
                f"layer{number}.frame{frame}.{k}": v
                for k, v in matched(m, truth, layer[0][frame], layer[1][frame], weights, low, high).items()
            }
    return found


def matched(m, truth, logits, points, weights, low, high) -> dict:
    assigned = torch.zeros(len(logits), dtype=torch.long)
    assigned[m.query] = m.truth + 1
    return {
        "assigned_gt_1based": assigned,
        "matched_query": m.query,
        "matched_gt": m.truth,
        "matched_variant": m.variant,
        "matched_target_m": truth.orders[m.truth, m.variant] * (high - low) + low,
        "cost_cls": weights.cls * losses.class_cost(logits, truth.labels),
        "cost_pts_min": weights.pts * losses.point_cost(points, truth.orders)[0],
    }


def decode(case: Case) -> dict:
    low, high = np.array(case.config["pc_range"][:2]), np.array(case.config["pc_range"][3:5])
    found = {}
    for number, frame in enumerate(
        zip(case.inputs["pred_logits"].numpy(), case.inputs["pred_points_01"].numpy(), strict=True)
    ):
        scores, labels, points = metrics.best_pairs(*frame, case.config["max_num"])
        points = points * (high - low) + low
        boxes = np.concatenate([points.min(1), points.max(1)], axis=1)
        named = {"scores": scores, "labels": labels, "pts": points, "bboxes": boxes}
        found |= {f"{frame_key(case, number)}.{name}": value for name, value in named.items()}
    return found


KINDS = {
    "map_attention_mask": attention_mask,
    "map_ap": chamfer_ap,
    "map_permutations": permutations,
    "map_matching_losses": matching_losses,
    "map_decode": decode,
    "map_gt_extraction": gt_extraction,
    "map_transforms": transforms,
}

TOLERANCES = (
    Tolerance("map_attention_mask", r".*\.density", atol=1e-12),
    Tolerance("map_attention_mask", r".*"),
    Tolerance("map_ap", r".*\.similarity", atol=1e-9),
    Tolerance("map_ap", r".*\.tp_at_.*|.*\.(num_gts|num_dets|tp_total)"),
    Tolerance("map_ap", r".*", atol=1e-6),
    Tolerance("map_permutations", r"num_variants"),
    Tolerance("map_permutations", r".*", atol=1e-5),
    Tolerance("map_matching_losses", r".*\.(assigned_gt_1based|matched_query|matched_gt|matched_variant)"),
    Tolerance("map_matching_losses", r".*target.*", atol=1e-5),
    Tolerance("map_matching_losses", r".*\.cost_.*", atol=1e-4),
    Tolerance("map_matching_losses", r"grad_.*", of_max=1e-5),
    Tolerance("map_matching_losses", r".*", rtol=1e-5),
    Tolerance("map_decode", r".*\.labels"),
    Tolerance("map_decode", r".*", atol=1e-5),
    Tolerance("map_gt_extraction", r".*\.(labels|num_instances|type|is_closed)"),
    Tolerance("map_gt_extraction", r".*\.lidar2global|.*_yaw_rad", atol=1e-6),
    Tolerance("map_gt_extraction", r".*", atol=1e-3),
    Tolerance("map_transforms", r".*\.visible"),
    Tolerance("map_transforms", r".*\.uv_or_minus1", atol=1e-4),
    Tolerance("map_transforms", r".*\.lidar2img.*", rtol=1e-9, atol=1e-5),
    Tolerance("map_transforms", r".*", atol=1e-6),
)

WAIVED = (
    Waiver(
        "map_permutations",
        r"variants_v0",
        "v0 rolls all samples of a ring, so its repeated closing point travels inside: not the same curve",
    ),
    Waiver(
        "map_gt_extraction", r".*\.num_vertices", "sometimes one extra collinear vertex: curves are compared as sets"
    ),
)
