"""The range of every number of the settings, so that step 1 refuses what a later step would trip over."""

import math
from typing import Any

from lib.core.config import allowed
from lib.core.errors import Stop

# A wavelength above 2 m is one in mm, or a carrier frequency.
# Section -> field -> interval. A list must have every item in it. "(" and ")" leave the end out; NaN is in none.
BOUNDS = {
    "model": {
        "image_px": "[16, inf)",  # LPIPS halves the side four times
        "channels": "[1, inf)", "multipliers": "[1, inf)", "blocks": "[1, inf)", "attention": "[0, inf)",
        "latent_channels": "[1, inf)", "norm_groups": "[1, inf)",
        "vf_width": "[0, inf)", "vf_depth": "[0, inf)", "vf_heads": "[0, inf)", "lpips_widths": "[1, inf)",
        "critic_width": "[1, inf)", "critic_layers": "[1, 8]", "freeze_encoder_layers": "[0, inf)",
        "dit_width": "[0, inf)", "dit_depth": "[0, inf)", "dit_heads": "[0, inf)", "dit_patch": "[1, inf)",
    },
    "data": {
        "val_share": "(0, 1)", "gap_images": "[0, inf)", "prf_hz": "(0, inf)", "wavelength_m": "(0, 2]",
        "window_s": "(0, inf)", "duration_s": "(0, inf)", "stride_s": "(0, inf)", "low_m_s": "(-inf, inf)",
        "high_m_s": "(-inf, inf)", "range_db": "(0, inf)", "stand_in_users": "[1, inf)",
        "stand_in_recordings": "[1, inf)", "stand_in_windows": "[1, inf)", "stand_in_difference": "[0, inf)",
        "stand_in_px": "[16, inf)", "range_bins": "[0, inf)", "hop_s": "[0, inf)", "notch_m_s": "[0, inf)",
    },
    "loss": {
        "perceptual": "[0, inf)", "kl": "[0, inf)", "critic": "[0, inf)", "critic_drift": "[0, inf)",
        "critic_start_share": "[0, 1]", "critic_warmup_share": "[0, 1]", "align_vf": "[0, inf)",
        "reconstruct_vf": "[0, inf)", "margin_vf": "[0, inf)", "distance_weight": "[0, inf)",
        "cosine_weight": "[0, inf)",
        "distance_margin": "[0, 2]", "cosine_margin": "[0, 2]",  # cosines differ by 2 at most
        "velocity_cosine": "[0, inf)", "contrastive": "[0, inf)", "contrastive_temperature": "(0, inf)",
    },
    "dit": {
        "label_dropout": "[0, 1)", "sampling_steps": "[1, inf)", "shift": "[0, 1)", "guidance": "[0, inf)",
        "guidance_start": "[0, 1)",
    },
    "train": {
        "reconstruct_share": "(0, inf)", "margin_share": "(0, inf)", "dit_share": "(0, inf)",
        "reconstruct_lr_share": "(0, inf)", "margin_lr_share": "(0, inf)", "dit_lr_share": "(0, inf)",
    },
}  # fmt: skip


def refuse_outside(section: str, settings: Any) -> None:
    """Stop: a number of the section lies outside its interval; the sentence names key, value and interval."""
    for name, interval in BOUNDS[section].items():
        value = getattr(settings, name)
        allowed(f"{section}.{name}", f"in {interval}")
        for number in value if isinstance(value, list) else [value]:
            if not inside(number, interval):
                raise Stop(f"{section}.{name}={value} is impossible: it must be in {interval}")


def inside(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    within = low <= number <= high and not math.isnan(number)
    return within and (interval[0] == "[" or number != low) and (interval[-1] == "]" or number != high)
