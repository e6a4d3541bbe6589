"""VGGT (Wang et al. 2025, arXiv 2503.11651): depth and cameras of building scenes, adapted by LoRA.

The contract of lib.recipes. Nothing here imports torch until a function needs it.
"""
from pathlib import Path
from typing import Any

from lib.recipes import Asset, Group, Manifest, Metric, Objective, Parts, Plan, Record, Row, Sampler, Split, Stage
from lib.recipes.vggt_eth3d.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["Config", "DEMO", "EXPECTED", "PRESETS", "TINY"]

PRECISIONS = ("bf16", "fp16", "fp32")
READS = {
    2: ("data.", "model.weights", "model.revision"),
    3: (
        "data.root", "data.scenes", "data.val_scenes", "data.train_val_split", "data.gap_covisibility", "data.depth_scale", "data.stand_in",
        "data.drop_obs_masks", "data.region_masks", "model.image_width_px", "model.image_height_px", "train.seed",
    ),
}  # fmt: skip
CODE = {2: ("demo",), 3: ("data",), 4: ("model", "losses", "frames", "assemble"), 5: ("metrics", "evaluate", "drawing")}

SUFFIXES = {"scale": "", "median": "_frame_median", "scale_shift": "_frame_line", "none": "_unaligned"}
DEPTH = {"mae": Metric("m"), "rmse": Metric("m"), "abs_rel": Metric(), "sq_rel": Metric("m")}
DEPTH |= {f"delta_{limit}": Metric(lower_is_better=False) for limit in ("1", "2", "3", "103", "110")}  # 1.25, its powers, 1.03, 1.10
MEASURES = {name + suffix: metric for suffix in SUFFIXES.values() for name, metric in DEPTH.items()}
MEASURES |= {f"pose_auc_{limit}": Metric(lower_is_better=False) for limit in (3, 5, 15, 30)} | {"fov_error": Metric("deg")}
MEASURES |= {"accuracy": Metric("m"), "completeness": Metric("m"), "chamfer": Metric("m"), "ause": Metric()}  # the mean confidence has no better
MEASURES |= {f"{name}_{side}": DEPTH[name] for side in ("region", "outside") for name in ("mae", "abs_rel")}


def plan(cfg: Config) -> Plan:
    from lib.recipes.vggt_eth3d import costs

    return costs.plan(cfg)


def assets(cfg: Config) -> list[Asset]:
    from lib.recipes.vggt_eth3d import sources

    return sources.assets(cfg)


def prepare(cfg: Config, places: dict[str, Path], out: Path):
    from lib.recipes.vggt_eth3d import data

    return data.prepare(cfg, places, out)


def split(cfg: Config, records: list[Record], out: Path) -> Split:
    from lib.recipes.vggt_eth3d import data

    return data.split(cfg, records, out)


def summarise_data(cfg: Config, records: list[Record]) -> dict[str, Any]:
    from lib.recipes.vggt_eth3d import data

    return data.summarise_data(cfg, records)


def stages(cfg: Config, manifest: Manifest) -> list[Stage]:
    return [Stage("adapt", cfg.train.epochs * -(-cfg.data.samples_per_epoch // cfg.train.global_batch))]


def build(cfg: Config, stage: Stage, places: dict[str, Path]) -> Parts:
    from lib.recipes.vggt_eth3d import assemble

    return assemble.build(cfg, places["base"])


def sampler(cfg: Config, stage: Stage, manifest: Manifest, side: str) -> Sampler:
    from lib.recipes.vggt_eth3d import frames

    return frames.sampler(cfg, manifest, side)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    from lib.recipes.vggt_eth3d import frames

    return frames.collate(samples)


def objectives(cfg: Config, stage: Stage) -> list[Objective]:
    from lib.recipes.vggt_eth3d import assemble

    return [Objective("depth", assemble.loss(cfg), (Group("vggt", r"vggt\..*", cfg.train.lr, cfg.train.weight_decay),))]


def base_limits(cfg: Config, manifest: Manifest) -> dict[str, float]:
    from lib.recipes.vggt_eth3d import evaluate

    return evaluate.base_limits(cfg, manifest)


def measures(cfg: Config, stage: Stage) -> dict[str, Metric]:
    return MEASURES


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    from lib.recipes.vggt_eth3d import evaluate

    return evaluate.score_batch(cfg, parts, batch)


def summarise(cfg: Config, rows: list[Row]) -> dict[str, float]:
    from lib.recipes.vggt_eth3d import evaluate

    return evaluate.summarise(rows)


def describe(cfg: Config, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    from lib.recipes.vggt_eth3d import evaluate

    return evaluate.describe(scores, base, adapted)


def figures(cfg: Config, base: list[Row], adapted: list[Row], out: Path) -> None:
    from lib.recipes.vggt_eth3d import drawing

    drawing.draw(base, adapted, out)


def predict(cfg: Config, parts: Parts, inputs: str, out: Path) -> None:
    from lib.recipes.vggt_eth3d import photographs

    photographs.predict(cfg, parts, Path(inputs), out)


def export(cfg: Config, parts: Parts, out: Path) -> None:
    from lib.recipes.vggt_eth3d import assemble

    assemble.export(cfg, parts, out)

