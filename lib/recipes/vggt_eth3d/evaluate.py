"""Scores of held-out sequences, their summary, and the console table in the guide's layout."""
from typing import Any

import torch

from lib.recipes import Parts, Row
from lib.recipes.vggt_eth3d import SUFFIXES, metrics
from lib.recipes.vggt_eth3d.config import Config

TABLE = (("MAE", "mae"), ("RMSE", "rmse"), ("Abs Rel", "abs_rel"), ("Sq Rel", "sq_rel"))
DELTAS = (("δ < 1.25", "delta_1"), ("δ < 1.25²", "delta_2"), ("δ < 1.25³", "delta_3"))


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    """One row per sequence: every metric under every alignment, and the pictures of its first frame."""
    from lib.recipes.vggt_eth3d import assemble

    if parts is None:
        predicted = torch.ones_like(batch["depths"])  # aligned to the median: the best depth that knows nothing
    else:
        predicted = assemble.forward(cfg, parts, batch)["depth"][..., 0].float()
    return [row(batch, i, predicted[i]) for i in range(len(predicted))]


def row(batch: dict[str, Any], i: int, predicted: torch.Tensor) -> Row:
    truth, valid = batch["depths"][i], batch["valid"][i]
    numbers: dict[str, float] = {"frames": float(len(truth))}
    for alignment, suffix in SUFFIXES.items():
        found = metrics.sequence_numbers(predicted, truth, valid, alignment)
        numbers |= {name + suffix: value for name, value in found.items() if name in metrics.METRICS}
    aligned = metrics.align(predicted, truth, valid, "scale")[0]
    pictures = {"image": batch["images"][i, 0], "predicted": aligned, "truth": truth[0], "valid": valid[0]}
    return Row(batch["sample_id"][i], batch["group"][i], numbers, {name: value.cpu().numpy() for name, value in pictures.items()})


def summarise(rows: list[Row]) -> dict[str, float]:
    """Means over the sequences, and the main error by sequence length."""
    import numpy

    names = [name for name in rows[0].numbers if name != "frames"]
    table = numpy.array([[row.numbers[name] for name in names] for row in rows])
    return dict(zip(names, (float(value) for value in numpy.nanmean(table, axis=0)), strict=True))


def describe(scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """What the guide's users know: mean ± std (median) per metric, for base and adapted side by side."""
    lines = [f"Depth metrics over {scores['n_samples']} held-out sequences of {scores['n_groups']} scenes (one scale per sequence):", f"  {'':<12}{'untouched base':<34}adapted"]
    for label, name in TABLE:
        lines.append(f"  {label + ':':<12}" + "".join(f"{spread(rows, name):<34}" for rows in (base, adapted)))
    lines.append("Threshold accuracy:")
    for label, name in DELTAS:
        lines.append(f"  {label + ':':<12}" + "".join(f"{mean(rows, name):<34.4f}" for rows in (base, adapted)))
    lines += by_length(base, adapted)
    main = scores["metrics"][scores["main"]["metric"]]
    change = 100 * main["difference"] / main["base"]
    lines.append(
        f"Depth MAE: base {main['base']:.4f}, adapted {main['adapted']:.4f} ({change:+.1f} %), median depth {main['trivial']:.4f}; "
        f"95 % interval of the difference [{main['low']:.4f}, {main['high']:.4f}], {scores['resampled']} resampled: {main['verdict'] or 'no verdict'}"
    )
    return "\n".join(lines)


def by_length(base: list[Row], adapted: list[Row]) -> list[str]:
    lengths = sorted({row.numbers["frames"] for row in base})
    lines = ["MAE by sequence length:"]
    for length in lengths:
        chosen = [[row for row in rows if row.numbers["frames"] == length] for rows in (base, adapted)]
        lines.append(f"  {f'{length:.0f} frames:':<12}" + "".join(f"{mean(rows, 'mae'):<34.4f}" for rows in chosen))
    return lines


def spread(rows: list[Row], name: str) -> str:
    found = metrics.spread(row.numbers[name] for row in rows)
    return f"{found['mean']:.4f} ± {found['std']:.4f} (median: {found['median']:.4f})"


def mean(rows: list[Row], name: str) -> float:
    return metrics.spread(row.numbers[name] for row in rows)["mean"]
