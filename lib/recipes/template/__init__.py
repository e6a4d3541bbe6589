"""A recipe made to be copied: a small network that cleans pictures is adapted by LoRA to cameras it has never seen.

CHANGE: say here what yours adapts to what, and where the base was published. This file is the face of a recipe: what
`--plan` and `--list` read, so nothing here may import torch. The contract is lib.core.contract; lib/recipes/README.md
shows the way from a copy to a report.
"""

from .config import DEMO, EXPECTED, PRESETS, TINY, Config

__all__ = ["DEMO", "EXPECTED", "FUNCTIONS", "PRECISIONS", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp16", "fp32")  # CHANGE: leave out what your losses do not stand
FUNCTIONS = {  # module -> the functions of the contract that it holds
    "costs": "plan",
    "sources": "assets",
    "data": "prepare split summarise_data",
    "samples": "sampler collate",
    "assemble": "stages build objectives export",
    "evaluate": "measures score_batch summarise describe",
    "figures": "figures",
    "predict": "predict",
}
