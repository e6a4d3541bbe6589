"""Scores of held-out frames. A row carries its detections as numbers, because average precision is of the whole set."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lib.recipes import Parts, Row
from lib.recipes.llava_map import metrics
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.drawing import SHOWN_SCORE
from lib.recipes.llava_map.metrics import THRESHOLDS_M, Detections
from lib.recipes.llava_map.roadmap import CLASSES
from lib.run import atomic

GUIDE = "guide_"  # before the numbers of the guide's variant: one class a query, score threshold
HIT_BITS = 1 << np.arange(len(THRESHOLDS_M))


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    """Detections of each frame against its ground truth. Without parts: a straight road, the same for every frame."""
    if parts is None:
        found = [straight_road(cfg)] * len(batch["sample_id"])
    else:
        found = network_outputs(cfg, parts, batch)
    return [row(cfg, batch, number, *outputs) for number, outputs in enumerate(found)]


def network_outputs(cfg: Config, parts: Parts, batch: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(logits (queries, classes), points (queries, points, 2) in metres) of each frame, last decoder layer."""
    from lib.recipes.llava_map.model import detect

    logits, points = detect(parts.modules, cfg, batch)
    half = np.array(cfg.data.half_extent_m)
    metres = (points[-1].float().cpu().numpy().astype(np.float64) * 2 - 1) * half
    return list(zip(logits[-1].float().cpu().numpy(), metres, strict=True))


def straight_road(cfg: Config) -> tuple[np.ndarray, np.ndarray]:
    """The trivial predictor: the car in the right lane of a straight road with one lane a side, no crossing."""
    ahead_m = np.linspace(-cfg.data.half_length_m, cfg.data.half_length_m, cfg.model.points)
    lines = np.stack([np.stack([np.full_like(ahead_m, x_m), ahead_m], axis=1) for x_m in (-1.75, 2.0, -5.5)])
    logits = np.full((3, len(CLASSES)), -9.0)
    logits[0, CLASSES.index("divider")] = logits[1, CLASSES.index("boundary")] = logits[2, CLASSES.index("boundary")] = 3.0
    return logits, lines


def row(cfg: Config, batch: dict[str, Any], number: int, logits: np.ndarray, points: np.ndarray) -> Row:
    truth = list(zip(batch["labels"][number].tolist(), batch["lines"][number], strict=True))
    scores, labels, lines = metrics.best_pairs(logits, points, cfg.eval.detections)
    numbers = packed(scores, labels, lines, truth, cfg.eval.detections)
    best = logits.argmax(1)
    own = 1 / (1 + np.exp(-logits.max(1).astype(np.float64)))
    kept = own > cfg.eval.guide_threshold
    numbers |= {
        GUIDE + k: v for k, v in packed(own[kept], best[kept], points[kept], truth, len(points)).items() if not k.startswith("truths")
    }
    numbers |= {f"truths_{name}": float(sum(label == i for label, _ in truth)) for i, name in enumerate(CLASSES)}
    shown = [(int(label), line, float(score)) for score, label, line in zip(scores, labels, lines, strict=True) if score > SHOWN_SCORE]
    arrays = {"folder": batch["folder"][number], "truth": truth, "predicted": shown}
    submission = json.dumps(listed(scores, labels, lines), separators=(",", ":"))
    return Row(batch["sample_id"][number], batch["group"][number], numbers, arrays, {"submission": submission})


def listed(scores: np.ndarray, labels: np.ndarray, lines: np.ndarray) -> list[dict[str, Any]]:
    """A frame's detections in the form of a submission; metres, x right and y ahead of the lidar."""
    return [
        {"class": CLASSES[label], "score": round(float(score), 5), "pts": np.round(line, 3).tolist()}
        for score, label, line in zip(scores, labels, lines, strict=True)
    ]


