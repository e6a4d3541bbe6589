"""VA-VAE (Yao et al., CVPR 2025, arXiv 2501.01423) on micro-Doppler spectrograms: align, reconstruct, margin; then dit,
a user-conditional LightningDiT on its latents.

The stages are of two kinds, each with a folder of its own: `autoencoder/` and `dit/`. What both share lies beside this
file; `stand_in.py` simulates walkers, `demo_data/` holds what it and the shipped weights are made from.
"""

from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.presets import DEMO, EXPECTED, PRESETS, TINY

__all__ = ["DEMO", "EXPECTED", "FUNCTIONS", "PRECISIONS", "PRESETS", "TINY", "Config"]

PRECISIONS = ("bf16", "fp32")  # fp16 overflows in the losses' sums over pixels
FUNCTIONS = {
    "": {
        "costs": "plan",
        "sources": "assets",
        "adopt": "adopt",
        "data": "prepare summarise_data",
        "membership": "split",
        "schedule": "stages",
        "autoencoder.decision": "decide",
    },
    "autoencoder": {
        "autoencoder.samples": "sampler collate",
        "autoencoder.assemble": "build comparison",
        "autoencoder.objectives": "objectives",
        "autoencoder.evaluate": "measures score_batch summarise describe",
        "autoencoder.figures": "figures",
        "autoencoder.predict": "predict export read_export",
    },
    "dit": {
        "autoencoder.samples": "collate",
        "dit.samples": "sampler",
        "dit.latent_cache": "stage_inputs",
        "dit.assemble": "build comparison",
        "dit.objectives": "objectives",
        "dit.evaluate": "measures score_batch summarise describe",
        "dit.figures": "figures",
        "dit.predict": "predict export network read_export",
    },
}
