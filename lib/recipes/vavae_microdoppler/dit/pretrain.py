"""Makes what stands for the published LightningDiT in the demo of dit_frozen and dit_lora (one core, about 8 minutes):

    python -m lib.recipes.vavae_microdoppler.dit.pretrain

A small network of the published structure learns the latents of textures (textures.py) under the demo's autoencoder;
its classes are the kinds of texture. It has seen no spectrogram, and neither has the published one. The averages are
shipped, in fp16.
"""

from pathlib import Path

import torch

from lib.core.config import from_dotted
from lib.core.order import Key
from lib.network import gradients
from lib.network.weights import load_strict
from lib.recipes.vavae_microdoppler.autoencoder.losses import Posterior
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, from_published, moments_of
from lib.recipes.vavae_microdoppler.autoencoder.published import read_groups
from lib.recipes.vavae_microdoppler.config import Config, ModelConfig
from lib.recipes.vavae_microdoppler.demo_data import textures
from lib.recipes.vavae_microdoppler.dit import flow
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT
from lib.recipes.vavae_microdoppler.latents import LatentStatistics
from lib.recipes.vavae_microdoppler.presets import DEMO

RECIPE = Path(__file__).parents[1]
TARGET = RECIPE / "demo_dit" / "dit.safetensors"
DEMO_FILE = RECIPE / "demo_autoencoder" / "autoencoder.safetensors"
SEED, PICTURES, STEPS, BATCH, LR, DECAY = 30, 3000, 1500, 32, 1e-3, 0.999


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    model = from_dotted(Config, DEMO).model
    posterior, kinds = encoded(model)
    statistics = LatentStatistics.of(posterior.mean)
    network = LightningDiT(model.dit_size(len(textures.KINDS)))
    average = learn(network, posterior, kinds, statistics)
    save(average, network)


def encoded(model: ModelConfig) -> tuple[Posterior, torch.Tensor]:
    """Posteriors (n, c, h, w) of textures and the kind (n,) that fills most of each."""
    autoencoder, stored = build_autoencoder(model.autoencoder), read_groups([DEMO_FILE])["autoencoder"]
    load_strict(autoencoder, from_published(stored, autoencoder).items())
    autoencoder.eval().requires_grad_(False)
    moments, kinds = [], []
    for start in range(0, PICTURES, BATCH):
        numbers = range(start, min(start + BATCH, PICTURES))
        drawn = [textures.picture(Key(SEED, 0, number).generator(), model.image_px, vivid=True) for number in numbers]
        moments.append(moments_of(autoencoder, torch.stack([torch.from_numpy(image) for image, _ in drawn]).float()))
        kinds += [torch.from_numpy(kind).flatten().mode().values for _, kind in drawn]
    return Posterior.of(torch.cat(moments)), torch.stack(kinds)


def learn(
    network: LightningDiT, posterior: Posterior, kinds: torch.Tensor, statistics: LatentStatistics
) -> dict[str, torch.Tensor]:
    """The stage's loss; returns the averaged weights."""
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in trained.items()}
    optimiser = torch.optim.AdamW(trained.values(), lr=LR, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = gradients.learning_rate(LR, 1 / 20, step, STEPS, 0.05)
        chosen = torch.randint(len(kinds), (BATCH,))
        drawn = Posterior(posterior.mean[chosen], posterior.logvar[chosen])
        data = statistics.normalise(drawn.sample(torch.randn_like(drawn.mean)))
        t = flow.lognormal_times(torch.randn(BATCH))
        point, velocity = flow.path(data, torch.randn_like(data), t)
        label = flow.drop_labels(kinds[chosen], network.null, 0.1)
        squared, cosine = flow.velocity_losses(network(point, t, label), velocity)
        optimiser.zero_grad()
        (squared + cosine).mean().backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for name, tensor in average.items():
                tensor.lerp_(trained[name], 1 - gradients.average_decay(DECAY, step))
        if step % 100 == 0:
            error, angle = squared.mean().item(), cosine.mean().item()
            print(f"step {step}: squared error {error:.3f}, 1 - cosine {angle:.3f}", flush=True)
    return average


def save(average: dict[str, torch.Tensor], network: LightningDiT) -> None:
    from safetensors.torch import save_file

    TARGET.parent.mkdir(exist_ok=True)
    content = {name: tensor.detach().half().contiguous() for name, tensor in (network.state_dict() | average).items()}
    save_file(content, TARGET, metadata={"made_by": "python -m lib.recipes.vavae_microdoppler.dit.pretrain"})
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
