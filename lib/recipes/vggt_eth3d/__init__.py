"""VGGT (Wang et al. 2025, arXiv 2503.11651): depth and cameras of building scenes, adapted by LoRA."""

from lib.recipes.vggt_eth3d.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "FUNCTIONS", "PRECISIONS", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")
FUNCTIONS = {
    "costs": "plan",
    "sources": "assets",
    "data": "prepare split summarise_data",
    "samples": "sampler collate",
    "assemble": "stages build objectives export",
    "evaluate": "measures score_batch summarise base_limits describe",
    "figures": "figures",
    "predict": "predict",
}
