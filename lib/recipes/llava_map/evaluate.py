"""Scores of held-out frames. A row carries its detections as numbers, because average precision is of the whole set."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.records import Batch, Metric, Parts, Row, Stage
from lib.core.run import atomic
from lib.recipes.llava_map import ablations, metrics
from lib.recipes.llava_map.classes import CENTRELINE
from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.metrics import THRESHOLDS_M, Detections

GUIDE = "guide_"  # begins the numbers of the guide's variant: one class a query, score threshold
HIT_BITS = 1 << np.arange(len(THRESHOLDS_M))  # every region has as many thresholds
GroundTruth = list[tuple[int, np.ndarray]]  # of a frame: class and vertices (n, 2) in metres of every line


def measures(config: Config, stage: Stage) -> dict[str, Metric]:
    """mAP, the guide's mAP, and AP of each class: over the thresholds and at each of them. All without a unit."""
    guides = "mAP when only lines above the guide's score threshold count, one class a query."
    found = {
        "mAP": named("mAP", "Average precision over classes and distances: how well lines are found.", True),
        "mAP_guide": named("mAP, guide's threshold", guides, True),
    }
    if config.eval.ablations:
        found |= {name: named(f"mAP {words}", f"The same network, {words}.") for name, words in ablations.WORDS.items()}
    for name in config.data.classes:
        plain = name.replace("ped_", "pedestrian ")
        found[f"AP_{name}"] = named(f"AP of {plain}", f"Average precision of {plain} lines over all distances.", True)
        for limit in config.data.thresholds_m:
            meaning = f"A {plain} line counts as found within {limit} m."
            found[f"AP_{name}_{limit}m"] = named(f"AP of {plain} at {limit} m", meaning)
    return found


def named(title: str, meaning: str, front: bool = False) -> Metric:
    return Metric(lower_is_better=False, title=title, meaning=meaning, front=front)


def comparison(config: Config, stage: Stage) -> str:
    """Queries and decoder of the base are untrained: a comparison, not a competitor."""
    return "random_init"


