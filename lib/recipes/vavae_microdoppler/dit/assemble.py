"""The networks of the stage dit: the velocity network, which is trained, and frozen ones that show and judge samples.

The published file holds {model, ema, opt, config}; sampling uses `ema`, and so does this. Every trained tensor but the
class table is taken from it, strictly: ImageNet's 1000 classes become the users, and the row after the last one is the
null row, as it was. Position tables are formulas and come from the latent's side, which may be another one than the
file's.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from lib.core.records import LoraSpec, Parts, Stage
from lib.core.run import read_json
from lib.network import weights
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, from_published
from lib.recipes.vavae_microdoppler.autoencoder.published import converted
from lib.recipes.vavae_microdoppler.base import dit, files_of
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit.judge import Judge
from lib.recipes.vavae_microdoppler.dit.latent_cache import ABOUT
from lib.recipes.vavae_microdoppler.dit.latent_parts import perceptual_network, read_statistics
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT
from lib.recipes.vavae_microdoppler.latents import LatentStatistics

OWN = re.compile(r"y_embedder\.embedding_table\.weight|pos_embed|feat_rope\.freqs_(cos|sin)")  # not taken from the file
HEADS = (r"dit\.y_embedder\..*", r"dit\.final_layer\..*")  # trained beside a frozen or adapted trunk
# Through these layers time and user reach the trunk. Closed, they let a new class table move the velocity by 1.6 % of
# its spread, and the judge finds the right user in 12 % (chance 17 %); opened, in 67 % (demo, 900 steps of 16 latents).
# A table that learns 30 times as fast does not replace them: 17 %. Of adapters (lora.targets) they have one each.
MODULATION = (r"dit\.blocks\.\d+\.adaLN_modulation\..*",)
AVERAGES = ("ema",)
BLOCKS = (r"blocks\.\d+",)


class Reference(nn.Module):
    """What samples are normalised with and compared to. `mean` and `std` (1, c, 1, 1) travel in the checkpoint, because
    other ones give other colours.
    """

    mean: torch.Tensor
    std: torch.Tensor
    train_features: torch.Tensor

    def __init__(
        self, users: list[str], statistics: LatentStatistics, train_features: torch.Tensor, latent_shape: list[int]
    ):
        super().__init__()
        self.users, self.latent_shape = users, latent_shape
        # small training images (n, 3, 64, 64) uint8 and labels (n,), on the CPU; no buffers, since nothing updates them
        self.learning_images, self.learning_labels = torch.empty(0), torch.empty(0)
        self.register_buffer("mean", statistics.mean)
        self.register_buffer("std", statistics.std)
        self.register_buffer("train_features", train_features)  # of reconstructed training images (n, 32)

    @property
    def statistics(self) -> LatentStatistics:
        return LatentStatistics(self.mean, self.std)


def build(config: Config, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
    """The networks, on the latents in asset_dirs["stage_inputs"].

    Stop: the file of the LightningDiT lacks a tensor of the trunk or holds an unknown one; statistics that cannot be.
    """
    folder = asset_dirs["stage_inputs"]
    about = read_json(folder / ABOUT)
    dit, origin = network(config, len(about["users"]), asset_dirs)
    autoencoder, judge = build_autoencoder(config.model.autoencoder), Judge(len(about["users"]))
    stored = dict(weights.tensors(folder / "autoencoder.safetensors"))
    weights.load_strict(autoencoder, from_published(stored, autoencoder).items())
    weights.load_strict(judge, folder / "judge.safetensors")
    modules: dict[str, nn.Module] = {
        "dit": dit,
        "autoencoder": autoencoder,
        "judge": judge,
        "perceptual": perceptual_network(config, asset_dirs),
        "reference": reference(config, folder),
    }
    for module in modules.values():
        module.eval()
    base, buffers = weights.combine({"dit": origin, "autoencoder": about["autoencoder"]}), (r"reference\.(mean|std)",)
    lora, shard = adapters(config, dit), {"dit": BLOCKS}
    return Parts(modules, lora=lora, full=trained(config), base=base, buffers=buffers, shard=shard)


def comparison(config: Config, stage: Stage) -> str:
    """What the column "base" of the scores holds: a network from scratch has no base."""
    return "random_init" if config.model.dit_weights == "scratch" else "base"


def reference(config: Config, folder: Path) -> Reference:
    about, stored = read_json(folder / ABOUT), dict(weights.tensors(folder / "features.safetensors"))
    features = stored["decoded_feature"][: len(about["samples"]["train"])].clone()
    statistics = read_statistics(folder, config.model.latent_channels)
    found = Reference(about["users"], statistics, features, about["shape"])
    learning = {name: tensor.clone() for name, tensor in weights.tensors(folder / "learning.safetensors")}
    found.learning_images, found.learning_labels = learning["images"], learning["labels"]
    return found


def network(config: Config, labels: int, asset_dirs: dict[str, Path]) -> tuple[LightningDiT, str]:
    """(network, fingerprint of its start). A start from scratch is named by its seed, not by its tensors: the last bits
    of a draw differ between machines.
    """
    size = config.model.dit_size(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = LightningDiT(size)
    model.gradient_checkpointing = config.train.gradient_checkpointing
    if config.model.dit_weights == "scratch":
        return model, f"scratch {size} {config.train.seed}"
    own = {name: tensor.clone() for name, tensor in model.state_dict().items() if OWN.fullmatch(name)}
    [file] = files_of(dit(config), asset_dirs["dit"])
    loaded = weights.load_strict(model, chain(trunk(file), own.items()))
    table = f"a new class table of {labels} users and the null row"
    print(f"LightningDiT: {loaded.matched - len(own)} tensors from the file, {table}")
    return model, f"{weights.fingerprint(trunk(file))} {config.train.seed}"


def trunk(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensor) for name, tensor in published(file) if not OWN.fullmatch(name))


def published(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The averaged weights of a file in the published format. Stop: it holds none.

    Of step 2's own folder, 10 GB of weights, averages and moments are read once.
    """
    file = converted(file, AVERAGES)
    if file.suffix == ".safetensors":
        return weights.tensors(file)
    stored = weights.read_pickled(file, AVERAGES)
    start = weights.prefix(list(stored))
    return ((name.removeprefix(start), tensor) for name, tensor in stored.items())


def trained(config: Config) -> tuple[str, ...]:
    """Regexes over "<module>.<tensor>"; the position table is a formula and stays. lora.full opens more tensors."""
    opened = {"all": (r"dit\.(?!pos_embed).*",), "table": HEADS + MODULATION, "lora": HEADS}
    return opened[config.model.dit_trains] + tuple(config.lora.full)


def adapters(config: Config, dit: LightningDiT) -> dict[str, LoraSpec]:
    """The count is stated for the default targets alone."""
    if config.model.dit_trains != "lora":
        return {}
    lora = config.lora
    expected = dit.size.adapters(lora.rank) if lora.targets == type(lora)().targets else None
    return {"dit": LoraSpec(tuple(lora.targets), lora.rank, lora.alpha, lora.dropout, lora.peft, expected)}
