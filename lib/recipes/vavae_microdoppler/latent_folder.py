"""The folder of latents that the stage dit stands on: made once per autoencoder and data, found again by every later call.

    cache/latents-<fingerprint>/
        latents_rank00_shard000.safetensors   latents, latents_flip, labels in LightningDiT's layout; mean, logvar beside them
        latents_stats.safetensors             mean, std (1, c, 1, 1) of the training side
        judge.safetensors                     the user classifier (judge.py)
        features.safetensors                  of every real image and of its reconstruction: feature, hit (did the judge name its user)
        autoencoder.safetensors               what made the latents and decodes them, under the published names
        latents.json                          fingerprint of the autoencoder, shape, users, samples of each side; written last

`latents` is one draw of the posterior. The published loader takes `latents_flip` every other time, a mirrored image; a mirrored
spectrogram is a walk backwards in time, so a second draw of the same image stands there. Training uses neither: it draws
anew from mean and logvar in every epoch.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import checkpoint, weights
from lib.errors import FAILED, Stop
from lib.order import Key
from lib.recipes import Manifest, Record, Stage
from lib.recipes.vavae_microdoppler import data, judge
from lib.recipes.vavae_microdoppler.assemble import read_groups, require, trained
from lib.recipes.vavae_microdoppler.autoencoder import build_autoencoder, decode, from_published, moments_of, to_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.evaluate import pooled
from lib.recipes.vavae_microdoppler.latents import LatentStatistics
from lib.recipes.vavae_microdoppler.losses import Posterior
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.run import atomic, read_json, write_json

VERSION = 1  # of the folder's content; a change of the code that makes it counts up
SHARD_IMAGES, BATCH = 1000, 16
STATISTICS_IMAGES = 10_000  # as published
CHECKED_IMAGES = 64  # of the held-out side, for the normalisation
ABOUT, MAKE_ANEW = "latents.json", "leave dit.latents out: they are made anew"


def lay(
    cfg: Config, manifest: Manifest, places: dict[str, Path], earlier: tuple[Stage, Path] | None, cache: Path, pause: Callable[[], None]
) -> Path:
    """The finished folder; every part that is there already is kept, and between two parts the session may end."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = adapted_autoencoder(cfg, places, earlier).to(device)
    fingerprint = weights.fingerprint(to_published(autoencoder.cpu()).items())
    if cfg.dit.latents:
        return given(Path(cfg.dit.latents), fingerprint, manifest)
    folder = cache / f"latents-{named(fingerprint, cfg, manifest)}"
    if (folder / ABOUT).exists():
        return folder
    autoencoder.to(device)
    write_shards(folder, autoencoder, manifest, pause)
    statistics = write_statistics(folder, cfg.model.latent_channels)
    refuse_bad_scale(statistics, autoencoder, manifest)
    write_judged(folder, cfg, manifest, places, autoencoder, pause)
    keep(folder / "autoencoder.safetensors", lambda: to_published(autoencoder.cpu()))
    write_json(folder / ABOUT, about(cfg, manifest, fingerprint))
    return folder


def adapted_autoencoder(cfg: Config, places: dict[str, Path], earlier: tuple[Stage, Path] | None) -> nn.Module:
    """The base, strictly loaded, and over it what the stage before trained, which must be all that it trains."""
    network = build_autoencoder(cfg.model.autoencoder)
    weights.load_strict(network, from_published(read_groups(places["base"])["autoencoder"], network).items())
    if earlier:
        stage, folder = earlier
        problem = checkpoint.fault(folder)
        if problem:
            cause = f"the checkpoint {folder.name} of the stage {stage.name} is broken: {problem}"
            raise Stop(cause, "train that stage again (--force)", FAILED)
        state, start = network.state_dict(), "autoencoder."
        stored = {name.removeprefix(start): t for name, t in weights.tensors(folder / "weights.safetensors") if name.startswith(start)}
        wanted = {name for name in state if any(re.fullmatch(pattern, start + name) for pattern in trained(cfg, stage))}
        if stored.keys() != wanted:
            held = f"{len(stored)} tensors of the autoencoder, not {len(wanted)}"
            raise Stop(f"the checkpoint {folder.name} of the stage {stage.name} holds {held}")
        weights.load_strict(network, (state | stored).items())
    return network.eval().requires_grad_(False)


