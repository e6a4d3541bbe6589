"""The losses of VA-VAE (Yao et al., CVPR 2025, arXiv 2501.01423; LightningDiT's vavae code on taming-transformers).

Reconstruction is summed over the pixels of an image, so its gradient is 1e3 to 1e5 times that of the alignment. That is
why the critic's and the alignment's weights are measured from gradients at two named layers; with a fixed weight of 0.1
the alignment would supply less than 1e-3 of the gradient, in other words be switched off. Judge a run by the share that
`alignment_share` states, never by the total.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossWeights:
    """The weights of one stage. `adaptive_alignment=False` uses `alignment` as a plain factor, which beside sums over
    pixels is nothing.
    """

    perceptual: float = 1.0
    kl: float = 1e-6
    critic: float = 0.5
    alignment: float = 0.1
    adaptive_alignment: bool = True
    distance: float = 1.0  # of the distance-matrix part of the alignment
    cosine: float = 1.0
    distance_margin: float = 0.0
    cosine_margin: float = 0.0
    averaged: bool = False  # means instead of sums over pixels (the original's `pp_style`)


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian (n, c, h, w), with the log variance clamped to [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> "Posterior":
        """moments (n, 2c, h, w): the first half of the channels is the mean, the second the log variance."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, noise: Tensor) -> Tensor:
        """noise (n, c, h, w), standard normal -> latent of that shape."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl_elements(self) -> Tensor:
        """Twice the divergence from N(0, 1), element by element (n, c, h, w)."""
        return self.mean**2 + self.logvar.exp() - 1.0 - self.logvar

    def kl(self) -> Tensor:
        """Divergence from N(0, 1) of each image (n,)."""
        return 0.5 * self.kl_elements().sum((1, 2, 3))


def alignment_parts(
    projected: Tensor, feature: Tensor, distance_margin: float = 0.0, cosine_margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """How far latents are from vision features: (distance-matrix part, cosine part).

    projected, feature: (n, c, h, w). The first compares the cosine similarity of all pairs of positions inside an image
    (a position with itself included), the second each position with its own feature; below its margin a term costs
    nothing.
    """
    ours, theirs = (F.normalize(x.flatten(2), dim=1) for x in (projected, feature))  # (n, c, positions)
    gap = (ours.transpose(1, 2) @ ours - theirs.transpose(1, 2) @ theirs).abs()
    distance = F.relu(gap - distance_margin).mean()
    cosine = F.relu(1 - cosine_margin - F.cosine_similarity(projected, feature, dim=1)).mean()
    return distance, cosine


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss on its own logits, of any shape."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def vanilla(real: Tensor, fake: Tensor) -> Tensor:
    """The same with cross entropy (Goodfellow et al. 2014)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def gradient_norm(loss: Tensor, at: Tensor) -> Tensor:
    """L2 norm of the gradient at one tensor, without a graph. The graph of `loss` stays for the real backward pass."""
    return torch.autograd.grad(loss, at, retain_graph=True)[0].float().norm()


@dataclass(frozen=True)
class Pass:
    """What one forward pass of the generator leaves for its loss."""

    image: Tensor  # (n, 3, h, w) in [-1, 1]
    recon: Tensor
    posterior: Posterior
    projected: Tensor | None = None  # the sampled latent in the space of the vision network (n, d, h/16, w/16)
    feature: Tensor | None = None  # the vision network's features of the image


