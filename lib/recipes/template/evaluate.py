"""Scores of held-out samples: the same code for the untouched base, the adapted model and the trivial predictor.

CHANGE: the metrics. The first one is the main one: it chooses the best checkpoint and heads the report.
"""

from typing import Any

import numpy as np

from lib.core.records import Batch, Metric, Parts, Row, Stage

from .config import Config


def measures(config: Config, stage: Stage) -> dict[str, Metric]:
    """Unit, direction and words of every number that `summarise` returns; those with front=True head the report."""
    return {
        "mae": Metric("grey levels", title="Mean error", meaning="Mean difference to the clean picture.", front=True),
        "psnr": Metric("dB", False, title="PSNR", meaning="Peak signal over noise; 6 dB halve the error.", front=True),
    }


def score_batch(config: Config, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
    """One row per picture. parts None: the trivial predictor, which leaves the picture as it is."""
    predicted = batch["noisy"] if parts is None else parts.modules["denoiser"](batch["noisy"])
    pictures = {"noisy": batch["noisy"], "clean": batch["clean"], "predicted": predicted}
    arrays = {name: 255 * picture[:, 0].float().clamp(0, 1).cpu().numpy() for name, picture in pictures.items()}
    return [
        Row(
            batch["sample_id"][i],
            batch["group"][i],
            errors(arrays["predicted"][i], arrays["clean"][i]),
            {name: picture[i] for name, picture in arrays.items()},  # for figures.py
        )
        for i in range(len(batch["sample_id"]))
    ]


def errors(predicted: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """Of one picture, (h, w) in grey levels each."""
    difference = predicted - clean
    mean_square = max(float(np.square(difference).mean()), 1e-6)
    return {"mae": float(np.abs(difference).mean()), "psnr": float(10 * np.log10(255**2 / mean_square))}


def summarise(config: Config, stage: Stage, rows: list[Row]) -> dict[str, float]:
    """Means over pictures. Called a thousand times for the interval, so the expensive part is in `score_batch`."""
    return {name: sum(row.numbers[name] for row in rows) / len(rows) for name in measures(config, stage)}


def describe(config: Config, stage: Stage, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """What step 5 prints below the verdict."""
    lines = [f"{scores['n_samples']} held-out pictures of {scores['n_groups']} cameras"]
    for name, found in scores["metrics"].items():
        values = f"trivial {found['trivial']:.2f}, base {found['base']:.2f}, adapted {found['adapted']:.2f}"
        lines.append(f"  {name:<5} {values} {scores['units'][name]}")
    return "\n".join(lines)
