import pytest
import torch

from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
from lib.recipes.vavae_microdoppler.autoencoder.losses import (
    LossWeights,
    Pass,
    Posterior,
    alignment_parts,
    generator_terms,
    hinge,
)
from lib.recipes.vavae_microdoppler.autoencoder.objectives import share_warning
from lib.recipes.vavae_microdoppler.lpips import Perceptual


def wave(rate: float, *shape: int, function=torch.sin) -> torch.Tensor:
    return function(rate * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).float().reshape(shape)


def test_alignment_parts_have_the_published_values():
    # facts/vavae.md 2.1, computed by the original code
    projected, feature = wave(0.37, 2, 8, 2, 2), wave(0.23, 2, 8, 2, 2, function=torch.cos)
    assert [float(x) for x in alignment_parts(projected, feature)] == pytest.approx([0.0960051, 0.7929337], abs=1e-6)
    assert [float(x) for x in alignment_parts(projected, feature, 0.25, 0.5)] == pytest.approx(
        [0.0095764, 0.2929336], abs=1e-6
    )


def test_divergence_and_hinge_have_the_published_values():
    assert Posterior.of(wave(0.51, 2, 4, 2, 2)).kl().tolist() == pytest.approx([2.7401791, 3.2811670], abs=1e-6)
    assert float(hinge(torch.tensor([0.5, 1.5, -1]), torch.tensor([-0.5, -2, 0.25]))) == pytest.approx(
        0.7083333, abs=1e-6
    )


def test_log_variance_is_clamped():
    posterior = Posterior.of(torch.tensor([0.0, 0.0, -100.0, 100.0]).reshape(1, 4, 1, 1))
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]


class Small:
    """One-layer networks: encoder, decoder, projection."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        shapes = ((8, 3, 4, 4), (4, 3, 4, 4), (6, 4, 1, 1))
        drawn = [0.2 * torch.randn(shape, generator=generator) for shape in shapes]
        self.encoder, self.decoder, self.projection = (tensor.requires_grad_() for tensor in drawn)
        self.image = torch.randn(2, 3, 16, 16, generator=generator).clamp(-1, 1)
        self.feature = torch.randn(2, 6, 4, 4, generator=generator)

    def terms(self, weights: LossWeights, critic=None) -> dict[str, torch.Tensor]:
        moments = torch.nn.functional.conv2d(self.image, self.encoder, stride=4)
        sample = Posterior.of(moments).sample(torch.zeros_like(moments[:, :4]))
        recon = torch.nn.functional.conv_transpose2d(sample, self.decoder, stride=4)
        projected = torch.nn.functional.conv2d(sample, self.projection)
        p = Pass(self.image, recon, Posterior.of(moments), projected, self.feature)
        return generator_terms(p, weights, None, critic, self.decoder, self.encoder)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_adaptive_weight_gives_the_alignment_its_share_of_the_gradient(share):
    small = Small()
    terms = small.terms(LossWeights(alignment=share))
    nll, vf = (
        torch.autograd.grad(terms[name], small.encoder, retain_graph=True)[0] for name in ("nll_loss", "vf_loss")
    )
    measured = float(terms["vf_weight"] * vf.norm() / nll.norm())
    assert measured == pytest.approx(share, rel=0.01)
    assert float(terms["alignment_share"]) == pytest.approx(measured, rel=1e-4)


def test_fixed_weight_beside_a_sum_over_pixels_switches_the_alignment_off():
    small = Small()
    fixed, adaptive = LossWeights(alignment=1e-3, adaptive_alignment=False), LossWeights(alignment=0.1)
    assert "switched off in effect" in share_warning(small.terms(fixed), fixed)
    assert share_warning(small.terms(adaptive), adaptive) == ""


def test_without_a_graph_adaptive_weights_are_zero():
    with torch.no_grad():
        terms = Small().terms(LossWeights(), PatchCritic(4, 1))
    assert float(terms["vf_weight"]) == float(terms["generator_weight"]) == 0


def test_critic_weight_is_limited():
    critic = PatchCritic(4, 1)
    for parameter in critic.main[-1].parameters():
        torch.nn.init.zeros_(parameter)
    weight = Small().terms(LossWeights(critic=0.5), critic)["generator_weight"]
    assert float(weight) == 5000.0  # 1e4 at most, times 0.5


def test_perceptual_distance_of_black_images_has_a_finite_gradient():
    torch.manual_seed(0)
    network = Perceptual((4, 4, 4, 4, 4)).eval()
    for part in network.net.children():  # all features exactly 0, where a bare root has an infinite slope
        for layer in part:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.constant_(layer.bias, -1.0)
    black, dark = torch.full((1, 3, 32, 32), -1.0), torch.full((1, 3, 32, 32), -1.0, requires_grad=True)
    distance = network(black, dark)
    distance.sum().backward()
    assert float(distance) == 0 and dark.grad.isfinite().all()
