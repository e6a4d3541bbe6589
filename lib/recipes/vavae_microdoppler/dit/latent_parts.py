"""The files of a folder of latents, each made once: shards, statistics, the judge, and what is compared.

Their layout is in latent_cache.py.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lib.core.errors import FAILED, Stop
from lib.core.order import Key
from lib.core.records import Manifest, Record
from lib.core.run import atomic
from lib.network import weights
from lib.recipes.vavae_microdoppler import membership
from lib.recipes.vavae_microdoppler.autoencoder.losses import Posterior
from lib.recipes.vavae_microdoppler.autoencoder.model import decode, moments_of
from lib.recipes.vavae_microdoppler.autoencoder.published import of_base, require
from lib.recipes.vavae_microdoppler.autoencoder.samples import sample
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import judge
from lib.recipes.vavae_microdoppler.features import pooled
from lib.recipes.vavae_microdoppler.latents import LatentStatistics
from lib.recipes.vavae_microdoppler.lpips import Perceptual

VERSION = 4  # of the folder's content; a change of the code that makes it counts up
DRAWS = 2  # of the noise of its latents
PUBLISHED = "lightningdit"  # the folder in it that LightningDiT's own loader reads: it takes every .safetensors
SHARD_IMAGES, BATCH = 1000, 16
STATISTICS_IMAGES = 10_000  # as published
CHECKED_IMAGES = 64  # of the test side, for the normalisation


def keep(path: Path, make: Callable[[], dict[str, torch.Tensor]], metadata: dict[str, str] | None = None) -> None:
    """A file is made once and renamed into place when it is whole."""
    from safetensors.torch import save_file

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
        with atomic(path) as temporary:
            save_file(content, temporary, metadata=metadata)


def write_shards(folder: Path, autoencoder: AutoencoderKL, manifest: Manifest, pause: Callable[[], None]) -> None:
    """The latents of the training side, SHARD_IMAGES a file; the session may end between two."""
    records = manifest.side("train")
    for number, start in enumerate(range(0, len(records), SHARD_IMAGES)):
        mine, path = records[start : start + SHARD_IMAGES], folder / shard_name(number)
        if not path.exists():
            print(f"  latents {start + 1}-{start + len(mine)} of {len(records)}", flush=True)
            metadata = {"total_size": str(len(mine)), "dtype": "torch.float32", "device": "cpu"}
            keep(path, partial(shard, autoencoder, manifest, mine, number), metadata)
            pause()


def shard_name(number: int) -> str:
    return f"{PUBLISHED}/latents_rank00_shard{number:03}.safetensors"


def shard(
    autoencoder: AutoencoderKL, manifest: Manifest, records: list[Record], number: int
) -> dict[str, torch.Tensor]:
    """latents, latents_flip, mean, logvar (n, c, h, w) and labels (n,) of the records."""
    posterior = encode(autoencoder, manifest, records)
    noise = Key(DRAWS, number, 0).generator().standard_normal((2, *posterior.mean.shape), dtype="float32")
    labels = torch.tensor([int(record.columns["label"]) for record in records])
    first, second = (posterior.sample(torch.from_numpy(draw)) for draw in noise)
    moments = {"mean": posterior.mean, "logvar": posterior.logvar}
    return {"latents": first, "latents_flip": second, "labels": labels} | moments


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, manifest: Manifest, records: list[Record]) -> Posterior:
    """Posteriors (n, c, h, w) of the records' images, on the CPU."""
    device = next(autoencoder.parameters()).device
    found = [Posterior.of(moments_of(autoencoder, images.to(device))) for images in batches(manifest, records)]
    return Posterior(torch.cat([p.mean.cpu() for p in found]), torch.cat([p.logvar.cpu() for p in found]))


def batches(manifest: Manifest, records: list[Record]) -> Iterator[torch.Tensor]:
    """Images (n, 3, h, w) in [-1, 1], BATCH at a time."""
    for start in range(0, len(records), BATCH):
        images = [sample(manifest.arrays, record)["image"] for record in records[start : start + BATCH]]
        yield torch.stack([torch.from_numpy(image) for image in images])


