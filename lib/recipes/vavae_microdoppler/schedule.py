"""The stages, their lengths and rates. No torch here.

align: the alignment supplies half as much gradient as the reconstruction. reconstruct: a tenth. margin: a tenth, and
only where latents are further from the features than the margins. Weights, critic, projection and moments go from one
to the next. dit: another network, from its own base, on the latents of the stage before.
"""

from lib.core.records import Manifest, Stage
from lib.recipes.vavae_microdoppler.config import Config


def stages(config: Config, manifest: Manifest) -> list[Stage]:
    """The stages that `train.stages` names, in its order; lengths follow the images on the training side."""
    images = len(manifest.side("train"))
    made: list[Stage] = []
    for name in config.train.stages:
        steps = max(1, round(epochs_of(config, name) * images / config.train.global_batch))
        before = made[-1].name if made else ""
        if name == "dit":  # as many evaluations as the other stages have, not one for each of its many short epochs
            seldom = config.train.evaluate_epochs * config.train.dit_share
            made.append(Stage(name, steps, after=before, kind="dit", evaluate_epochs=seldom))
        else:
            made.append(Stage(name, steps, before or "base", kind="autoencoder"))
    return made


def epochs_of(config: Config, name: str) -> float:
    """A light plan halves the stages of the autoencoder."""
    shares = {
        "reconstruct": config.train.reconstruct_share,
        "margin": config.train.margin_share,
        "dit": config.train.dit_share,
    }
    light = config.train.plan == "light" and name != "dit"
    return config.train.epochs * shares.get(name, 1.0) * (0.5 if light else 1.0)


def rate(config: Config, stage: Stage) -> float:
    """1e-4, 5e-5 and 2e-5 with the defaults: a network that reproduces well already is moved less."""
    shares = {
        "reconstruct": config.train.reconstruct_lr_share,
        "margin": config.train.margin_lr_share,
        "dit": config.train.dit_lr_share,
    }
    return config.train.lr * shares.get(stage.name, 1.0)


def critic_steps(config: Config, stage: Stage) -> tuple[int, int]:
    """(first step that listens to the critic, first step that trains it).

    The published count of 5001 is in steps of two optimisers, so 2500 batches; here it is a share of the first stage.
    Later stages go on with the critic that they inherit, and listen from their first step.
    """
    first = stage.init_from == "base"
    listens = round(config.loss.critic_start_share * stage.steps) if first else 0
    return listens, max(0, listens - round(config.loss.critic_warmup_share * stage.steps) - 1)
