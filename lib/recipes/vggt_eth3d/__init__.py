"""VGGT (Wang et al. 2025, arXiv 2503.11651): depth and cameras of building scenes, adapted by LoRA."""

from lib.recipes.vggt_eth3d.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "FUNCTIONS", "PRECISIONS", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")
FUNCTIONS = {
    "costs": "plan",
    "sources": "assets",
    "assemble": "build objectives",
    "evaluate": "score_batch base_limits",
    "predict": "predict predict_scaled",
    "adopt": "adopt",
    "lib.scenes.data": "prepare split summarise_data",
    "lib.scenes.samples": "sampler collate",
    "lib.scenes.stages": "stages",
    "lib.scenes.evaluate": "measures summarise describe",
    "lib.scenes.figures": "figures",
    "lib.scenes.export": "export",
    "lib.scenes.propose": "propose",
}