def write_statistics(folder: Path, channels: int) -> LatentStatistics:
    """By channel over the drawn latents of the first STATISTICS_IMAGES training images."""

    def measured() -> dict[str, torch.Tensor]:
        drawn, files = [], sorted((folder / PUBLISHED).glob("*.safetensors"))
        for file in files[: -(-STATISTICS_IMAGES // SHARD_IMAGES)]:
            drawn += [tensor.clone() for name, tensor in weights.tensors(file) if name == "latents"]
        found = LatentStatistics.of(torch.cat(drawn))
        return {"mean": found.mean, "std": found.std}

    keep(folder / "latents_stats.safetensors", measured)
    statistics = read_statistics(folder, channels)
    with atomic(folder / PUBLISHED / "latents_stats.pt") as temporary:
        torch.save({"mean": statistics.mean, "std": statistics.std}, temporary)
    return statistics


def read_statistics(folder: Path, channels: int) -> LatentStatistics:
    """Stop: they are of another shape than (1, channels, 1, 1), or not positive and finite."""
    path = folder / "latents_stats.safetensors"
    stored = {name: tensor.clone() for name, tensor in weights.tensors(path)}
    statistics = LatentStatistics(stored["mean"], stored["std"])
    statistics.check(channels, path.name)
    return statistics


def refuse_bad_scale(statistics: LatentStatistics, autoencoder: AutoencoderKL, manifest: Manifest) -> None:
    """Held-out latents, normalised, must look normal: wrong statistics are the classic cause of wrong-coloured samples.

    Other recordings differ a little, a forgotten or doubled normalisation by a lot; hence the loose bounds.
    """
    records = manifest.side("test")[:CHECKED_IMAGES]
    posterior = encode(autoencoder, manifest, records)
    noise = Key(DRAWS, -1, 0).generator().standard_normal(tuple(posterior.mean.shape), dtype="float32")
    normal = statistics.normalise(posterior.sample(torch.from_numpy(noise)))
    mean, std = float(normal.mean((0, 2, 3)).abs().mean()), float(normal.std((0, 2, 3)).mean())
    if not (mean < 0.5 and 0.6 < std < 1.6):
        found = f"mean {mean:.2f} and standard deviation {std:.2f}, not about 0 and 1"
        again = "delete the folder cache/latents-* and run the same command again"
        raise Stop(f"normalised latents of held-out images have {found}", again, FAILED)


def write_judged(
    folder: Path,
    config: Config,
    manifest: Manifest,
    asset_dirs: dict[str, Path],
    autoencoder: AutoencoderKL,
    pause: Callable[[], None],
) -> None:
    """The judge, and what it and the perceptual network say of every real image and of its reconstruction."""
    if (folder / "features.safetensors").exists():
        return
    device, count = next(autoencoder.parameters()).device, len(membership.read_labels(manifest.arrays))
    keep(folder / "learning.safetensors", lambda: learning(manifest))
    keep(folder / "judge.safetensors", lambda: learned(folder, count, device).state_dict())
    pause()
    judged = judge.Judge(count)
    weights.load_strict(judged, folder / "judge.safetensors")
    perceptual = perceptual_network(config, asset_dirs).to(device)
    keep(folder / "features.safetensors", lambda: seen(judged.eval().to(device), perceptual, autoencoder, manifest))


def learning(manifest: Manifest) -> dict[str, torch.Tensor]:
    """What classifiers of users learn from: images (n, 3, 64, 64) uint8 and labels (n,) of the training side."""
    records = manifest.side("train")
    images = torch.cat([judge.small(images) for images in batches(manifest, records)])
    return {"images": images, "labels": torch.tensor([int(record.columns["label"]) for record in records])}


def learned(folder: Path, count: int, device: torch.device) -> judge.Judge:
    """The judge of `count` users, trained on the real images of the training side."""
    stored = dict(weights.tensors(folder / "learning.safetensors"))
    return judge.learn(stored["images"], stored["labels"], count, device)


def perceptual_network(config: Config, asset_dirs: dict[str, Path]) -> Perceptual:
    """LPIPS of the autoencoder's base, frozen. Stop where its file holds none."""
    network = Perceptual(tuple(config.model.lpips_widths))
    otherwise = "another model.weights: generated images are compared by it"
    stored = require(of_base(config, asset_dirs), "perceptual", otherwise)
    weights.load_strict(network, stored)
    return network.eval().requires_grad_(False)


def compared_records(manifest: Manifest) -> list[Record]:
    """In the order of features.safetensors: training side first, every side in the manifest's order."""
    return [record for side in membership.SIDES for record in manifest.side(side)]


@torch.no_grad()
def seen(
    judged: judge.Judge, perceptual: Perceptual, autoencoder: AutoencoderKL, manifest: Manifest
) -> dict[str, torch.Tensor]:
    """{real, decoded}_feature (images, 32) and {real, decoded}_hit (images,) of `compared_records`."""
    records, device = compared_records(manifest), next(autoencoder.parameters()).device
    labels = torch.tensor([int(record.columns["label"]) for record in records])
    found: dict[str, list[torch.Tensor]] = {}
    for images in batches(manifest, records):
        real = images.to(device)
        decoded = decode(autoencoder, Posterior.of(moments_of(autoencoder, real)).mean)
        for kind, picture in (("real", real), ("decoded", decoded)):
            found.setdefault(f"{kind}_feature", []).append(pooled(perceptual, picture).cpu())
            found.setdefault(f"{kind}_hit", []).append(judged(picture).argmax(1).cpu())
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: (tensor == labels).float() if name.endswith("hit") else tensor for name, tensor in joined.items()}
