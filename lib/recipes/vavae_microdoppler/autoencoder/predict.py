"""The adapted autoencoder for others: one file for a DiT, one under the published names, one folder for diffusers; and
reconstructions of a person's own images and echoes.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
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
from lib.recipes.vavae_microdoppler.autoencoder.samples import network_input
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.echo_files import Unusable
from lib.recipes.vavae_microdoppler.readers import READERS, at_size
from lib.recipes.vavae_microdoppler.stored import printable
from lib.recipes.vavae_microdoppler.walk import ARRAY_TYPES, IMAGE_TYPES, TYPES, File, walk

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
    why another one could not be read. In a run of echoes or arrays (data.kind) these are read too, as step 3 reads
    them: of an echo, every window. A file's whole name is kept: w0.jpg becomes w0.jpg.png, the second window of
    walk.npy becomes walk.npy#1.png.

    Stop: nothing there that the run can read; a library is missing.
    """
    import pandas as pd

    rows: list[tuple[str, float | None, str]] = []
    for file in files_at(config, Path(inputs)):
        try:
            for name, image in read(config, file):
                recon, quality = reconstruct(parts.modules["autoencoder"], image)
                with atomic(out / f"{name}.png") as temporary:
                    Image.fromarray(metrics.to_uint8(recon)[0].cpu().numpy()).save(temporary, format="PNG")
                rows.append((name, round(quality, 3), ""))
        except pictures.Unreadable as error:
            print(f"  {file.name}: {error}", flush=True)
            rows.append((file.name, None, str(error)))
    table = pd.DataFrame(rows, columns=["file", "psnr_db", "problem"]).astype({"psnr_db": NUMBER})
    write_table(out / "psnr.csv", table)
    if table["psnr_db"].isna().all():
        raise Stop(f"--predict {inputs}: none of its {len(rows)} files can be read", "their reasons are in psnr.csv")


def files_at(config: Config, place: Path) -> list[File]:
    """The file, or those of a folder. Stop: there is none."""
    if place.is_file():
        return [File(place, printable(place.name))]
    types = tuple(dict.fromkeys((*IMAGE_TYPES, *TYPES[config.data.kind])))
    found = sorted(walk(place, "", types, Counter(), ()), key=lambda file: file.name) if place.is_dir() else []
    if not found:
        cause = f"--predict {place}: nothing there that a run of data.kind={config.data.kind} reads"
        raise Stop(f"{cause} ({', '.join(types)})", "give such a file or a folder of them, or another run")
    return found


def read(config: Config, file: File) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and (1, 3, side, side) in [-1, 1] of each picture of a file, as step 3 makes it.

    Unreadable: it cannot be read, or a window of it.
    """
    if file.problem:
        raise pictures.Unreadable(file.problem)
    kind = config.data.kind if file.path.suffix.lower() in ARRAY_TYPES else "images"
    try:
        for name, picture, _ in READERS[kind](config, file):
            pixels = np.asarray(at_size(picture, config.model.image_px))
            yield name, torch.from_numpy(network_input(pixels))[None]
    except (OSError, Unusable) as error:
        raise pictures.Unreadable(str(error)) from error


def reconstruct(autoencoder: AutoencoderKL, image: torch.Tensor) -> tuple[torch.Tensor, float]:
    """(image of the posterior's mean, PSNR in dB against the image), measured in fp32."""
    image = image.to(next(autoencoder.parameters()).device)
    recon = decode(autoencoder, Posterior.of(moments_of(autoencoder, image).float()).mean).float()
    with torch.autocast(image.device.type, enabled=False):
        error = metrics.mse(metrics.unit_range(image), metrics.unit_range(recon))
        return recon, float(metrics.psnr(error, 1.0))
