"""Vectorised map detection from six cameras: Q-Former and map queries around a frozen Vicuna-7B, on nuScenes.

The idea of LLaVA-Map (its guide), the ground truth, losses and evaluation of MapTR (Liao et al., ICLR 2023). The contract of
lib.recipes. Nothing here imports torch until a function needs it.
"""

from pathlib import Path
from typing import Any

from lib.recipes import Asset, Manifest, Metric, Objective, Parts, Plan, Record, Row, Sampler, Split, Stage
from lib.recipes.llava_map.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")
MEASURES = (
    "mAP",
    "mAP_guide",
    *(f"AP_{name}{at}" for name in ("divider", "ped_crossing", "boundary") for at in ("", "_0.5m", "_1.0m", "_1.5m")),
)
PREPARED = ("root", "version", "split", "geographic", "width_px", "height_px", "half_", "stand_in", "overlays")
READS = {
    2: ("data.root", "data.version", "data.stand_in", "model.encoder", "model.qformer", "model.llm"),
    3: ("model.instances", *(f"data.{name}" for name in PREPARED)),
}
CODE = {2: ("standin",), 3: ("data",), 4: ("assemble", "data"), 5: ("evaluate",)}


def plan(cfg: Config) -> Plan:
    from lib.recipes.llava_map import costs

    return costs.plan(cfg)


def assets(cfg: Config) -> list[Asset]:
    from lib.recipes.llava_map import sources

    return sources.assets(cfg)


def prepare(cfg: Config, places: dict[str, Path], out: Path):
    from lib.recipes.llava_map import data

    return data.prepare(cfg, places, out)


def split(cfg: Config, records: list[Record], out: Path) -> Split:
    from lib.recipes.llava_map import data

    return data.split(cfg, records)


def summarise_data(cfg: Config, records: list[Record]) -> dict[str, Any]:
    from lib.recipes.llava_map import data

    return data.summarise_data(cfg, records)


def stages(cfg: Config, manifest: Manifest) -> list[Stage]:
    """Stage 2 with the language model frozen; stage 3 goes on from it with adapters, or with all of it."""
    steps = -(-len(manifest.side("train")) // cfg.train.global_batch)
    found = []
    for name in cfg.train.stages:
        epochs = cfg.train.epochs if name == "stage2" else cfg.train.stage3_epochs
        found.append(Stage(name, epochs * steps, found[-1].name if found else "base"))
    return found


def build(cfg: Config, stage: Stage, places: dict[str, Path]) -> Parts:
    from lib.recipes.llava_map import assemble

    return assemble.build(cfg, stage, places)


def sampler(cfg: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    from lib.recipes.llava_map import data

    return data.sampler(cfg, manifest, side)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    from lib.recipes.llava_map import data

    return data.collate(samples)


def objectives(cfg: Config, stage: Stage) -> list[Objective]:
    from lib.recipes.llava_map import assemble

    return assemble.objectives(cfg, stage)


def measures(cfg: Config, stage: Stage) -> dict[str, Metric]:
    return {name: Metric("", lower_is_better=False) for name in MEASURES}


def comparison(cfg: Config, stage: Stage) -> str:
    """Queries and decoder of the base are untrained: a comparison, not a competitor."""
    return "random_init"


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    from lib.recipes.llava_map import evaluate

    return evaluate.score_batch(cfg, parts, batch)


def summarise(cfg: Config, rows: list[Row]) -> dict[str, float]:
    from lib.recipes.llava_map import evaluate

    return evaluate.summarise(rows)


def describe(cfg: Config, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    from lib.recipes.llava_map import evaluate

    return evaluate.describe(scores)


def figures(cfg: Config, base: list[Row], adapted: list[Row], out: Path) -> None:
    from lib.recipes.llava_map import drawing, evaluate

    drawing.draw(cfg, base, adapted, out)
    evaluate.write_submission(adapted, out / "submission.json")


def predict(cfg: Config, parts: Parts, inputs: Path, out: Path) -> None:
    from lib.recipes.llava_map import prediction

    prediction.predict(cfg, parts, str(inputs), out)


def export(cfg: Config, parts: Parts, out: Path) -> None:
    from lib.recipes.llava_map import prediction

    prediction.export(cfg, parts, out)
