"""The networks of a stage, strictly loaded from the published file, and what is trained of them.

`vavae-imagenet256-f16d32-dinov2.pt` is a whole Lightning checkpoint: autoencoder, projection, vision network, LPIPS and
critic, 741 tensors besides optimiser states. Flat dictionaries and names behind `module.` or `model.` are taken as well
(lib.network.weights). Every part is loaded strictly by itself; what the file lacks must be allowed by a setting.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from lib.core.errors import Stop
from lib.core.records import FrozenFeatures, Parts, Sample, Stage
from lib.network import weights
from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, from_published
from lib.recipes.vavae_microdoppler.autoencoder.vision import Vision, from_timm, from_transformers
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.latents import RunningMoments
from lib.recipes.vavae_microdoppler.lpips import Perceptual

# Part -> what its names begin with. The first that fits wins; "loss.logvar" is a constant 0 in the original. Statistics
# of latents are in our own export (predict.py); they are counted, and measured anew where they are needed.
PREFIXES = {
    "vision": "foundation_model.model.",
    "perceptual": "loss.perceptual_loss.",
    "critic": "loss.discriminator.",
    "projection": "linear_proj.",
    "constant": "loss.logvar",
    "statistics": "latent_",
}
AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
SOURCES = "sources.json"  # written by lib.data.assets beside what it fetched
FILES = ("*.safetensors", "*.pt", "*.ckpt", "*.pth")

Groups = dict[str, dict[str, torch.Tensor]]  # part -> its tensors, without the part's prefix


def build(config: Config, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
    """Autoencoder, critic, running statistics, and what the settings ask for: LPIPS, vision network and projection.

    Stop: the file lacks a part or one of its tensors, or holds a tensor of no part.
    """
    groups = read_groups(asset_dirs["base"])
    counts = ", ".join(f"{part} {tensors} tensors" for part, (tensors, _) in inventory(groups).items())
    print(f"base: {counts}", flush=True)
    autoencoder = build_autoencoder(config.model.autoencoder)
    renamed = from_published(groups["autoencoder"], autoencoder)
    loaded = {"autoencoder": weights.load_strict(autoencoder, renamed.items())}
    if config.train.gradient_checkpointing:
        autoencoder.enable_gradient_checkpointing()
    modules: dict[str, nn.Module] = {
        "autoencoder": autoencoder,
        "critic": critic(config, groups, loaded),
        "statistics": RunningMoments(config.model.latent_channels),
    }
    if config.loss.perceptual:
        modules["perceptual"] = Perceptual(tuple(config.model.lpips_widths))
        tensors = require(groups, "perceptual", "loss.perceptual=0")
        loaded["perceptual"] = weights.load_strict(modules["perceptual"], tensors)
    if config.model.vf != "none":
        modules["vision"] = vision(config, groups, asset_dirs, loaded)
        modules["projection"] = projection(config, groups, loaded)
    for module in modules.values():
        module.eval()
    base = weights.combine({name: part.fingerprint for name, part in loaded.items()})
    buffers = (r"critic\.main\.\d+\.(running_mean|running_var|num_batches_tracked)", r"statistics\..*")
    return Parts(
        modules, full=trained(config, stage), frozen_features=frozen_features(modules), base=base, buffers=buffers
    )


def read_groups(place: Path) -> Groups:
    """The tensors of a file, or of all weight files of a folder. Stop: no weight file, or a tensor of no part."""
    groups: Groups = {name: {} for name in ("autoencoder", *PREFIXES)}
    unknown = []
    for name, tensor in read(place):
        part = next((part for part, start in PREFIXES.items() if name.startswith(start)), "")
        if part:
            groups[part][name.removeprefix(PREFIXES[part])] = tensor
        elif name.startswith(AUTOENCODER):
            groups["autoencoder"][name] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise Stop(
            f"{place.name}: {len(unknown)} tensors belong to no part of a VA-VAE, e.g. {unknown[0]}",
            "give a file in the published format (model.weights)",
        )
    return groups


def read(place: Path) -> Iterator[tuple[str, torch.Tensor]]:
    files = [place] if place.is_file() else [file for pattern in FILES for file in sorted(place.glob(pattern))]
    if not files:
        raise Stop(f"{place} holds no weight file ({', '.join(FILES)})", "python step2_download.py --force")
    if files[0].suffix != ".safetensors" and (place / SOURCES).is_file():
        # What step 2 fetched lies in our own folder: its pickle is read once and kept as safetensors, without the
        # optimisers' states.
        files = [weights.convert(files[0], files[0].with_suffix(".safetensors"))]
    for file in [f for f in files if f.suffix == ".safetensors"] or files[:1]:
        yield from weights.tensors(file)


def inventory(groups: Groups) -> dict[str, tuple[int, int]]:
    """Part -> (tensors, parameters): what the file really holds."""
    return {part: (len(group), sum(t.numel() for t in group.values())) for part, group in groups.items()}


def require(groups: Groups, part: str, otherwise: str) -> Iterable[tuple[str, torch.Tensor]]:
    """The tensors of a part. Stop where there are none; `otherwise` is the setting that does without them."""
    if not groups[part]:
        raise Stop(
            f"the base has no tensors of the part {part} ({PREFIXES[part]}*)",
            f"take a file that has them, or add {otherwise}",
        )
    return groups[part].items()


def critic(config: Config, groups: Groups, loaded: dict[str, weights.Loaded]) -> PatchCritic:
    """The critic of the file; where it has none, a fresh one, which the stages warm up before it is listened to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        network = PatchCritic(config.model.critic_width, config.model.critic_layers)
    if groups["critic"]:
        loaded["critic"] = weights.load_strict(network, groups["critic"].items())
    else:
        print("the base has no critic: a fresh one is trained")
    return network


def projection(config: Config, groups: Groups, loaded: dict[str, weights.Loaded]) -> nn.Conv2d:
    """Latent channels -> width of the vision network, 1x1 without bias, applied to the sampled latent."""
    layer = nn.Conv2d(config.model.latent_channels, config.model.vision_size.width, 1, bias=False)
    if config.model.fresh_projection:
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=torch.Generator().manual_seed(config.train.seed))
    else:
        loaded["projection"] = weights.load_strict(layer, require(groups, "projection", "model.fresh_projection=true"))
    return layer


def vision(config: Config, groups: Groups, asset_dirs: dict[str, Path], loaded: dict[str, weights.Loaded]) -> Vision:
    size = config.model.vision_size
    if "vision" in asset_dirs:  # dinov2_base and dinov2_small come from their own repositories
        state = from_transformers(asset_dirs["vision"], size.grid)
    else:
        state = from_timm(dict(require(groups, "vision", "model.vf=none")), size.grid)
    network = Vision(size)
    loaded["vision"] = weights.load_strict(network, state.items())
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
