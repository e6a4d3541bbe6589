"""The loss of the stage dit: rectified flow on drawn latents, and if asked for, users held apart in the transformer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.core.records import Batch, Group, Objective, Parts, Stage
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import flow
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT
from lib.recipes.vavae_microdoppler.schedule import rate

BETAS = (0.9, 0.95)  # as published
CLIP = 1.0  # L2 norm; train.clip is in the autoencoder's units


def objectives(config: Config, stage: Stage) -> list[Objective]:
    group = Group("dit", r"dit\..*", rate(config, stage), config.train.weight_decay, "adamw", BETAS, CLIP)
    return [Objective("velocity", velocity_loss(config), (group,))]


def velocity_loss(config: Config) -> Callable[[Parts, Batch, int], tuple[Tensor, dict[str, Any]]]:
    """Of batch["latent"] (n, c, h, w) and ["label"] (n,); torch's generator draws times, noise and dropped labels."""

    def loss(parts: Parts, batch: Batch, step: int) -> tuple[Tensor, dict[str, Any]]:
        dit, device = parts.modules["dit"], batch["latent"].device.type
        with torch.autocast(device, enabled=False):
            data = parts.modules["reference"].statistics.normalise(batch["latent"].float())
            t = flow.lognormal_times(torch.randn(len(data), device=data.device))
            point, velocity = flow.path(data, torch.randn_like(data), t)
            label = flow.drop_labels(batch["label"], dit.null, config.dit.label_dropout)
        with middle_tokens(dit) as tokens:
            predicted = dit(point, t, label).float()
        with torch.autocast(device, enabled=False):
            return terms(config, predicted, velocity, tokens[0].float(), label, dit.null)

    return loss


def terms(
    config: Config, predicted: Tensor, velocity: Tensor, tokens: Tensor, label: Tensor, null: int
) -> tuple[Tensor, dict[str, Any]]:
    """(loss, what is logged) of velocities (n, c, h, w) and the middle block's tokens (n, tokens, width), in fp32."""
    squared, cosine = (part.mean() for part in flow.velocity_losses(predicted, velocity))
    total, numbers = squared + config.loss.velocity_cosine * cosine, {"squared": squared, "cosine": cosine}
    if config.loss.contrastive:
        numbers["contrastive"] = contrastive(tokens.mean(1), label, null, config.loss.contrastive_temperature)
        total = total + config.loss.contrastive * numbers["contrastive"]
    return total, numbers


@contextmanager
def middle_tokens(dit: LightningDiT) -> Iterator[list[Tensor]]:
    """What the middle block of the transformer puts out (n, tokens, width), as the only item of the list."""
    kept: list[Tensor] = []
    middle = dit.blocks[len(dit.blocks) // 2]
    handle = middle.register_forward_hook(lambda _module, _inputs, tokens: kept.append(tokens))
    try:
        yield kept
    finally:
        handle.remove()


def contrastive(features: Tensor, label: Tensor, null: int, temperature: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020): images of one user near each other, of two users apart.

    features (n, width), label (n,). Samples without a label, or alone with theirs in the batch, are left out; 0 where
    none remains.
    """
    near = F.normalize(features, dim=1) @ F.normalize(features, dim=1).T / temperature
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    known = label != null
    near = near.masked_fill(itself | ~known[None], -torch.inf)
    same = (label[:, None] == label[None]) & ~itself & known[:, None]
    usable = same.any(1)
    if not usable.any():
        return features.sum() * 0
    chance = near[usable].log_softmax(1)
    return -(chance.masked_fill(~same[usable], 0).sum(1) / same[usable].sum(1)).mean()
