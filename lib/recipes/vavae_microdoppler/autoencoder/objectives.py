"""The two losses of a stage: the autoencoder's, which listens to the critic, and the critic's."""

from collections.abc import Callable
from typing import Any

import torch

from lib.core.records import Batch, Group, Objective, Parts, Stage
from lib.recipes.vavae_microdoppler.autoencoder.losses import (
    LossWeights,
    Pass,
    Posterior,
    discriminator_loss,
    generator_terms,
    hinge,
    vanilla,
)
from lib.recipes.vavae_microdoppler.autoencoder.model import decode, moments_of
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.schedule import critic_steps, rate

SMALL_SHARE = 1e-3
BETAS = (0.5, 0.9)

Loss = Callable[[Parts, Batch, int], tuple[torch.Tensor, dict[str, Any]]]


def objectives(config: Config, stage: Stage) -> list[Objective]:
    listens, learns = critic_steps(config, stage)
    fixed = config.loss.fix_projection and stage.name == "margin"
    rates = {"autoencoder": rate(config, stage), "critic": rate(config, stage)}
    if config.model.vf != "none":
        rates["projection"] = 0.0 if fixed else rate(config, stage)
    groups = {
        name: Group(name, rf"{name}\..*", lr, config.train.weight_decay, "adam", BETAS) for name, lr in rates.items()
    }
    critic = groups.pop("critic")
    return [
        Objective("autoencoder", autoencoder_loss(config, stage, listens), tuple(groups.values())),
        Objective("critic", critic_loss(config), (critic,), from_step=learns),
    ]


def loss_weights(config: Config, stage: Stage) -> LossWeights:
    """The weights of a stage; margins belong to the stages margin and single."""
    loss, margins = config.loss, stage.name in ("margin", "single")
    return LossWeights(
        perceptual=loss.perceptual,
        kl=loss.kl,
        critic=loss.critic,
        alignment={"align": loss.align_vf, "reconstruct": loss.reconstruct_vf}.get(stage.name, loss.margin_vf),
        adaptive_alignment=loss.adaptive_vf,
        distance=loss.distance_weight,
        cosine=loss.cosine_weight,
        distance_margin=loss.distance_margin if margins else 0.0,
        cosine_margin=loss.cosine_margin if margins else 0.0,
        averaged=loss.averaged,
    )


def forward(parts: Parts, image: torch.Tensor) -> tuple[Posterior, torch.Tensor, torch.Tensor]:
    """(posterior, its sample, the sample decoded) of images (n, 3, h, w) in [-1, 1]; the noise comes from torch's
    generator, which the loop seeds.
    """
    autoencoder = parts.modules["autoencoder"]
    posterior = Posterior.of(moments_of(autoencoder, image).float())
    sample = posterior.sample(torch.randn_like(posterior.mean))
    return posterior, sample, decode(autoencoder, sample).float()


def autoencoder_loss(config: Config, stage: Stage, critic_from: int) -> Loss:
    weights = loss_weights(config, stage)
    warned: list[str] = []

    def loss(parts: Parts, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        image, modules = batch["image"], parts.modules
        posterior, sample, recon = forward(parts, image)
        parts.modules["statistics"].update(sample)
        projected = modules["projection"](sample).float() if "projection" in modules else None
        feature = batch["feature"].float() if projected is not None else None
        with torch.autocast(image.device.type, enabled=False):
            terms = generator_terms(
                Pass(image, recon, posterior, projected, feature), weights,
                modules.get("perceptual"), modules["critic"] if step >= critic_from else None,
                modules["autoencoder"].decoder.conv_out.weight, modules["autoencoder"].encoder.conv_out.weight,
            )  # fmt: skip
        if not warned and (text := share_warning(terms, weights)):
            warned.append(text)
            print(text, flush=True)
        # Summed over pixels the loss is 1e4 to 1e5. Adam does not mind the scale, but clipping and fp16 do.
        scale = 1 if weights.averaged else image[0].numel()
        shown = {name: value for name, value in terms.items() if name not in ("total", "nll_loss")}
        return terms["total"] / scale, shown

    return loss


def share_warning(terms: dict[str, torch.Tensor], weights: LossWeights) -> str:
    """A weight that is not zero and does nothing: what happened to the published guide without anyone noticing."""
    share = float(terms["alignment_share"].detach()) if "alignment_share" in terms else 1.0
    if weights.alignment == 0 or share >= SMALL_SHARE or float(terms["vf_loss"].detach()) == 0:
        return ""
    reason = "its gradient is about zero"
    if not weights.adaptive_alignment:
        reason = "its weight is a fixed factor beside a sum over pixels (loss.adaptive_vf=false)"
    return (
        f"warning: the alignment supplies {share:.1e} of the reconstruction's gradient at the encoder's last layer, "
        f"so it is switched off in effect: {reason}"
    )


def critic_loss(config: Config) -> Loss:
    kind = {"hinge": hinge, "vanilla": vanilla}[config.loss.critic_kind]

    def loss(parts: Parts, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        with torch.no_grad():
            _, _, recon = forward(parts, batch["image"])
        with torch.autocast(recon.device.type, enabled=False):
            terms = discriminator_loss(parts.modules["critic"], batch["image"], recon, kind)
        # A hinge critic that is sure of a whole batch has no gradient at all; the drift keeps it within reach (Karras
        # et al. 2018).
        total = terms["discriminator_loss"] + config.loss.critic_drift * terms["drift"]
        return total, {name: value for name, value in terms.items() if name != "discriminator_loss"}

    return loss
