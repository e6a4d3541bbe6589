"""VA-VAE (Yao et al., CVPR 2025, arXiv 2501.01423) on micro-Doppler spectrograms: align, reconstruct, margin.

The contract of lib.recipes. Nothing here imports torch until a function needs it.
"""

from pathlib import Path
from typing import Any

from lib.recipes import Asset, Manifest, Metric, Objective, Parts, Plan, Record, Row, Sampler, Split, Stage
from lib.recipes.vavae_microdoppler.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp32")  # fp16 overflows in the losses' sums
HIGHER = ("psnr", "psnr_sampled", "foreground_psnr", "ssim", "ssim_sampled", "alignment_cosine", "user_silhouette", "user_ratio")
LOWER = ("mse", "mse_sampled", "lpips", "lpips_sampled", "frechet_vgg32")
READS = {2: ("model.weights", "model.vf", "model.image_px", "data."), 3: ("data.", "model.image_px", "train.seed")}
CODE = {2: ("simulator",), 3: ("data",), 4: ("training", "assemble"), 5: ("evaluate", "metrics")}


def plan(cfg: Config) -> Plan:
    from lib.recipes.vavae_microdoppler import costs

    return costs.plan(cfg)


def assets(cfg: Config) -> list[Asset]:
    from lib.recipes.vavae_microdoppler import sources

    return sources.assets(cfg)


def prepare(cfg: Config, places: dict[str, Path], out: Path):
    from lib.recipes.vavae_microdoppler import data

    return data.prepare(cfg, places, out)


def split(cfg: Config, records: list[Record], out: Path) -> Split:
    from lib.recipes.vavae_microdoppler import data

    return data.split(cfg, records, out)


def summarise_data(cfg: Config, records: list[Record]) -> dict[str, Any]:
    from lib.recipes.vavae_microdoppler import data

    return data.summarise_data(cfg, records)


def stages(cfg: Config, manifest: Manifest) -> list[Stage]:
    from lib.recipes.vavae_microdoppler import schedule

    return schedule.stages(cfg, manifest)


def build(cfg: Config, stage: Stage, places: dict[str, Path]) -> Parts:
    from lib.recipes.vavae_microdoppler import assemble

    return assemble.build(cfg, stage, places)


def sampler(cfg: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    from lib.recipes.vavae_microdoppler import data

    return data.sampler(cfg, stage, manifest, side)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    from lib.recipes.vavae_microdoppler import data

    return data.collate(samples)


def objectives(cfg: Config, stage: Stage) -> list[Objective]:
    from lib.recipes.vavae_microdoppler import training

    return training.objectives(cfg, stage)


def measures(cfg: Config, stage: Stage) -> dict[str, Metric]:
    return {name: Metric("dB" if "psnr" in name else "", name in LOWER) for name in (*HIGHER, *LOWER)}


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    from lib.recipes.vavae_microdoppler import evaluate

    return evaluate.score_batch(cfg, parts, batch)


def summarise(cfg: Config, rows: list[Row]) -> dict[str, float]:
    from lib.recipes.vavae_microdoppler import evaluate

    return evaluate.summarise(rows)


def describe(cfg: Config, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    from lib.recipes.vavae_microdoppler import evaluate

    return evaluate.describe(scores)


def figures(cfg: Config, base: list[Row], adapted: list[Row], out: Path) -> None:
    from lib.recipes.vavae_microdoppler import drawing

    drawing.draw(cfg, base, adapted, out)


def predict(cfg: Config, parts: Parts, inputs: str, out: Path) -> None:
    from lib.recipes.vavae_microdoppler import exporting

    exporting.predict(cfg, parts, inputs, out)


def export(cfg: Config, parts: Parts, out: Path) -> None:
    from lib.recipes.vavae_microdoppler import exporting

    exporting.export(cfg, parts, out)