def reconstruction(
    p: Pass, perceptual: Callable[[Tensor, Tensor], Tensor] | None, weights: LossWeights, logvar: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """(loss that is optimised, mean over pixels for the log). The perceptual distance counts at every pixel."""
    error = (p.image - p.recon).abs()
    if perceptual is not None and weights.perceptual:
        error = error + weights.perceptual * perceptual(p.image, p.recon)
    if weights.averaged:
        return error.mean(), error.mean()
    nll = error / torch.as_tensor(logvar).exp() + logvar
    return nll.sum() / len(nll), error.mean()


def divergence(posterior: Posterior, weights: LossWeights) -> Tensor:
    """Mean over images of the divergence from N(0, 1), or of its elements."""
    return posterior.kl_elements().mean() if weights.averaged else posterior.kl().mean()


def generator_terms(
    p: Pass,
    weights: LossWeights,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    critic: Callable[[Tensor], Tensor] | None,
    decoder_layer: Tensor,
    encoder_layer: Tensor | None,
    critic_factor: float = 1.0,
    logvar: Tensor | float = 0.0,
) -> dict[str, Tensor]:
    """Every term of the autoencoder's loss by name; `total` is what to optimise. Call it in fp32, outside autocast.

    `decoder_layer` and `encoder_layer` are the weights of the last convolutions: there the gradients of critic and
    alignment are scaled to `weights.critic` and `weights.alignment` times that of the reconstruction. Without a graph
    (validation) both weights are 0. A critic of None leaves its term out, and so does an absent feature.
    """
    terms: dict[str, Tensor] = {}
    terms["nll_loss"], terms["rec_loss"] = reconstruction(p, perceptual, weights, logvar)
    terms["kl_loss"] = divergence(p.posterior, weights)
    terms["total"] = terms["nll_loss"] + weights.kl * terms["kl_loss"]
    if critic is not None:
        terms |= critic_terms(p, terms["nll_loss"], weights, critic, decoder_layer)
        terms["total"] = terms["total"] + terms["generator_weight"] * critic_factor * terms["generator_loss"]
    if p.feature is not None:
        terms |= alignment_terms(p, terms["nll_loss"], weights, encoder_layer)
        terms["total"] = terms["total"] + terms["vf_weight"] * terms["vf_loss"]
    return terms


def critic_terms(
    p: Pass, nll: Tensor, weights: LossWeights, critic: Callable[[Tensor], Tensor], decoder_layer: Tensor
) -> dict[str, Tensor]:
    """The adversarial loss of the generator, and its weight (`d_weight` in taming-transformers)."""
    loss = -critic(p.recon).mean()
    if not torch.is_grad_enabled():
        return {"generator_loss": loss, "generator_weight": torch.zeros_like(nll)}
    ours, theirs = gradient_norm(nll, decoder_layer), gradient_norm(loss, decoder_layer)
    weight = (ours / (theirs + 1e-4)).clamp(0.0, 1e4) * weights.critic
    return {
        "generator_loss": loss, "generator_weight": weight, "nll_at_decoder": ours, "generator_at_decoder": theirs,
    }  # fmt: skip


def alignment_terms(p: Pass, nll: Tensor, weights: LossWeights, encoder_layer: Tensor | None) -> dict[str, Tensor]:
    """The share is measured with a fixed weight too: a weight that does nothing must be seen."""
    assert p.projected is not None and p.feature is not None
    distance, cosine = alignment_parts(p.projected, p.feature, weights.distance_margin, weights.cosine_margin)
    vf_loss = weights.distance * distance + weights.cosine * cosine
    terms = {"vf_loss": vf_loss, "vf_distance": distance, "vf_cosine": cosine}
    fixed = torch.full_like(nll, 0.0 if weights.adaptive_alignment else weights.alignment)
    if not torch.is_grad_enabled():
        return terms | {"vf_weight": fixed}
    assert encoder_layer is not None
    ours, theirs = gradient_norm(nll, encoder_layer), gradient_norm(vf_loss, encoder_layer)
    adaptive = (ours / (theirs + 1e-4)).clamp(0.0, 1e8) * weights.alignment
    vf_weight = adaptive if weights.adaptive_alignment else fixed
    share = vf_weight * theirs / (ours + 1e-12)
    return terms | {"vf_weight": vf_weight, "nll_at_encoder": ours, "vf_at_encoder": theirs, "alignment_share": share}


def discriminator_loss(
    critic: Callable[[Tensor], Tensor],
    image: Tensor,
    recon: Tensor,
    kind: Callable[[Tensor, Tensor], Tensor] = hinge,
) -> dict[str, Tensor]:
    """The critic's own loss on images and reconstructions (n, 3, h, w) in [-1, 1].

    The reconstruction is detached here, so that nothing else can get a gradient. `drift` is the mean square of the
    logits.
    """
    real, fake = critic(image), critic(recon.detach())
    drift = 0.5 * (real.square().mean() + fake.square().mean())
    loss = kind(real, fake)
    return {"discriminator_loss": loss, "logits_real": real.mean(), "logits_fake": fake.mean(), "drift": drift}
