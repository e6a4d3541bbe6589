"""The adapted autoencoder for others: one file for a DiT, one under the published names, one folder for diffusers."""

import dataclasses
import json
from pathlib import Path

import torch

from lib.errors import Stop
from lib.recipes import Parts
from lib.recipes.vavae_microdoppler.autoencoder import decode, moments_of, to_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.losses import Posterior

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def export(cfg: Config, parts: Parts, out: Path) -> None:
    """
    vavae_encoder_for_dit.safetensors   encoder, decoder, projection, LPIPS, statistics of the latents; configuration in the metadata
    vavae_published.safetensors         exactly the names and shapes of the published autoencoder, for LightningDiT
    diffusers/                          AutoencoderKL.from_pretrained; latents_mean and latents_std in its configuration
    """
    from safetensors.torch import save_file

    autoencoder = parts.modules["autoencoder"].float().cpu()
    published = to_published(autoencoder)
    statistics = parts.modules["statistics"].cpu().statistics()
    together = published | {"latent_mean": statistics.mean, "latent_std": statistics.std}
    if "projection" in parts.modules:
        together |= {f"linear_proj.{name}": tensor for name, tensor in parts.modules["projection"].cpu().state_dict().items()}
    if "perceptual" in parts.modules:  # the stage dit compares generated images by it
        together |= {f"loss.perceptual_loss.{name}": tensor for name, tensor in parts.modules["perceptual"].cpu().state_dict().items()}
    settings = {"model": json.dumps(dataclasses.asdict(cfg.model)), "base": parts.base}
    save_file(
        {name: tensor.contiguous() for name, tensor in together.items()}, out / "vavae_encoder_for_dit.safetensors", metadata=settings
    )
    save_file(published, out / "vavae_published.safetensors")
    autoencoder.register_to_config(latents_mean=statistics.mean.flatten().tolist(), latents_std=statistics.std.flatten().tolist())
    autoencoder.save_pretrained(out / "diffusers")


def predict(cfg: Config, parts: Parts, inputs: str, out: Path) -> None:
    """Reconstructs the images of a folder (or one image) as PNG of the network's size, with PSNR of each in psnr.csv."""
    import numpy as np
    from PIL import Image

    from lib.recipes.vavae_microdoppler import metrics

    place = Path(inputs)
    files = sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGES) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise Stop(f"--predict {inputs}: no image there ({', '.join(IMAGES)})", "give an image or a folder of images")
    device = next(parts.modules["autoencoder"].parameters()).device
    side, lines = cfg.model.image_px, ["file,psnr_db"]
    for file in files:
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
        image = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None].to(device)
        recon = decode(parts.modules["autoencoder"], Posterior.of(moments_of(parts.modules["autoencoder"], image).float()).mean).float()
        quality = float(metrics.psnr(metrics.mse(metrics.unit_range(image), metrics.unit_range(recon)), 1.0))
        name = file.relative_to(place) if place.is_dir() else Path(file.name)
        target = (out / name).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(metrics.to_uint8(recon)[0].cpu().numpy()).save(target)
        lines.append(f"{name.as_posix()},{quality:.3f}")
    (out / "psnr.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
