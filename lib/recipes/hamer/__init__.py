"""HaMeR (Pavlakos et al., CVPR 2024): hand mesh recovery, adapted by LoRA to other hands, gloves and cameras.

The contract of lib.recipes. Nothing here imports torch until a function needs it.
"""
from pathlib import Path
from typing import Any

from lib.recipes import Asset, Manifest, Metric, Objective, Parts, Plan, Record, Row, Sampler, Split, Stage
from lib.recipes.hamer.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")
READS = {
    2: ("data.format", "data.root", "data.made_", "model.init", "model.checkpoint", "model.mano"),
    3: (
        "data.format", "data.root", "data.made_", "data.group_pattern", "data.val_", "data.truth", "data.box_factor", "data.keep_side_px",
        "model.mano", "train.seed",
    ),
}  # fmt: skip
CODE = {2: ("demo",), 3: ("data",), 4: ("assemble", "sampling"), 5: ("evaluate", "panels")}


def plan(cfg: Config) -> Plan:
    from lib.recipes.hamer import costs

    return costs.plan(cfg)


def assets(cfg: Config) -> list[Asset]:
    from lib.recipes.hamer import sources

    return sources.assets(cfg)


def prepare(cfg: Config, places: dict[str, Path], out: Path):
    from lib.recipes.hamer import data

    return data.prepare(cfg, places, out)


def split(cfg: Config, records: list[Record], out: Path) -> Split:
    from lib.recipes.hamer import data

    return data.split(cfg, records)


def summarise_data(cfg: Config, records: list[Record]) -> dict[str, Any]:
    from lib.recipes.hamer import data

    return data.summarise_data(cfg, records)


def stages(cfg: Config, manifest: Manifest) -> list[Stage]:
    return [Stage("adapt", cfg.train.epochs * -(-len(manifest.side("train")) // cfg.train.global_batch))]


def groundwork(
    cfg: Config, stage: Stage, manifest: Manifest, places: dict[str, Path], earlier: Any, cache: Path, pause: Any
) -> Path | None:
    from lib.recipes.hamer import assemble

    return assemble.groundwork(cfg, places, cache)


def build(cfg: Config, stage: Stage, places: dict[str, Path]) -> Parts:
    from lib.recipes.hamer import assemble

    return assemble.build(cfg, places)


def sampler(cfg: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    from lib.recipes.hamer import sampling

    return sampling.sampler(cfg, manifest, side)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    from lib.recipes.hamer import sampling

    return sampling.collate(samples)


def objectives(cfg: Config, stage: Stage) -> list[Objective]:
    from lib.recipes.hamer import assemble

    return assemble.objectives(cfg)


def measures(cfg: Config, stage: Stage) -> dict[str, Metric]:
    from lib.recipes.hamer import evaluate

    return evaluate.measures(cfg)


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    from lib.recipes.hamer import evaluate

    return evaluate.score_batch(cfg, parts, batch)


def summarise(cfg: Config, rows: list[Row]) -> dict[str, float]:
    from lib.recipes.hamer import evaluate

    return evaluate.summarise(cfg, rows)


def describe(cfg: Config, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    from lib.recipes.hamer import evaluate

    return evaluate.describe(cfg, scores)


def figures(cfg: Config, base: list[Row], adapted: list[Row], out: Path) -> None:
    from lib.recipes.hamer import panels

    panels.write(cfg, base, adapted, out)


def predict(cfg: Config, parts: Parts, inputs: str, out: Path) -> None:
    from lib.recipes.hamer import inference

    inference.predict(cfg, parts, Path(inputs), out)


def export(cfg: Config, parts: Parts, out: Path) -> None:
    from lib.recipes.hamer import assemble

    assemble.export(parts, out)