def named(fingerprint: str, cfg: Config, manifest: Manifest) -> str:
    made_from = [VERSION, fingerprint, cfg.model.image_px, [(r.sample_id, r.sha256, r.split) for r in manifest.records if r.status == "ok"]]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def about(cfg: Config, manifest: Manifest, fingerprint: str) -> dict[str, Any]:
    sides = {side: [record.sample_id for record in manifest.side(side)] for side in ("train", "val")}
    shape = [cfg.model.latent_channels, cfg.model.latent_side, cfg.model.latent_side]
    return {"autoencoder": fingerprint, "shape": shape, "users": list(data.read_labels(manifest.arrays)), "samples": sides}


def given(folder: Path, fingerprint: str, manifest: Manifest) -> Path:
    """A folder that another run made: for the same autoencoder and the same images, or not at all."""
    found = read_json(folder / ABOUT)
    if found is None:
        raise Stop(f"dit.latents={folder}: there is no {ABOUT}, so nothing says which autoencoder made them", MAKE_ANEW)
    if found["autoencoder"] != fingerprint:
        made_by, ours = found["autoencoder"][:12], fingerprint[:12]
        raise Stop(
            f"dit.latents={folder}: these latents were made by another autoencoder ({made_by}, loaded is {ours})",
            f"bring that one (model.weights), or {MAKE_ANEW}",
        )
    here = {side: [record.sample_id for record in manifest.side(side)] for side in ("train", "val")}
    if found["samples"] != here:
        raise Stop(f"dit.latents={folder}: these are the latents of other images or of another split", MAKE_ANEW)
    return folder


# ---------------------------------------------------------------------------------------------- its parts


def keep(path: Path, make: Callable[[], dict[str, torch.Tensor]], metadata: dict[str, str] | None = None) -> None:
    """A part is made once and renamed into place when it is whole."""
    from safetensors.torch import save_file

    if not path.exists():
        content = {name: tensor.cpu().contiguous() for name, tensor in make().items()}
        with atomic(path) as temporary:
            save_file(content, temporary, metadata=metadata)


def write_shards(folder: Path, autoencoder: nn.Module, manifest: Manifest, pause: Callable[[], None]) -> None:
    records = manifest.side("train")
    for number, start in enumerate(range(0, len(records), SHARD_IMAGES)):
        mine = records[start : start + SHARD_IMAGES]
        path = folder / shard_name(number)
        if path.exists():
            continue
        print(f"  latents {start + 1}-{start + len(mine)} of {len(records)}", flush=True)
        about_shard = {"total_size": str(len(mine)), "dtype": "torch.float32", "device": "cpu"}
        keep(path, lambda mine=mine, number=number: shard(autoencoder, manifest, mine, number), about_shard)
        pause()


def shard_name(number: int) -> str:
    return f"latents_rank00_shard{number:03}.safetensors"


def shard(autoencoder: nn.Module, manifest: Manifest, records: list[Record], number: int) -> dict[str, torch.Tensor]:
    posterior = encode(autoencoder, manifest, records)
    noise = Key(VERSION, number, 0).generator().standard_normal((2, *posterior.mean.shape), dtype="float32")
    labels = torch.tensor([int(record.columns["label"]) for record in records])
    first, second = (posterior.sample(torch.from_numpy(draw)) for draw in noise)
    return {"latents": first, "latents_flip": second, "labels": labels, "mean": posterior.mean, "logvar": posterior.logvar}


@torch.no_grad()
def encode(autoencoder: nn.Module, manifest: Manifest, records: list[Record]) -> Posterior:
    device = next(autoencoder.parameters()).device
    found = [Posterior.of(moments_of(autoencoder, images.to(device))) for images in batches(manifest, records)]
    return Posterior(torch.cat([p.mean.cpu() for p in found]), torch.cat([p.logvar.cpu() for p in found]))


def batches(manifest: Manifest, records: list[Record]):
    """Images (n, 3, h, w), BATCH at a time."""
    for start in range(0, len(records), BATCH):
        samples = [data.sample(manifest.arrays, record) for record in records[start : start + BATCH]]
        yield torch.stack([torch.from_numpy(sample["image"]) for sample in samples])


