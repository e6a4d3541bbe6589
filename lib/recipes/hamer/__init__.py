"""HaMeR (Pavlakos et al., CVPR 2024): hand mesh recovery, adapted by LoRA to other hands, gloves and cameras.

The contract is lib.core.contract; `FUNCTIONS` says which module holds which of its functions.
"""

from lib.recipes.hamer.config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "FUNCTIONS", "PRECISIONS", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")
FUNCTIONS = {
    "costs": "plan",
    "sources": "assets",
    "data": "prepare split summarise_data",
    "samples": "sampler collate",
    "assemble": "stages stage_inputs build objectives export",
    "evaluate": "measures score_batch summarise describe",
    "figures": "figures",
    "predict": "predict",
    "propose": "propose",
    "adopt": "adopt",
}
