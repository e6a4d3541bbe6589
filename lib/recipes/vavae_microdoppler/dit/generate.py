"""Noise -> latent along the velocity field -> image. Scoring and --predict draw alike."""

from torch import Tensor

from lib.core.records import Parts
from lib.recipes.vavae_microdoppler.autoencoder.model import decode
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import flow


def images(config: Config, parts: Parts, label: Tensor, noise: Tensor) -> Tensor:
    """label (n,), noise (n, c, h, w) -> images (n, 3, H, W), fp32, of nominal range [-1, 1]."""
    settings, dit = config.dit, parts.modules["dit"]
    times = flow.time_grid(settings.sampling_steps + 1, settings.shift)
    velocity = flow.velocity_of(dit, label, settings.guidance, settings.guidance_start, settings.guidance_first3)
    latent = flow.METHODS[settings.method](velocity, noise, times)[-1]
    normal = parts.modules["reference"].statistics
    return decode(parts.modules["autoencoder"], normal.denormalise(latent.float())).float()
