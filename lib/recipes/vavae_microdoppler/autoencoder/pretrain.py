"""Makes the demo's base, which is shipped (one core, 3 and 15 minutes):

    python -m lib.recipes.vavae_microdoppler.autoencoder.pretrain vision
    python -m lib.recipes.vavae_microdoppler.autoencoder.pretrain autoencoder

A small vision network and a small perceptual network learn to tell textures (textures.py); then a small VA-VAE of the
published structure learns to reproduce them, first by squared error, then by the recipe's own loss at a constant rate,
as the published one was. Nobody's spectrogram is among the pictures. What came out scores 17 dB on textures that it has
not seen and 15.6 dB on simulated spectrograms, where one colour scores 11.4. Without the second part it scores 20 and
17 dB, all of them blurred, and an adaptation that sharpens looks like a loss. The two files hold the published names,
in fp16, so that the demo is loaded by the code that loads the 2 GB original.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from lib.core.config import from_dotted
from lib.core.order import Key
from lib.network.weights import load_strict
from lib.recipes.vavae_microdoppler import metrics
from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
from lib.recipes.vavae_microdoppler.autoencoder.losses import (
    LossWeights,
    Pass,
    Posterior,
    discriminator_loss,
    generator_terms,
    hinge,
)
from lib.recipes.vavae_microdoppler.autoencoder.model import (
    build_autoencoder,
    decode,
    initialise,
    moments_of,
    to_published,
)
from lib.recipes.vavae_microdoppler.autoencoder.published import read_groups
from lib.recipes.vavae_microdoppler.autoencoder.vision import Vision, from_timm, to_timm
from lib.recipes.vavae_microdoppler.config import Config, ModelConfig
from lib.recipes.vavae_microdoppler.demo_data import textures
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.recipes.vavae_microdoppler.presets import DEMO

FOLDER = Path(__file__).parents[1] / "demo_autoencoder"
SEED = 20
FINEST_PX = 6  # period of the finest pattern that the autoencoder is shown: it keeps one number in 6
SHOWN = ("rec_loss", "kl_loss", "vf_cosine", "vf_distance", "alignment_share")  # terms that are printed
# Side of the pictures as drawn, side of the tiles cut from them, pictures per step, steps.
COPYING = ((32, 16, 8, 3000), (32, 32, 8, 1000), (64, 64, 4, 1500))
VISION_PX = 128  # side of the pictures for the vision network: one cell of textures.py per position
SMALL_PX = 64  # side of all other pictures, as of the demo's images


def main(part: str) -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model = from_dotted(Config, DEMO).model
    vision, perceptual = Vision(model.vision_size), Perceptual(tuple(model.lpips_widths))
    if part == "vision":
        make_vision(vision, perceptual)
    else:
        make_autoencoder(model, vision, perceptual)


def make_vision(vision: Vision, perceptual: Perceptual) -> None:
    learn_textures(vision, vision, VISION_PX, steps=600)
    learn_textures(perceptual, lambda image: perceptual.net(perceptual.scaling_layer(image))[-1], SMALL_PX, steps=250)
    set_heads(perceptual)
    groups = {"foundation_model.model.": to_timm(vision), "loss.perceptual_loss.": perceptual.state_dict()}
    save("vision.safetensors", groups)


def make_autoencoder(model: ModelConfig, vision: Vision, perceptual: Perceptual) -> None:
    groups = read_groups([FOLDER / "vision.safetensors"])
    load_strict(vision, from_timm(groups["vision"], model.latent_side).items())
    load_strict(perceptual, groups["perceptual"].items())
    for network in (vision, perceptual):
        network.eval().requires_grad_(False)
    autoencoder = build_autoencoder(model.autoencoder)
    learn_to_copy(autoencoder)
    projection, critic = learn_pictures(model, autoencoder, vision, perceptual, steps=300)
    parts = {"linear_proj.": projection.state_dict(), "loss.discriminator.": critic.state_dict()}
    save("autoencoder.safetensors", {"": to_published(autoencoder)} | parts)


def batch(step: int, size: int, side_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 3, side, side) in [-1, 1] and the kinds of their cells (n, cells, cells)."""
    drawn = [textures.picture(Key(SEED, step, index).generator(), side_px) for index in range(size)]
    images, kinds = zip(*drawn, strict=True)
    return torch.stack([torch.from_numpy(image) for image in images]).float(), torch.from_numpy(np.stack(kinds))


def vivid(step: int, size: int, side_px: int) -> torch.Tensor:
    """Pictures (n, 3, side, side) in [-1, 1], of many colours and with grain."""
    keys = [Key(SEED, step, index) for index in range(size)]
    drawn = [textures.picture(key.generator(), side_px, side_px // FINEST_PX, vivid=True)[0] for key in keys]
    return torch.stack([torch.from_numpy(image) for image in drawn])


def statistics(image: torch.Tensor) -> torch.Tensor:
    """What a cell looks like (n, 14, cells, cells): mean and spread of each colour, log energy of four directions at
    two scales.
    """

    def pool(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, textures.CELL_PX)

    grey = image.mean(1, keepdim=True)
    found = [pool(image), (pool(image**2) - pool(image) ** 2).clamp_min(0).sqrt()]
    for step in (1, 3):
        for dy, dx in ((0, step), (step, 0), (step, step), (step, -step)):
            found.append(0.3 * (pool((grey - grey.roll((dy, dx), (2, 3))) ** 2) + 1e-3).log())
    return torch.cat(found, 1)


def learn_textures(
    network: nn.Module, features: Callable[[torch.Tensor], torch.Tensor], side_px: int, steps: int
) -> None:
    """Every cell says what fills it (cross entropy) and what it looks like (squared error)."""
    kinds = len(textures.KINDS)
    head = nn.LazyConv2d(kinds + 14, 1)
    head(features(batch(0, 2, side_px)[0]))
    optimiser = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-3, weight_decay=0.02)
    network.train()
    for step in range(steps):
        share = step / steps
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1.0, step / 50 + 0.02) * (1 - share) + 1e-5
        image, kind = batch(step, 16, side_px)
        out = head(features(image))
        seen = F.mse_loss(out[:, kinds:], statistics(image))
        loss = F.cross_entropy(out[:, :kinds], kind) + 4 * seen
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            right = (out[:, :kinds].argmax(1) == kind).float().mean()
            said = f"kind told right {right:.2f}, statistics off by {seen:.3f}"
            print(f"{type(network).__name__} step {step}: {said}", flush=True)