def score_batch(config: Config, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
    """Detections of each frame against its ground truth. Without parts: a straight road, the same for every frame."""
    if parts is None:
        found = [straight_road(config)] * len(batch["sample_id"])
        return [row(config, batch, number, *outputs) for number, outputs in enumerate(found)]
    rows = [
        row(config, batch, number, *outputs) for number, outputs in enumerate(network_outputs(config, parts, batch))
    ]
    for name, without, shown in ablations.given(config, parts, batch):
        for made, (number, outputs) in zip(rows, enumerate(network_outputs(config, without, shown)), strict=True):
            numbers = kept_numbers(config, truth_of(batch, number), *outputs)
            made.numbers.update({f"{name}_{key}": value for key, value in numbers.items()})
    return rows


def network_outputs(config: Config, parts: Parts, batch: Batch) -> list[tuple[np.ndarray, np.ndarray]]:
    """(logits (queries, classes), points (queries, points, 2) in metres) of each frame, last decoder layer."""
    from lib.recipes.llava_map.model import detect

    logits, points = detect(parts.modules, config, batch)
    half = np.array(config.data.half_extent_m)
    metres = (points[-1].float().cpu().numpy().astype(np.float64) * 2 - 1) * half
    return list(zip(logits[-1].float().cpu().numpy(), metres, strict=True))


def straight_road(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The trivial predictor: the car in the right lane of a straight road with one lane a side, no crossing."""
    half_length_m = config.data.half_extent_m[1]
    ahead_m = np.linspace(-half_length_m, half_length_m, config.model.points)
    road = [("divider", -1.75), ("boundary", 2.0), ("boundary", -5.5)]  # class, x in metres
    road += [(CENTRELINE, 0.0), (CENTRELINE, -3.5)] if config.data.centreline else []
    logits = np.full((len(road), len(config.data.classes)), -9.0)
    for query, (name, _) in enumerate(road):
        logits[query, config.data.classes.index(name)] = 3.0
    return logits, np.stack([np.stack([np.full_like(ahead_m, x_m), ahead_m], axis=1) for _, x_m in road])


# ---------------------------------------------------------------------------------------------- rows


def row(config: Config, batch: Batch, number: int, logits: np.ndarray, points: np.ndarray) -> Row:
    """Frame `number` of the batch. logits (queries, classes), points (queries, points, 2) in metres."""
    truth = truth_of(batch, number)
    scores, labels, lines = metrics.best_pairs(logits, points, config.eval.detections)
    numbers = packed(config, scores, labels, lines, truth, config.eval.detections)
    numbers |= {GUIDE + name: value for name, value in guide_numbers(config, logits, points, truth).items()}
    numbers |= {
        f"truths_{name}": float(sum(label == i for label, _ in truth)) for i, name in enumerate(config.data.classes)
    }
    arrays = {"folder": batch["folder"][number], "truth": truth, "predicted": shown(scores, labels, lines)}
    submission = json.dumps(listed(config, scores, labels, lines), separators=(",", ":"))
    return Row(
        batch["sample_id"][number],
        batch["group"][number],
        numbers,
        arrays,
        {"submission": submission} | batch["place"][number],
    )


def truth_of(batch: Batch, number: int) -> GroundTruth:
    return list(zip(batch["labels"][number].tolist(), batch["lines"][number], strict=True))


def kept_numbers(config: Config, truth: GroundTruth, logits: np.ndarray, points: np.ndarray) -> dict[str, float]:
    """Of an ablation: the detections that a frame keeps."""
    best = metrics.best_pairs(logits, points, config.eval.detections)
    return packed(config, *best, truth, config.eval.detections)


def guide_numbers(config: Config, logits: np.ndarray, points: np.ndarray, truth: GroundTruth) -> dict[str, float]:
    """The guide's variant: the best class of each query, where its score is above the threshold."""
    scores = 1 / (1 + np.exp(-logits.max(1).astype(np.float64)))
    kept = scores > config.eval.guide_threshold
    return packed(config, scores[kept], logits.argmax(1)[kept], points[kept], truth, len(points))


def shown(scores: np.ndarray, labels: np.ndarray, lines: np.ndarray) -> list[tuple[int, np.ndarray, float]]:
    """Class, line and score of what pictures show of a frame's detections."""
    found = zip(labels.tolist(), lines, scores.tolist(), strict=True)
    return [(label, line, score) for label, line, score in found if score > metrics.SHOWN_SCORE]


def listed(config: Config, scores: np.ndarray, labels: np.ndarray, lines: np.ndarray) -> list[dict[str, Any]]:
    """A frame's detections in the form of a submission; metres, x right and y ahead of the lidar."""
    return [
        {"class": config.data.classes[label], "score": round(float(score), 5), "pts": np.round(line, 3).tolist()}
        for score, label, line in zip(scores, labels, lines, strict=True)
    ]


def write_submission(rows: list[Row], path: Path) -> None:
    """{sample token: detections} of all held-out frames, one frame a line."""
    lines = (f'"{row.sample_id.rpartition("/")[2]}":{row.texts["submission"]}' for row in rows)
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def packed(
    config: Config, scores: np.ndarray, labels: np.ndarray, lines: np.ndarray, truth: GroundTruth, places: int
) -> dict[str, float]:
    """`score_07` and `kind_07` of each place, best score first; an empty place has score -1.

    kind is 10 * class + 1, 2, 4 added up for a hit at each of the thresholds.
    """
    kinds = np.zeros(len(scores))
    for label in range(len(config.data.classes)):
        mine = labels == label
        similarities = metrics.similarity(list(lines[mine]), [line for other, line in truth if other == label],
            config.eval.compared_points)  # fmt: skip
        kinds[mine] = 10 * label + metrics.hits(similarities, scores[mine], config.data.thresholds_m) @ HIT_BITS
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
        pairs = np.array(
            [[row.numbers[f"{before}{word}_{place:02d}"] for word in ("score", "kind")] for place in range(places)]
        ).reshape(-1, 2)
        pairs = pairs[pairs[:, 0] >= 0]
        kinds = pairs[:, 1].astype(int)
        row.arrays[key] = np.column_stack([pairs[:, 0], kinds // 10, (kinds % 10)[:, None] & HIT_BITS > 0])
        row.arrays["truths"] = np.array([value for name, value in row.numbers.items() if name.startswith("truths_")])
    found: np.ndarray = row.arrays[key]
    return found


# ---------------------------------------------------------------------------------------------- sets of rows


def detections(rows: list[Row], before: str = "") -> list[Detections]:
    """The detections of all rows by class."""
    every = np.concatenate([unpacked(row, before) for row in rows])
    truths = np.sum([row.arrays["truths"] for row in rows], axis=0)
    by_class = [every[every[:, 1] == label] for label in range(len(truths))]
    return [
        Detections(mine[:, 0], mine[:, 2:].astype(bool), int(count))
        for mine, count in zip(by_class, truths, strict=True)
    ]


def summarise(config: Config, stage: Stage, rows: list[Row]) -> dict[str, float]:
    """AP by class and threshold, mAP, and the mAP of the guide's variant, which caps recall: not a benchmark value."""
    limits_m = config.data.thresholds_m
    found = metrics.table(detections(rows), limits_m, config.data.classes) | {"mAP_guide": mean_ap(config, rows, GUIDE)}
    shown = [name for name in ablations.NAMES if f"{name}_score_00" in rows[0].numbers]
    return found | {name: mean_ap(config, rows, f"{name}_") for name in shown}


def mean_ap(config: Config, rows: list[Row], before: str = "") -> float:
    return metrics.table(detections(rows, before), config.data.thresholds_m, config.data.classes)["mAP"]


def by_tag(config: Config, rows: list[Row]) -> list[tuple[str, int, float]]:
    """(tag, frames, mAP) by location, by time of day and by weather, as far as the frames differ in them."""
    words = {"night": ("day", "night"), "rain": ("dry", "rain")}
    sets: dict[str, list[Row]] = {}
    for kind in ("location", *words):
        for row in rows:
            value = row.texts[kind]
            sets.setdefault(words[kind][int(value)] if kind in words else value, []).append(row)
    return [(tag, len(mine), mean_ap(config, mine)) for tag, mine in sets.items()]


def describe(config: Config, stage: Stage, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """AP by class and threshold, and the main metric with its interval where there is one."""
    found, limits = scores["metrics"], config.data.thresholds_m
    lines = [
        f"held-out frames: {scores['n_samples']} of {scores['n_groups']} scenes",
        f"{'':<14}{f'AP {limits[0]} m':>10}" + "".join(f"{f'{limit} m':>8}" for limit in limits[1:]) + f"{'mean':>8}",
    ]
    for name in config.data.classes:
        columns = (*(f"AP_{name}_{threshold}m" for threshold in limits), f"AP_{name}")
        cells = [found[column]["adapted"] for column in columns]
        lines.append(f"{name:<14}{cells[0]:>10.3f}" + "".join(f"{cell:>8.3f}" for cell in cells[1:]))
    whole = found["mAP"]
    trivial = "" if whole["trivial"] is None else f", straight road {whole['trivial']:.3f}"
    interval = "no interval: too few scenes"
    if whole["low"] is not None:
        interval = f"95 % interval [{whole['low']:+.3f}, {whole['high']:+.3f}]"
    return "\n".join(
        [
            *lines,
            f"mAP {whole['adapted']:.3f}, untrained {whole['base']:.3f}{trivial}",
            f"difference to untrained {whole['difference']:+.3f}, {interval}",
            f"with the guide's score threshold: mAP {found['mAP_guide']['adapted']:.3f}",
            f"region {config.data.region} m; lines compared on {config.eval.compared_points} points each",
            "mAP " + ", ".join(f"{tag} {value:.3f} ({count})" for tag, count, value in by_tag(config, adapted)),
            *ablations.said(found),
        ]
    )
