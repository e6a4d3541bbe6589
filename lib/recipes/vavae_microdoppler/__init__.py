"""VA-VAE (Yao et al., CVPR 2025, arXiv 2501.01423) on micro-Doppler spectrograms: align, reconstruct, margin; then dit, a
user-conditional LightningDiT on its latents.

The contract of lib.recipes. Nothing here imports torch until a function needs it. What belongs to the stage dit alone lies in
dit*.py, flow.py, generate.py, judge.py and latent_*.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.recipes import Asset, Manifest, Metric, Objective, Parts, Plan, Record, Row, Sampler, Split, Stage
from lib.recipes.vavae_microdoppler.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp32")  # fp16 overflows in the losses' sums
DIT = "dit"
HIGHER = ("psnr", "psnr_sampled", "foreground_psnr", "ssim", "ssim_sampled", "alignment_cosine", "user_silhouette", "user_ratio", "user_probe")
LOWER = ("mse", "mse_sampled", "lpips", "lpips_sampled", "frechet_vgg32", "frechet_inception")
READS = {
    2: ("model.weights", "model.vf", "model.dit_weights", "data."), 3: ("data.", "model.image_px", "train.seed"),
    4: ("dit.latents", "dit.label_dropout"), 5: ("dit.",),
}  # fmt: skip
CODE = {
    2: ("simulator",), 3: ("data",), 4: ("training", "assemble", "decision", "dit_training", "dit_assemble", "latent_samples"),
    5: ("evaluate", "metrics", "dit_evaluate"),
}  # fmt: skip


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


def groundwork(
    cfg: Config, stage: Stage, manifest: Manifest, places: dict[str, Path], earlier: tuple[Stage, Path] | None, cache: Path,
    pause: Callable[[], None],
) -> Path | None:  # fmt: skip
    from lib.recipes.vavae_microdoppler import latent_folder

    return latent_folder.lay(cfg, manifest, places, earlier, cache, pause) if stage.name == DIT else None


def build(cfg: Config, stage: Stage, places: dict[str, Path]) -> Parts:
    from lib.recipes.vavae_microdoppler import assemble, dit_assemble

    return dit_assemble.build(cfg, places) if stage.name == DIT else assemble.build(cfg, stage, places)


def sampler(cfg: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    from lib.recipes.vavae_microdoppler import data, latent_samples

    return latent_samples.sampler(cfg, manifest, side) if stage.name == DIT else data.sampler(cfg, stage, manifest, side)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    from lib.recipes.vavae_microdoppler import data

    return data.collate(samples)


def objectives(cfg: Config, stage: Stage) -> list[Objective]:
    from lib.recipes.vavae_microdoppler import dit_training, training

    return (dit_training if stage.name == DIT else training).objectives(cfg, stage)


def measures(cfg: Config, stage: Stage) -> dict[str, Metric]:
    if stage.name == DIT:
        from lib.recipes.vavae_microdoppler import dit_evaluate

        return dit_evaluate.MEASURES
    return {name: Metric("dB" if "psnr" in name else "", name in LOWER) for name in (*HIGHER, *LOWER)}


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    from lib.recipes.vavae_microdoppler import dit_evaluate, evaluate

    scorer = dit_evaluate if "twin_feature" in batch else evaluate
    return scorer.score_batch(cfg, parts, batch)


def summarise(cfg: Config, rows: list[Row]) -> dict[str, float]:
    from lib.recipes.vavae_microdoppler import dit_evaluate, evaluate

    return dit_evaluate.summarise(rows) if "hit" in rows[0].numbers else evaluate.summarise(rows)


def describe(cfg: Config, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    from lib.recipes.vavae_microdoppler import dit_evaluate, evaluate

    return dit_evaluate.describe(scores, adapted) if scores["stage"] == DIT else evaluate.describe(scores)


def comparison(cfg: Config, stage: Stage) -> str:
    return "random_init" if stage.name == DIT and cfg.model.dit_weights == "scratch" else "base"


def figures(cfg: Config, base: list[Row], adapted: list[Row], out: Path) -> None:
    from lib.recipes.vavae_microdoppler import dit_drawing, drawing

    dit_drawing.draw(adapted, out) if "hit" in adapted[0].numbers else drawing.draw(cfg, base, adapted, out)


def decide(cfg: Config, score: Callable[[], dict[str, float]]) -> dict[str, Any]:
    from lib.recipes.vavae_microdoppler import decision

    return decision.decide(cfg, score)


def predict(cfg: Config, parts: Parts, inputs: str, out: Path) -> None:
    from lib.recipes.vavae_microdoppler import exporting, generate

    (generate if DIT in parts.modules else exporting).predict(cfg, parts, inputs, out)


def export(cfg: Config, parts: Parts, out: Path) -> None:
    from lib.recipes.vavae_microdoppler import exporting, generate

    (generate if DIT in parts.modules else exporting).export(cfg, parts, out)