def set_heads(perceptual: Perceptual) -> None:
    """LPIPS's heads are fitted to people's judgements, which do not exist for textures: every channel counts alike.

    With 0.1 the distance of a fair reconstruction is about 0.1, as in the published model.
    """
    for number in range(5):
        nn.init.constant_(getattr(perceptual, f"lin{number}").model[1].weight, 0.1)


def tiles(image: torch.Tensor, side_px: int) -> torch.Tensor:
    """(n, 3, h, w) -> (n h/side w/side, 3, side, side)"""
    cut = image.unflatten(3, (-1, side_px)).unflatten(2, (-1, side_px))  # (n, 3, rows, side, columns, side)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def learn_to_copy(autoencoder: AutoencoderKL) -> None:
    """Squared error alone; small tiles first, because many cheap and varied examples matter more than large ones."""
    initialise(autoencoder)
    optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    step, steps = 0, sum(count for _, _, _, count in COPYING)
    for drawn_px, side_px, pictures, count in COPYING:
        for _ in range(count):
            optimiser.param_groups[0]["lr"] = 2e-3 * min(1.0, step / 50 + 0.02) * (1 - 0.98 * step / steps)
            image = tiles(vivid(10_000 + step, pictures, drawn_px), side_px)
            image = image.contiguous(memory_format=torch.channels_last)
            posterior = Posterior.of(moments_of(autoencoder, image))
            recon = decode(autoencoder, posterior.sample(torch.randn_like(posterior.mean)))
            loss = F.mse_loss(recon, image) + 1e-3 * posterior.kl().mean() / image[0].numel()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
            optimiser.step()
            step += 1
            if step % 500 == 0:
                print(f"copying step {step} of {steps}: held-out textures {quality(autoencoder):.2f} dB", flush=True)


@torch.no_grad()
def quality(autoencoder: AutoencoderKL) -> float:
    """PSNR in dB of 32 pictures that no step draws, from the posterior's mean."""
    image = vivid(1, 32, SMALL_PX)
    recon = decode(autoencoder, Posterior.of(moments_of(autoencoder, image)).mean)
    return float(metrics.psnr(metrics.mse(metrics.unit_range(image), metrics.unit_range(recon)), 1.0).mean())


def learn_pictures(
    model: ModelConfig, autoencoder: AutoencoderKL, vision: Vision, perceptual: Perceptual, steps: int
) -> tuple[nn.Conv2d, PatchCritic]:
    """All terms, alignment and critic included; the critic learns from step 30 and is listened to from step 50."""
    critic = PatchCritic(model.critic_width, model.critic_layers)
    projection = nn.Conv2d(model.latent_channels, model.vision_size.width, 1, bias=False)
    groups = [{"params": autoencoder.parameters(), "lr": 5e-4}, {"params": projection.parameters(), "lr": 2e-3}]
    slow = torch.optim.Adam(groups, betas=(0.5, 0.9))
    fast = torch.optim.Adam(critic.parameters(), lr=5e-4, betas=(0.5, 0.9))
    weights = LossWeights(alignment=0.3)
    for step in range(steps):
        image = vivid(20_000 + step, 4, SMALL_PX)
        posterior = Posterior.of(moments_of(autoencoder, image))
        sample = posterior.sample(torch.randn_like(posterior.mean))
        p = Pass(image, decode(autoencoder, sample), posterior, projection(sample), vision(image))
        judge = critic if step >= 50 else None
        terms = generator_terms(
            p, weights, perceptual, judge, autoencoder.decoder.conv_out.weight, autoencoder.encoder.conv_out.weight
        )
        slow.zero_grad()
        (terms["total"] / image[0].numel()).backward()
        nn.utils.clip_grad_norm_([*autoencoder.parameters(), *projection.parameters()], 1.0)
        slow.step()
        if step >= 30:
            fast.zero_grad()
            discriminator_loss(critic, image, p.recon, hinge)["discriminator_loss"].backward()
            fast.step()
        if step % 10 == 0:
            shown = {name: round(float(terms[name].detach()), 4) for name in SHOWN}
            print(f"VA-VAE step {step}: held-out textures {quality(autoencoder):.2f} dB, {shown}", flush=True)
    return projection, critic


def save(name: str, groups: dict[str, dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import save_file

    FOLDER.mkdir(exist_ok=True)
    whole = {prefix + key: tensor for prefix, state in groups.items() for key, tensor in state.items()}
    halved = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in whole.items()}
    made_by = f"python -m lib.recipes.vavae_microdoppler.autoencoder.pretrain {sys.argv[1]}"
    content = {key: tensor.contiguous() for key, tensor in halved.items()}
    save_file(content, FOLDER / name, metadata={"made_by": made_by})
    print(f"{name}: {(FOLDER / name).stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
