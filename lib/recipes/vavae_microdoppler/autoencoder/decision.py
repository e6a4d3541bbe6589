"""The guide's decision tree: what the untouched base's reconstructions ask for, before anything is trained."""

from collections.abc import Callable
from typing import Any

from lib.recipes.vavae_microdoppler.config import Config

GOOD_DB, FAIR_DB, GOOD_LPIPS = 30.0, 25.0, 0.1
GOOD = f"PSNR > {GOOD_DB:g} dB and LPIPS < {GOOD_LPIPS:g}"
BRANCHES = {
    "good": f"{GOOD}: the DiT on its latents as they are, or a light adaptation",
    "light": f"PSNR > {FAIR_DB:g} dB: a light adaptation, half of every stage",
    "deep": "else: a deep adaptation, whole stages",
}


def branch(psnr: float, lpips: float | None) -> str:
    """good | light | deep. Without LPIPS (loss.perceptual=0) PSNR decides alone."""
    if psnr > GOOD_DB and (lpips is None or lpips < GOOD_LPIPS):
        return "good"
    return "light" if psnr > FAIR_DB else "deep"


def tree(psnr: float, lpips: float | None) -> str:
    """The tree with the numbers, the branch taken marked."""
    taken = branch(psnr, lpips)
    seen = f"untouched base on held-out images: PSNR {psnr:.2f} dB" + ("" if lpips is None else f", LPIPS {lpips:.3f}")
    return "\n".join([seen, *(f"  {'->' if name == taken else '  '} {text}" for name, text in BRANCHES.items())])


def decide(config: Config, score: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """What `train.plan=auto` becomes; nothing where a person has said light or deep, or trains no autoencoder. Random
    weights need whole stages, whatever they score.
    """
    if config.train.stages == ["dit"]:
        return {}
    if config.model.weights == "scratch":
        return {"train.plan": "deep"} if config.train.plan == "auto" else {}
    scores = score()
    taken = branch(scores["psnr"], scores.get("lpips"))
    settings: dict[str, Any] = {"train.plan": "deep" if taken == "deep" else "light"}
    if taken == "good" and "dit" in config.train.stages:
        settings = {"train.stages": ["dit"]}
    does = ", ".join(f"{key}={value}" for key, value in settings.items())
    if config.train.plan != "auto":
        settings, does = {}, f"train.plan={config.train.plan}, as given"
    print(f"{tree(scores['psnr'], scores.get('lpips'))}\n  this run: {does}", flush=True)
    return settings
