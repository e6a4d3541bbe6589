"""The networks of the stage dit: the velocity network, which is trained, and three frozen ones that show and judge its samples.

The published file holds {model, ema, opt, config}; sampling uses `ema`, and so does this. Every trained tensor but the class table
is taken from it, strictly: ImageNet's 1000 classes become the users, and the row after the last one is the null row, as it was.
Position tables are formulas and come from the latent's side, which may be another one than the file's.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from lib import weights
from lib.errors import Stop
from lib.recipes import LoraSpec, Parts
from lib.recipes.vavae_microdoppler.assemble import SOURCES
from lib.recipes.vavae_microdoppler.autoencoder import build_autoencoder, from_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import LightningDiT
from lib.recipes.vavae_microdoppler.judge import Judge
from lib.recipes.vavae_microdoppler.latent_folder import ABOUT, perceptual_network, read_statistics
from lib.recipes.vavae_microdoppler.latents import LatentStatistics
from lib.run import read_json

OWN = re.compile(r"y_embedder\.embedding_table\.weight|pos_embed|feat_rope\.freqs_(cos|sin)")  # not taken from the file
HEADS = (r"dit\.y_embedder\..*", r"dit\.final_layer\..*")  # trained beside a frozen or adapted trunk
AVERAGES = ("ema",)


class Reference(nn.Module):
    """What samples are normalised with and compared to. `mean` and `std` travel in the checkpoint: other ones are other colours."""

    def __init__(self, users: list[str], statistics: LatentStatistics, train_features: torch.Tensor, latent_shape: list[int]):
        super().__init__()
        self.users, self.latent_shape = users, latent_shape
        self.register_buffer("mean", statistics.mean)
        self.register_buffer("std", statistics.std)
        self.register_buffer("train_features", train_features)  # of reconstructed training images (n, 32)

    @property
    def statistics(self) -> LatentStatistics:
        return LatentStatistics(self.mean, self.std)


def build(cfg: Config, places: dict[str, Path]) -> Parts:
    folder = places["groundwork"]
    about = read_json(folder / ABOUT)
    autoencoder, judge = build_autoencoder(cfg.model.autoencoder), Judge(len(about["users"]))
    weights.load_strict(autoencoder, from_published(dict(weights.tensors(folder / "autoencoder.safetensors")), autoencoder).items())
    weights.load_strict(judge, folder / "judge.safetensors")
    dit, origin = network(cfg, len(about["users"]), places)
    modules = {"dit": dit, "autoencoder": autoencoder, "judge": judge, "perceptual": perceptual_network(cfg, places)}
    modules["reference"] = reference(cfg, folder)
    for module in modules.values():
        module.eval()
    base = weights.combine({"dit": origin, "autoencoder": about["autoencoder"]})
    return Parts(modules, lora=adapters(cfg, dit), full=trained(cfg), base=base, buffers=(r"reference\.(mean|std)",))


def reference(cfg: Config, folder: Path) -> Reference:
    about, stored = read_json(folder / ABOUT), dict(weights.tensors(folder / "features.safetensors"))
    features = stored["decoded_feature"][: len(about["samples"]["train"])].clone()
    return Reference(about["users"], read_statistics(folder, cfg.model.latent_channels), features, about["shape"])


def network(cfg: Config, labels: int, places: dict[str, Path]) -> tuple[LightningDiT, str]:
    """(network, fingerprint of its start). A seeded start is named by its seed: the last bits of a draw differ between machines."""
    size = cfg.model.dit_size(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.train.seed)
        model = LightningDiT(size)
    model.checkpointing = cfg.train.checkpointing
    if cfg.model.dit_weights == "scratch":
        return model, f"scratch {size} {cfg.train.seed}"
    own = {name: tensor.clone() for name, tensor in model.state_dict().items() if OWN.fullmatch(name)}
    loaded = weights.load_strict(model, chain(trunk(places["dit"]), own.items()))
    print(f"LightningDiT: {loaded.matched - len(own)} tensors from the file, a new class table of {labels} users and the null row")
    return model, f"{weights.fingerprint(trunk(places['dit']))} {cfg.train.seed}"


def trunk(place: Path) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor) for name, tensor in published(place) if not OWN.fullmatch(name))


def published(place: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The averaged weights of a file in the published format, or of the one file in a folder."""
    files = [place] if place.is_file() else sorted(p for p in place.iterdir() if p.suffix in (".safetensors", ".pt", ".pth", ".ckpt"))
    if not files:
        raise Stop(f"{place} holds no weight file of a LightningDiT", "python step2_download.py --force")
    chosen = next((file for file in files if file.suffix == ".safetensors"), files[0])
    if chosen.suffix == ".safetensors":
        return weights.tensors(chosen)
    if (place / SOURCES).is_file():  # step 2's own folder: 10 GB of weights, averages and moments are read once, the averages kept
        return weights.tensors(weights.convert(chosen, chosen.with_suffix(".safetensors"), wrappers=AVERAGES))
    stored = weights.read_pickled(chosen, AVERAGES)
    start = weights.prefix(list(stored))
    return ((name.removeprefix(start), tensor) for name, tensor in stored.items())


def trained(cfg: Config) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>"; the position table is a formula and stays."""
    return (r"dit\.(?!pos_embed).*",) if cfg.model.dit_trains == "all" else HEADS


def adapters(cfg: Config, dit: LightningDiT) -> dict[str, LoraSpec]:
    if cfg.model.dit_trains != "lora":
        return {}
    default = cfg.lora.targets == type(cfg.lora)().targets
    expected = dit.size.adapters(cfg.lora.rank) if default else None
    return {"dit": LoraSpec(tuple(cfg.lora.targets), cfg.lora.rank, cfg.lora.alpha, cfg.lora.dropout, cfg.lora.peft, expected)}
