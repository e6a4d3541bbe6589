"""Depth Anything 3 SMALL and BASE (Lin et al. 2025, arXiv 2511.10647): depth of building scenes, adapted by LoRA."""

from lib.recipes.da3_eth3d.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "FUNCTIONS", "PRECISIONS", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")
FUNCTIONS = {
    "lib.scenes.data": "prepare split summarise_data",
    "lib.scenes.samples": "sampler collate",
    "lib.scenes.stages": "stages",
    "lib.scenes.evaluate": "summarise describe",
    "lib.scenes.figures": "figures",
    "lib.scenes.export": "export",
    "lib.scenes.propose": "propose",
    "costs": "plan",
    "sources": "assets",
    "assemble": "build objectives",
    "evaluate": "measures score_batch",
    "predict": "predict predict_scaled",
}