def write_submission(rows: list[Row], path: Path) -> None:
    """{sample token: detections} of all held-out frames, one frame a line."""
    lines = (f'"{row.sample_id.rpartition("/")[2]}":{row.texts["submission"]}' for row in rows)
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def packed(scores: np.ndarray, labels: np.ndarray, lines: np.ndarray, truth: list, places: int) -> dict[str, float]:
    """`score_07` and `kind_07` of each place: kind is 10 * class + 1, 2, 4 added up for a hit at 0.5, 1.0, 1.5 m; score -1 = empty."""
    kinds = np.zeros(len(scores))
    for label in range(len(CLASSES)):
        mine = labels == label
        similarities = metrics.similarity(list(lines[mine]), [line for other, line in truth if other == label])
        kinds[mine] = 10 * label + metrics.hits(similarities, scores[mine]) @ HIT_BITS
    numbers = {}
    for place in range(places):
        filled = place < len(scores)
        numbers[f"score_{place:02d}"] = float(scores[place]) if filled else -1.0
        numbers[f"kind_{place:02d}"] = float(kinds[place]) if filled else 0.0
    return numbers


def unpacked(row: Row, before: str) -> np.ndarray:
    """(detections, 2 + thresholds): score, class, hits. Kept with the row, because every resample asks again."""
    key = f"{before}detections"
    if key not in row.arrays:
        places = sum(name.startswith(f"{before}score_") for name in row.numbers)
        pairs = np.array([[row.numbers[f"{before}{word}_{place:02d}"] for word in ("score", "kind")] for place in range(places)]).reshape(
            -1, 2
        )
        pairs = pairs[pairs[:, 0] >= 0]
        kinds = pairs[:, 1].astype(int)
        row.arrays[key] = np.column_stack([pairs[:, 0], kinds // 10, (kinds % 10)[:, None] & HIT_BITS > 0])
        row.arrays["truths"] = np.array([row.numbers[f"truths_{name}"] for name in CLASSES])
    return row.arrays[key]


def detections(rows: list[Row], before: str = "") -> list[Detections]:
    """The detections of all rows by class."""
    every = np.concatenate([unpacked(row, before) for row in rows])
    truths = np.sum([row.arrays["truths"] for row in rows], axis=0)
    return [
        Detections(mine[:, 0], mine[:, 2:].astype(bool), int(truths[i])) for i in range(len(CLASSES)) for mine in [every[every[:, 1] == i]]
    ]


def summarise(rows: list[Row]) -> dict[str, float]:
    """AP by class and threshold and mAP; and the mAP of the guide's variant, which caps recall and is no benchmark number."""
    return metrics.table(detections(rows)) | {"mAP_guide": metrics.table(detections(rows, GUIDE))["mAP"]}


def describe(scores: dict[str, Any]) -> str:
    """AP by class and threshold, and the main number with its interval."""
    found = scores["metrics"]
    lines = [
        f"held-out frames: {scores['n_samples']} of {scores['n_groups']} scenes",
        f"{'':<14}{'AP 0.5 m':>10}{'1.0 m':>8}{'1.5 m':>8}{'mean':>8}",
    ]
    for name in CLASSES:
        cells = [found[f"AP_{name}_{threshold}m"]["adapted"] for threshold in THRESHOLDS_M] + [found[f"AP_{name}"]["adapted"]]
        lines.append(f"{name:<14}{cells[0]:>10.3f}" + "".join(f"{cell:>8.3f}" for cell in cells[1:]))
    whole = found["mAP"]
    trivial = "" if whole["trivial"] is None else f", straight road {whole['trivial']:.3f}"
    lines.append(f"mAP {whole['adapted']:.3f}, untrained {whole['base']:.3f}{trivial}")
    lines.append(f"difference to untrained {whole['difference']:+.3f}, 95 % interval [{whole['low']:+.3f}, {whole['high']:+.3f}]")
    lines.append(f"with the guide's score threshold: mAP {found['mAP_guide']['adapted']:.3f}")
    return "\n".join(lines)
