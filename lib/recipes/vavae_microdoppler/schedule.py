"""The stages, their lengths and rates. No torch here.

align: the alignment supplies half as much gradient as the reconstruction. reconstruct: a tenth. margin: a tenth, and only
where latents are further from the features than the margins. Weights, critic, projection and moments go from one to the next.
dit: another network, from its own base, on the latents of the stage before.
"""

from lib.recipes import Manifest, Stage
from lib.recipes.vavae_microdoppler.config import Config


def stages(cfg: Config, manifest: Manifest) -> list[Stage]:
    images = len(manifest.side("train"))
    shares = {"reconstruct": cfg.train.reconstruct_share, "margin": cfg.train.margin_share, "dit": cfg.train.dit_share}
    made: list[Stage] = []
    for name in cfg.train.stages:
        epochs = cfg.train.epochs * shares.get(name, 1.0) * (0.5 if cfg.train.plan == "light" and name != "dit" else 1.0)
        steps = max(1, round(epochs * images / cfg.train.global_batch))
        before = made[-1].name if made else ""
        if name == "dit":  # as many evaluations as the other stages have, not one for each of its many short epochs
            made.append(Stage(name, steps, after=before, evaluate_epochs=cfg.train.evaluate_epochs * cfg.train.dit_share))
        else:
            made.append(Stage(name, steps, before or "base"))
    return made


def rate(cfg: Config, stage: Stage) -> float:
    """1e-4, 5e-5 and 2e-5 with the defaults: a network that reproduces well already is moved less."""
    shares = {"reconstruct": cfg.train.reconstruct_lr_share, "margin": cfg.train.margin_lr_share, "dit": cfg.train.dit_lr_share}
    return cfg.train.lr * shares.get(stage.name, 1.0)


def critic_steps(cfg: Config, stage: Stage) -> tuple[int, int]:
    """(first step that listens to the critic, first step that trains it).

    The published count of 5001 is in steps of two optimisers, so 2500 batches; here it is a share of the first stage. Later
    stages go on with the critic they were handed, and listen from their first step.
    """
    first = stage.init_from == "base"
    listens = round(cfg.loss.critic_start_share * stage.steps) if first else 0
    return listens, max(0, listens - round(cfg.loss.critic_warmup_share * stage.steps) - 1)
