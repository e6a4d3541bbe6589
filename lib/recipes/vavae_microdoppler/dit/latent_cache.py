"""The folder of latents that the stage dit needs: made once per autoencoder and data, found again by every later call.

    cache/latents-<fingerprint>/
        lightningdit/                        what LightningDiT's own loader reads (data.data_path there), alone
            latents_rank00_shard000.safetensors  latents, latents_flip, labels; mean, logvar beside
            latents_stats.pt                 mean, std (1, c, 1, 1), without which that loader would compute them
        latents_stats.safetensors            mean, std (1, c, 1, 1) of the training side
        learning.safetensors                 small training images and labels, from which classifiers of users learn
        judge.safetensors                    the user classifier (judge.py)
        features.safetensors                 of every real image and of its reconstruction: feature, and hit (did the
                                             judge name its user)
        autoencoder.safetensors              what made the latents and decodes them, under the published names
        lineage.json                         what latents and autoencoder were made from: recordings, hashes of files
        latents.json                         fingerprints of the autoencoder and of the pictures, shape, users, samples
                                             of each side; last

`latents` is one draw of the posterior. The published loader takes `latents_flip` every other time, a mirrored image; a
mirrored spectrogram is a walk backwards in time, so here it is a second draw of the same image. Training uses neither:
it draws again from mean and logvar in every epoch.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from lib.core.errors import FAILED, Stop
from lib.core.hashes import folder_fault
from lib.core.records import Manifest, Stage
from lib.core.run import existing, read_json, write_json
from lib.data import prepared
from lib.network import lineage, weights
from lib.recipes.vavae_microdoppler import membership
from lib.recipes.vavae_microdoppler.autoencoder import assemble
from lib.recipes.vavae_microdoppler.autoencoder.model import to_published
from lib.recipes.vavae_microdoppler.autoencoder.published import of_base
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import latent_parts
from lib.recipes.vavae_microdoppler.stored import image_path

ABOUT, MAKE_THEM = "latents.json", "leave dit.latents out: they are made again"


def stage_inputs(
    config: Config,
    stage: Stage,
    manifest: Manifest,
    asset_dirs: dict[str, Path],
    earlier: tuple[Stage, Path] | None,
    cache: Path,
    pause: Callable[[], None],
) -> Path:
    """The finished folder; every file that is there already is kept, and between two of them the session may end.

    Stop: a broken checkpoint, a folder `dit.latents` that has seen what is tested on, or is of another autoencoder or
    other images, latents that do not come out normal. Paused: by `pause`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    autoencoder = adapted_autoencoder(config, asset_dirs, earlier)
    fingerprint = weights.fingerprint(to_published(autoencoder).items())
    if config.dit.latents:
        return given(Path(config.dit.latents), fingerprint, manifest)
    folder = cache / f"latents-{named(fingerprint, manifest)}"
    if (folder / ABOUT).exists():
        return folder
    module: nn.Module = autoencoder  # the types of diffusers' own `to` fit no call
    module.to(device)
    latent_parts.write_shards(folder, autoencoder, manifest, pause)
    statistics = latent_parts.write_statistics(folder, config.model.latent_channels)
    latent_parts.refuse_bad_scale(statistics, autoencoder, manifest)
    latent_parts.write_judged(folder, config, manifest, asset_dirs, autoencoder, pause)
    latent_parts.keep(folder / "autoencoder.safetensors", lambda: to_published(autoencoder.cpu()))
    ancestors = [asset_dirs["base"], *([earlier[1]] if earlier else [])]
    lineage.of_run(manifest, membership.BY, ancestors).write(folder)
    write_json(folder / ABOUT, about(config, manifest, fingerprint))
    return folder


def adapted_autoencoder(
    config: Config, asset_dirs: dict[str, Path], earlier: tuple[Stage, Path] | None
) -> AutoencoderKL:
    """The base, strictly loaded, and over it what the stage before trained, which must be all that it trains."""
    network, _ = assemble.autoencoder(config, of_base(config, asset_dirs))
    if earlier:
        load_trained(network, config, *earlier)
    return network.eval().requires_grad_(False)


def load_trained(network: AutoencoderKL, config: Config, stage: Stage, folder: Path) -> None:
    """Stop: the checkpoint `folder` is broken, or lacks tensors that the stage trains."""
    source, problem = f"the checkpoint {folder.name} of the stage {stage.name}", folder_fault(folder)
    if problem:
        raise Stop(f"{source} is broken: {problem}", "train that stage again (--force)", FAILED)
    state, start = network.state_dict(), "autoencoder."
    pairs = weights.tensors(folder / "weights.safetensors")
    stored = {name.removeprefix(start): tensor for name, tensor in pairs if name.startswith(start)}
    patterns = assemble.trained(config, stage)
    wanted = {name for name in state if any(re.fullmatch(pattern, start + name) for pattern in patterns)}
    if stored.keys() != wanted:
        raise Stop(f"{source} holds {len(stored)} tensors of the autoencoder, not {len(wanted)}")
    weights.load_strict(network, (state | stored).items())


def named(fingerprint: str, manifest: Manifest) -> str:
    """16 hex digits of what the folder is made from."""
    images = [(r.sample_id, r.sha256, r.split) for r in manifest.records if r.status == "ok"]
    made_from = [latent_parts.VERSION, fingerprint, pictures(manifest), images]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def pictures(manifest: Manifest) -> str:
    """The hash of the pictures that step 3 made. The settings of a transform of echoes change them, and no file of the
    user's.
    """
    noted, arrays = existing(manifest.arrays / prepared.FILE)["files"], manifest.arrays
    usable = [image_path(arrays, record.sample_id) for record in manifest.records if record.status == "ok"]
    found = [noted[path.relative_to(arrays).as_posix()] for path in usable]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def about(config: Config, manifest: Manifest, fingerprint: str) -> dict[str, Any]:
    shape = [config.model.latent_channels, config.model.latent_side, config.model.latent_side]
    users = list(membership.read_labels(manifest.arrays))
    made_from = {"autoencoder": fingerprint, "pictures": pictures(manifest)}
    return made_from | {"shape": shape, "users": users, "samples": sides(manifest)}


def sides(manifest: Manifest) -> dict[str, list[str]]:
    return {side: [record.sample_id for record in manifest.side(side)] for side in membership.SIDES}


def given(folder: Path, fingerprint: str, manifest: Manifest) -> Path:
    """A folder that another run made: for the same autoencoder and the same images, or not at all."""
    if seen := lineage.seen(manifest, membership.BY, folder, f"the autoencoder of dit.latents={folder}"):
        raise Stop(seen, MAKE_THEM)
    found = read_json(folder / ABOUT)
    if found is None:
        raise Stop(f"dit.latents={folder}: there is no {ABOUT}, so nothing says which autoencoder made them", MAKE_THEM)
    if found["autoencoder"] != fingerprint:
        others = f"({found['autoencoder'][:12]}, loaded is {fingerprint[:12]})"
        cause = f"dit.latents={folder}: these latents were made by another autoencoder {others}"
        raise Stop(cause, f"bring that one (model.weights), or {MAKE_THEM}")
    if found["samples"] != sides(manifest) or found.get("pictures") != pictures(manifest):
        raise Stop(f"dit.latents={folder}: these are the latents of other images or of another split", MAKE_THEM)
    return folder
