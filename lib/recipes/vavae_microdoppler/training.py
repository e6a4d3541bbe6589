"""The two losses of a stage: the autoencoder's, which listens to the critic, and the critic's."""

from collections.abc import Callable
from typing import Any

import torch

from lib.recipes import Group, Objective, Parts, Stage
from lib.recipes.vavae_microdoppler.autoencoder import decode, moments_of
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.losses import LossWeights, Pass, Posterior, critic_loss, generator_terms, hinge, vanilla
from lib.recipes.vavae_microdoppler.schedule import critic_steps, rate

SMALL_SHARE = 1e-3
BETAS = (0.5, 0.9)


def objectives(cfg: Config, stage: Stage) -> list[Objective]:
    listens, learns = critic_steps(cfg, stage)
    lr = rate(cfg, stage)
    groups = [Group("autoencoder", r"autoencoder\..*", lr, cfg.train.weight_decay, "adam", BETAS)]
    if cfg.model.vf != "none":
        fixed = cfg.loss.fix_projection and stage.name == "margin"
        groups.append(Group("projection", r"projection\..*", 0.0 if fixed else lr, cfg.train.weight_decay, "adam", BETAS))
    judged = Group("critic", r"critic\..*", lr, cfg.train.weight_decay, "adam", BETAS)
    return [
        Objective("autoencoder", autoencoder_loss(cfg, stage, listens), tuple(groups)),
        Objective("critic", critic_objective(cfg), (judged,), from_step=learns),
    ]


def loss_weights(cfg: Config, stage: Stage) -> LossWeights:
    share = {"align": cfg.loss.align_vf, "reconstruct": cfg.loss.reconstruct_vf}.get(stage.name, cfg.loss.margin_vf)
    margins = (cfg.loss.distance_margin, cfg.loss.cosine_margin) if stage.name in ("margin", "single") else (0.0, 0.0)
    return LossWeights(
        cfg.loss.perceptual, cfg.loss.kl, cfg.loss.critic, share, cfg.loss.adaptive_vf, cfg.loss.distance_weight, cfg.loss.cosine_weight,
        *margins, cfg.loss.averaged,
    )  # fmt: skip


def forward(parts: Parts, image: torch.Tensor) -> tuple[Posterior, torch.Tensor, torch.Tensor]:
    """(posterior, its sample, the sample decoded); the noise comes from torch's generator, which the loop seeds."""
    autoencoder = parts.modules["autoencoder"]
    posterior = Posterior.of(moments_of(autoencoder, image).float())
    sample = posterior.sample(torch.randn_like(posterior.mean))
    return posterior, sample, decode(autoencoder, sample).float()


def autoencoder_loss(
    cfg: Config, stage: Stage, critic_from: int
) -> Callable[[Parts, dict[str, Any], int], tuple[torch.Tensor, dict[str, Any]]]:
    weights, warned = loss_weights(cfg, stage), []

    def loss(parts: Parts, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, Any]]:
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
        return terms["total"] / scale, {name: value for name, value in terms.items() if name not in ("total", "nll_loss")}

    return loss


def share_warning(terms: dict[str, torch.Tensor], weights: LossWeights) -> str:
    """A weight that is not zero and does nothing: what happened to the published guide without anyone noticing."""
    share = float(terms["alignment_share"].detach()) if "alignment_share" in terms else 1.0
    if weights.alignment == 0 or share >= SMALL_SHARE or float(terms["vf_loss"].detach()) == 0:
        return ""
    reason = (
        "its weight is a fixed factor beside a sum over pixels (loss.adaptive_vf=false)"
        if not weights.adaptive_alignment
        else "its gradient is about zero"
    )
    return (
        f"warning: the alignment supplies {share:.1e} of the reconstruction's gradient at the encoder's last layer, "
        f"so it is switched off in effect: {reason}"
    )


def critic_objective(cfg: Config) -> Callable[[Parts, dict[str, Any], int], tuple[torch.Tensor, dict[str, Any]]]:
    kind = {"hinge": hinge, "vanilla": vanilla}[cfg.loss.critic_kind]

    def loss(parts: Parts, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        with torch.no_grad():
            _, _, recon = forward(parts, batch["image"])
        with torch.autocast(recon.device.type, enabled=False):
            terms = critic_loss(parts.modules["critic"], batch["image"], recon, kind)
        # A hinge critic that is sure of a whole batch has no gradient at all; the drift keeps it within reach (Karras et al. 2018).
        return terms["disc_loss"] + cfg.loss.critic_drift * terms["drift"], {
            name: value for name, value in terms.items() if name != "disc_loss"
        }

    return loss
