"""The networks of a stage, strictly loaded from the published file, and what is trained of them.

Every part is loaded strictly by itself (published.py); what the file lacks must be allowed by a setting. From scratch
(model.weights=scratch) autoencoder, critic and projection are random, by the seed, and only the two frozen networks
come from the file.
"""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from lib.core.records import FrozenFeatures, Parts, Sample, Stage
from lib.network import weights
from lib.recipes.vavae_microdoppler.autoencoder import published
from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, from_published, initialise
from lib.recipes.vavae_microdoppler.autoencoder.published import Groups, require
from lib.recipes.vavae_microdoppler.autoencoder.vision import Vision, from_timm, from_transformers
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.latents import RunningMoments
from lib.recipes.vavae_microdoppler.lpips import Perceptual

# not the blocks' outer layers: losses take the gradients of the last ones
BLOCKS = {
    "autoencoder": (r"(encoder|decoder)\.((down|up)_blocks\.\d+|mid_block)",),
    "vision": (r"model\.encoder\.layer\.\d+",),
}
Prints = dict[str, str]  # part -> fingerprint of what it was loaded from


def build(config: Config, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
    """Autoencoder, critic, running statistics, and what the settings ask for: LPIPS, vision network and projection.

    Stop: the file lacks a part or one of its tensors, or holds a tensor of no part.
    """
    groups = published.of_base(config, asset_dirs)
    counts = ", ".join(f"{part} {tensors} tensors" for part, (tensors, _) in published.inventory(groups).items())
    print(f"base: {counts}", flush=True)
    network, origin = autoencoder(config, groups)
    loaded: Prints = {"autoencoder": origin}
    if config.train.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    modules: dict[str, nn.Module] = {
        "autoencoder": network,
        "critic": critic(config, groups, loaded),
        "statistics": RunningMoments(config.model.latent_channels),
    }
    if config.loss.perceptual:
        modules["perceptual"] = Perceptual(tuple(config.model.lpips_widths))
        tensors = require(groups, "perceptual", "loss.perceptual=0")
        loaded["perceptual"] = weights.load_strict(modules["perceptual"], tensors).fingerprint
    if config.model.vf != "none":
        modules["vision"] = vision(config, groups, asset_dirs, loaded)
        modules["projection"] = projection(config, groups, loaded)
    for module in modules.values():
        module.eval()
    buffers = (r"critic\.main\.\d+\.(running_mean|running_var|num_batches_tracked)", r"statistics\..*")
    features, base = frozen_features(modules), weights.combine(loaded)
    return Parts(
        modules,
        full=trained(config, stage),
        frozen_features=features,
        base=base,
        buffers=buffers,
        shard={name: blocks for name, blocks in BLOCKS.items() if name in modules},
    )


def comparison(config: Config, stage: Stage) -> str:
    """What the column "base" of the scores holds."""
    return "random_init" if config.model.weights == "scratch" else "base"


def autoencoder(config: Config, groups: Groups) -> tuple[AutoencoderKL, str]:
    """(network, fingerprint of its start). A start from scratch is named by its seed, not by its tensors: the last bits
    of a draw differ between machines.
    """
    network = build_autoencoder(config.model.autoencoder)
    if config.model.weights == "scratch":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            initialise(network)
        return network, f"scratch {config.model.autoencoder} {config.train.seed}"
    return network, weights.load_strict(network, from_published(groups["autoencoder"], network).items()).fingerprint


def critic(config: Config, groups: Groups, loaded: Prints) -> PatchCritic:
    """The critic of the file; where it has none or all is new, a fresh one, which the stages warm up before it is
    listened to.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        network = PatchCritic(config.model.critic_width, config.model.critic_layers)
    if groups["critic"] and config.model.weights != "scratch":
        loaded["critic"] = weights.load_strict(network, groups["critic"].items()).fingerprint
    else:
        print("a fresh critic is trained")
    return network


def projection(config: Config, groups: Groups, loaded: Prints) -> nn.Conv2d:
    """Latent channels -> width of the vision network, 1x1 without bias, applied to the sampled latent."""
    layer = nn.Conv2d(config.model.latent_channels, config.model.vision_size.width, 1, bias=False)
    if config.model.fresh_projection or config.model.weights == "scratch":
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=torch.Generator().manual_seed(config.train.seed))
    else:
        tensors = require(groups, "projection", "model.fresh_projection=true")
        loaded["projection"] = weights.load_strict(layer, tensors).fingerprint
    return layer


def vision(config: Config, groups: Groups, asset_dirs: dict[str, Path], loaded: Prints) -> Vision:
    size = config.model.vision_size
    if "vision" in asset_dirs:  # dinov2_base and dinov2_small come from their own repositories
        state = from_transformers(asset_dirs["vision"], size.grid)
    else:
        state = from_timm(dict(require(groups, "vision", "model.vf=none")), size.grid)
    network = Vision(size)
    loaded["vision"] = weights.load_strict(network, state.items()).fingerprint
    return network


def trained(config: Config, stage: Stage) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>". The projection is in every stage that aligns, so that one starts from another's
    tensors.
    """
    if stage.name == "decoder":
        return (r"autoencoder\.(decoder|post_quant_conv)\..*", r"critic\..*")
    levels = "|".join(rf"down_blocks\.{level}\." for level in range(config.model.freeze_encoder_layers))
    frozen = rf"(?!encoder\.(conv_in\.|{levels}))" if levels else ""
    return (rf"autoencoder\.{frozen}.*", r"critic\..*") + ((r"projection\..*",) if config.model.vf != "none" else ())


def frozen_features(modules: dict[str, nn.Module]) -> FrozenFeatures | None:
    """The vision network sees every image once: nothing is augmented, and it is frozen."""
    if "vision" not in modules:
        return None
    network = modules["vision"]

    def units(sample: Sample) -> list[str]:
        return [sample["sha256"] + sample["sample_id"]]

    def compute(sample: Sample, unit: int) -> torch.Tensor:
        device = next(network.parameters()).device
        with torch.autocast(device.type, enabled=False):  # the same features whatever the precision of the training
            return network(torch.from_numpy(sample["image"])[None].to(device))[0].half()

    return FrozenFeatures("vision features", units, compute, r"vision\..*")
