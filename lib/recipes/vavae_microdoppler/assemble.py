"""The networks of a stage, strictly loaded from the published file, and what is trained of them.

`vavae-imagenet256-f16d32-dinov2.pt` is a whole Lightning checkpoint: autoencoder, projection, vision network, LPIPS and
critic, 741 tensors besides optimiser states. Flat dictionaries and names behind `module.` or `model.` are taken as well
(lib.weights). Every part is loaded strictly by itself; what the file lacks must be allowed by a setting.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import weights
from lib.errors import Stop
from lib.recipes import Parts, Prefix, Stage
from lib.recipes.vavae_microdoppler.autoencoder import build_autoencoder, from_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.critic import PatchCritic
from lib.recipes.vavae_microdoppler.latents import RunningMoments
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.recipes.vavae_microdoppler.vision import Vision, from_timm, from_transformers

# Part -> what its names begin with. The first that fits wins; "loss.logvar" is a constant 0 in the original. Statistics of latents
# stand in our own export (exporting.py); they are counted and measured anew where they are needed.
PREFIXES = {
    "vision": "foundation_model.model.",
    "perceptual": "loss.perceptual_loss.",
    "critic": "loss.discriminator.",
    "projection": "linear_proj.",
    "constant": "loss.logvar",
    "statistics": "latent_",
}
AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
SOURCES = "sources.json"  # written by lib.assets beside what it fetched
FILES = ("*.safetensors", "*.pt", "*.ckpt", "*.pth")


def build(cfg: Config, stage: Stage, places: dict[str, Path]) -> Parts:
    groups = read_groups(places["base"])
    print("base: " + ", ".join(f"{part} {tensors} tensors" for part, (tensors, _) in inventory(groups).items()), flush=True)
    autoencoder = build_autoencoder(cfg.model.autoencoder)
    loaded = {"autoencoder": weights.load_strict(autoencoder, from_published(groups["autoencoder"], autoencoder).items())}
    if cfg.train.checkpointing:
        autoencoder.enable_gradient_checkpointing()
    modules: dict[str, nn.Module] = {
        "autoencoder": autoencoder,
        "critic": critic(cfg, groups, loaded),
        "statistics": RunningMoments(cfg.model.latent_channels),
    }
    if cfg.loss.perceptual:
        modules["perceptual"] = Perceptual(tuple(cfg.model.lpips_widths))
        loaded["perceptual"] = weights.load_strict(modules["perceptual"], require(groups, "perceptual", "loss.perceptual=0"))
    if cfg.model.vf != "none":
        modules["vision"] = vision(cfg, groups, places, loaded)
        modules["projection"] = projection(cfg, groups, loaded)
    for module in modules.values():
        module.eval()
    base = weights.combine({name: part.fingerprint for name, part in loaded.items()})
    moving = (r"critic\.main\.\d+\.(running_mean|running_var|num_batches_tracked)", r"statistics\..*")
    return Parts(modules, full=trained(cfg, stage), prefix=prefix(modules), base=base, buffers=moving)


def read_groups(place: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a file, or of all weight files of a folder, by part and without the part's prefix."""
    groups: dict[str, dict[str, torch.Tensor]] = {name: {} for name in ("autoencoder", *PREFIXES)}
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
        # What step 2 fetched lies in our own folder: its pickle is read once and kept as safetensors, without optimiser states.
        files = [weights.convert(files[0], files[0].with_suffix(".safetensors"))]
    for file in [f for f in files if f.suffix == ".safetensors"] or files[:1]:
        yield from weights.tensors(file)


def inventory(groups: dict[str, dict[str, torch.Tensor]]) -> dict[str, tuple[int, int]]:
    """Part -> (tensors, numbers): what the file really holds."""
    return {part: (len(group), sum(t.numel() for t in group.values())) for part, group in groups.items()}


def require(groups: dict[str, dict[str, torch.Tensor]], part: str, otherwise: str):
    if not groups[part]:
        raise Stop(f"the base has no tensors of the part {part} ({PREFIXES[part]}*)", f"take a file that has them, or add {otherwise}")
    return groups[part].items()


def critic(cfg: Config, groups, loaded) -> PatchCritic:
    """The critic of the file; where it has none, a fresh one, which the stages warm up before it is listened to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.train.seed)
        network = PatchCritic(cfg.model.critic_width, cfg.model.critic_layers)
    if groups["critic"]:
        loaded["critic"] = weights.load_strict(network, groups["critic"].items())
    else:
        print("the base has no critic: a fresh one is trained")
    return network


def projection(cfg: Config, groups, loaded) -> nn.Conv2d:
    """Latent channels -> width of the vision network, 1x1 without bias, applied to the sampled latent."""
    layer = nn.Conv2d(cfg.model.latent_channels, cfg.model.vision_size.width, 1, bias=False)
    if cfg.model.fresh_projection:
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=torch.Generator().manual_seed(cfg.train.seed))
    else:
        loaded["projection"] = weights.load_strict(layer, require(groups, "projection", "model.fresh_projection=true"))
    return layer


def vision(cfg: Config, groups, places, loaded) -> Vision:
    size = cfg.model.vision_size
    if "vision" in places:  # dinov2_base and dinov2_small come from their own repositories
        state = from_transformers(places["vision"], size.grid)
    else:
        state = from_timm(dict(require(groups, "vision", "model.vf=none")), size.grid)
    network = Vision(size)
    loaded["vision"] = weights.load_strict(network, state.items())
    return network


def trained(cfg: Config, stage: Stage) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>". The projection is in every stage that aligns, so that stages hand over like to like."""
    if stage.name == "decoder":
        return (r"autoencoder\.(decoder|post_quant_conv)\..*", r"critic\..*")
    levels = "|".join(rf"down_blocks\.{level}\." for level in range(cfg.model.freeze_encoder_layers))
    frozen = rf"(?!encoder\.(conv_in\.|{levels}))" if levels else ""
    return (rf"autoencoder\.{frozen}.*", r"critic\..*") + ((r"projection\..*",) if cfg.model.vf != "none" else ())


def prefix(modules: dict[str, nn.Module]) -> Prefix | None:
    """The vision network sees every image once: nothing is augmented, and it is frozen."""
    if "vision" not in modules:
        return None
    network = modules["vision"]

    def compute(sample: dict[str, Any], unit: int) -> torch.Tensor:
        device = next(network.parameters()).device
        with torch.autocast(device.type, enabled=False):  # the same features whatever the precision of the training
            return network(torch.from_numpy(sample["image"])[None].to(device))[0].half()

    return Prefix("vision features", lambda sample: [sample["sha256"] + sample["sample_id"]], compute, r"vision\..*")
