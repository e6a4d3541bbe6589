"""The adapted autoencoder for others: one file for a DiT, one under the published names, one folder for diffusers; and
reconstructions of a person's own images.
"""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image

from lib.core.errors import Stop
from lib.core.records import Parts, Stage
from lib.core.run import atomic
from lib.core.tables import NUMBER, write_table
from lib.data import pictures
from lib.network import weights
from lib.recipes.vavae_microdoppler import metrics
from lib.recipes.vavae_microdoppler.autoencoder import published
from lib.recipes.vavae_microdoppler.autoencoder.losses import Posterior
from lib.recipes.vavae_microdoppler.autoencoder.model import decode, from_published, moments_of, to_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.stored import printable
from lib.recipes.vavae_microdoppler.walk import IMAGE_TYPES, File, walk

EXPORTED = {"projection": "linear_proj.", "perceptual": "loss.perceptual_loss."}  # the stage dit compares by the latter


def export(config: Config, stage: Stage, parts: Parts, out: Path) -> None:
    """vavae_encoder_for_dit.safetensors    encoder, decoder, projection, LPIPS, statistics of the latents; settings in
                                            the metadata
    vavae_published.safetensors             exactly the names and shapes of the published autoencoder, for LightningDiT
    diffusers/                              for AutoencoderKL.from_pretrained; latents_mean and latents_std in its
                                            configuration

    Stop: no step was trained, so that the latents have no statistics.
    """
    from safetensors.torch import save_file

    autoencoder = parts.modules["autoencoder"].float().cpu()
    state = to_published(autoencoder)
    statistics = parts.modules["statistics"].cpu().statistics()
    together = state | {"latent_mean": statistics.mean, "latent_std": statistics.std}
    for part, start in EXPORTED.items():
        if part in parts.modules:
            own = parts.modules[part].cpu().state_dict()
            together |= {start + name: tensor.contiguous() for name, tensor in own.items()}
    settings = {"model": json.dumps(dataclasses.asdict(config.model)), "base": parts.base}
    save_file(together, out / "vavae_encoder_for_dit.safetensors", metadata=settings)
    save_file(state, out / "vavae_published.safetensors")
    mean, std = (tensor.flatten().tolist() for tensor in (statistics.mean, statistics.std))
    autoencoder.register_to_config(latents_mean=mean, latents_std=std)
    autoencoder.save_pretrained(out / "diffusers")


def read_export(config: Config, stage: Stage, parts: Parts, folder: Path) -> None:
    """The autoencoder alone: it is what `predict` and lib.api use. Stop: a tensor is missing or has another shape."""
    network = parts.modules["autoencoder"]
    stored = published.read_groups([folder / "vavae_published.safetensors"])["autoencoder"]
    weights.load_strict(network, from_published(stored, network).items())


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """Reconstructs the images of a folder (or one image) as PNG of the network's size; PSNR of each in psnr.csv, and
    why another one could not be read. A file's whole name is kept: w0.jpg becomes w0.jpg.png, and w0.png another one.

    Stop: no image there, or none that can be read.
    """
    import pandas as pd

    place = Path(inputs)
    rows: list[tuple[str, float | None, str]] = []
    for file in files_at(place):
        try:
            if file.problem:
                raise pictures.Unreadable(file.problem)
            image = read(file.path, config.model.image_px)
        except pictures.Unreadable as error:
            print(f"  {file.name}: {error}", flush=True)
            rows.append((file.name, None, str(error)))
            continue
        recon, quality = reconstruct(parts.modules["autoencoder"], image)
        target = out / f"{file.name}.png"
        with atomic(target) as temporary:
            Image.fromarray(metrics.to_uint8(recon)[0].cpu().numpy()).save(temporary, format="PNG")
        rows.append((file.name, round(quality, 3), ""))
    table = pd.DataFrame(rows, columns=["file", "psnr_db", "problem"]).astype({"psnr_db": NUMBER})
    write_table(out / "psnr.csv", table)
    if table["psnr_db"].isna().all():
        raise Stop(f"--predict {inputs}: none of its {len(rows)} images can be read", "their reasons are in psnr.csv")


def files_at(place: Path) -> list[File]:
    """The image, or those of a folder. Stop: there is none."""
    if place.is_file():
        return [File(place, printable(place.name))]
    found = sorted(walk(place, "", IMAGE_TYPES, Counter(), ()), key=lambda file: file.name) if place.is_dir() else []
    if not found:
        types = ", ".join(IMAGE_TYPES)
        raise Stop(f"--predict {place}: no image there ({types})", "give an image or a folder of images")
    return found


def read(path: Path, side_px: int) -> torch.Tensor:
    """(1, 3, side, side) in [-1, 1], as step 3 makes it. Unreadable: it is not a picture."""
    picture = pictures.read(path, upright=True).resize((side_px, side_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray((pixels / 127.5 - 1).transpose(2, 0, 1)))[None]


def reconstruct(autoencoder: AutoencoderKL, image: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(image of the posterior's mean, PSNR in dB against the image), measured in fp32."""
    image = image.to(next(autoencoder.parameters()).device)
    recon = decode(autoencoder, Posterior.of(moments_of(autoencoder, image).float()).mean).float()
    with torch.autocast(image.device.type, enabled=False):
        error = metrics.mse(metrics.unit_range(image), metrics.unit_range(recon))
        return recon, float(metrics.psnr(error, 1.0))
