"""Vectorised map detection from six cameras: Q-Former and map queries around a frozen Vicuna-7B, on nuScenes.

The idea is that of LLaVA-Map (its guide); ground truth, losses and evaluation are those of MapTR (Liao et al., ICLR
2023).
"""

from lib.recipes.llava_map.config import Config
from lib.recipes.llava_map.presets import DEMO, EXPECTED, PRESETS, TINY

__all__ = ["DEMO", "EXPECTED", "FUNCTIONS", "PRECISIONS", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")
FUNCTIONS = {
    "costs": "plan",
    "sources": "assets",
    "data": "prepare split summarise_data",
    "samples": "sampler collate",
    "assemble": "stages build objectives",
    "evaluate": "measures comparison score_batch summarise describe",
    "figures": "figures",
    "predict": "predict export network read_export",
    "adopt": "adopt",
}