def write_statistics(folder: Path, channels: int) -> LatentStatistics:
    """By channel over the drawn latents of the first STATISTICS_IMAGES training images."""

    def measured() -> dict[str, torch.Tensor]:
        drawn, files = [], sorted(folder.glob("latents_rank*.safetensors"))
        for file in files[: -(-STATISTICS_IMAGES // SHARD_IMAGES)]:
            drawn += [tensor.clone() for name, tensor in weights.tensors(file) if name == "latents"]
        found = LatentStatistics.of(torch.cat(drawn))
        return {"mean": found.mean, "std": found.std}

    keep(folder / "latents_stats.safetensors", measured)
    return read_statistics(folder, channels)


def read_statistics(folder: Path, channels: int) -> LatentStatistics:
    path = folder / "latents_stats.safetensors"
    stored = {name: tensor.clone() for name, tensor in weights.tensors(path)}
    statistics = LatentStatistics(stored["mean"], stored["std"])
    statistics.check(channels, path.name)
    return statistics


def refuse_bad_scale(statistics: LatentStatistics, autoencoder: nn.Module, manifest: Manifest) -> None:
    """Held-out latents, normalised, must look normal: wrong statistics are the classic cause of wrong-coloured samples.

    Other recordings differ a little, a forgotten or doubled normalisation by a lot; hence the loose bounds.
    """
    records = manifest.side("val")[:CHECKED_IMAGES]
    posterior = encode(autoencoder, manifest, records)
    noise = Key(VERSION, -1, 0).generator().standard_normal(tuple(posterior.mean.shape), dtype="float32")
    normal = statistics.normalise(posterior.sample(torch.from_numpy(noise)))
    mean, std = float(normal.mean((0, 2, 3)).abs().mean()), float(normal.std((0, 2, 3)).mean())
    if not (mean < 0.5 and 0.6 < std < 1.6):
        raise Stop(
            f"normalised latents of held-out images have mean {mean:.2f} and standard deviation {std:.2f}, not about 0 and 1",
            "delete the folder cache/latents-* and run the same command again", FAILED,
        )  # fmt: skip


def write_judged(
    folder: Path, cfg: Config, manifest: Manifest, places: dict[str, Path], autoencoder: nn.Module, pause: Callable[[], None]
) -> None:
    """The judge, and what it and the perceptual network say of every real image and of its reconstruction."""
    if (folder / "features.safetensors").exists():
        return
    device, count = next(autoencoder.parameters()).device, len(data.read_labels(manifest.arrays))
    keep(folder / "judge.safetensors", lambda: learned(manifest, count, device).state_dict())
    pause()
    judged = judge.Judge(count)
    weights.load_strict(judged, folder / "judge.safetensors")
    perceptual = perceptual_network(cfg, places).to(device)
    keep(folder / "features.safetensors", lambda: seen(judged.eval().to(device), perceptual, autoencoder, manifest))


def learned(manifest: Manifest, count: int, device: torch.device) -> judge.Judge:
    records = manifest.side("train")
    images = torch.cat([judge.small(images) for images in batches(manifest, records)])
    return judge.learn(images, torch.tensor([int(record.columns["label"]) for record in records]), count, device)


def perceptual_network(cfg: Config, places: dict[str, Path]) -> Perceptual:
    network = Perceptual(tuple(cfg.model.lpips_widths))
    stored = require(read_groups(places["base"]), "perceptual", "another model.weights: generated images are compared by it")
    weights.load_strict(network, stored)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def seen(judged: judge.Judge, perceptual: Perceptual, autoencoder: nn.Module, manifest: Manifest) -> dict[str, torch.Tensor]:
    """{real, decoded}_feature (images, 32) and {real, decoded}_hit (images,), training side first, both in the manifest's order."""
    records, device = manifest.side("train") + manifest.side("val"), next(autoencoder.parameters()).device
    labels = torch.tensor([int(record.columns["label"]) for record in records])
    found: dict[str, list[torch.Tensor]] = {f"{kind}_{what}": [] for kind in ("real", "decoded") for what in ("feature", "hit")}
    for images in batches(manifest, records):
        real = images.to(device)
        for kind, picture in (("real", real), ("decoded", decode(autoencoder, Posterior.of(moments_of(autoencoder, real)).mean))):
            found[f"{kind}_feature"].append(pooled(perceptual, picture).cpu())
            found[f"{kind}_hit"].append(judged(picture).argmax(1).cpu())
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    return {name: (tensor == labels).float() if name.endswith("hit") else tensor for name, tensor in joined.items()}
