"""The adapted autoencoder for others: one file for a DiT, one under the published names, one folder for diffusers; and
reconstructions of a person's own images.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from lib.core.errors import Stop
from lib.core.records import Parts, Stage
from lib.recipes.vavae_microdoppler import metrics
from lib.recipes.vavae_microdoppler.autoencoder.losses import Posterior
from lib.recipes.vavae_microdoppler.autoencoder.model import decode, moments_of, to_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.data import IMAGE_TYPES

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
    published = to_published(autoencoder)
    statistics = parts.modules["statistics"].cpu().statistics()
    together = published | {"latent_mean": statistics.mean, "latent_std": statistics.std}
    for part, start in EXPORTED.items():
        if part in parts.modules:
            state = parts.modules[part].cpu().state_dict()
            together |= {start + name: tensor.contiguous() for name, tensor in state.items()}
    settings = {"model": json.dumps(dataclasses.asdict(config.model)), "base": parts.base}
    save_file(together, out / "vavae_encoder_for_dit.safetensors", metadata=settings)
    save_file(published, out / "vavae_published.safetensors")
    mean, std = (tensor.flatten().tolist() for tensor in (statistics.mean, statistics.std))
    autoencoder.register_to_config(latents_mean=mean, latents_std=std)
    autoencoder.save_pretrained(out / "diffusers")


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """Reconstructs the images of a folder (or one image) as PNG of the network's size; PSNR of each in psnr.csv.

    Stop: no image there.
    """
    from PIL import Image

    place = Path(inputs)
    files = sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_TYPES) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        types = ", ".join(IMAGE_TYPES)
        raise Stop(f"--predict {inputs}: no image there ({types})", "give an image or a folder of images")
    autoencoder = parts.modules["autoencoder"]
    device = next(autoencoder.parameters()).device
    side, lines = config.model.image_px, ["file,psnr_db"]
    for file in files:
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
        image = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None].to(device)
        recon = decode(autoencoder, Posterior.of(moments_of(autoencoder, image).float()).mean).float()
        quality = float(metrics.psnr(metrics.mse(metrics.unit_range(image), metrics.unit_range(recon)), 1.0))
        name = file.relative_to(place) if place.is_dir() else Path(file.name)
        target = (out / name).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(metrics.to_uint8(recon)[0].cpu().numpy()).save(target)
        lines.append(f"{name.as_posix()},{quality:.3f}")
    (out / "psnr.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
