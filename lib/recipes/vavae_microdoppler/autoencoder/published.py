"""What a file in the published format holds, part by part.

`vavae-imagenet256-f16d32-dinov2.pt` is a whole Lightning checkpoint: autoencoder, projection, vision network, LPIPS and
critic, 741 tensors besides optimiser states. Flat dictionaries and names behind `module.` or `model.` are taken as well
(lib.network.weights). The files are those that step 2 recorded (base.py), never what lies beside them.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from lib.core.errors import Stop
from lib.network import weights
from lib.recipes.vavae_microdoppler.base import SOURCES, base, files_of
from lib.recipes.vavae_microdoppler.config import Config

# Part -> what its names begin with. The first that fits wins; "loss.logvar" is a constant 0 in the original. Statistics
# of latents are in our own export (predict.py); they are counted, and measured again where they are needed.
PREFIXES = {
    "vision": "foundation_model.model.",
    "perceptual": "loss.perceptual_loss.",
    "critic": "loss.discriminator.",
    "projection": "linear_proj.",
    "constant": "loss.logvar",
    "statistics": "latent_",
}
AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")

Groups = dict[str, dict[str, torch.Tensor]]  # part -> its tensors, without the part's prefix


def of_base(config: Config, asset_dirs: dict[str, Path]) -> Groups:
    """What the base of a run holds."""
    return read_groups(files_of(base(config), asset_dirs["base"]))


def read_groups(files: list[Path]) -> Groups:
    """The tensors of all these files. Stop: a tensor of no part, or one that two of the files hold."""
    groups: Groups = {name: {} for name in ("autoencoder", *PREFIXES)}
    unknown, seen = [], dict[str, Path]()
    for file, name, tensor in read(files):
        refuse_second(name, file, seen.setdefault(name, file))
        part = next((part for part, start in PREFIXES.items() if name.startswith(start)), "")
        if part:
            groups[part][name.removeprefix(PREFIXES[part])] = tensor
        elif name.startswith(AUTOENCODER):
            groups["autoencoder"][name] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise Stop(
            f"{files[0]}: {len(unknown)} tensors belong to no part of a VA-VAE, e.g. {unknown[0]}",
            "give a file in the published format (model.weights)",
        )
    return groups


def read(files: list[Path]) -> Iterator[tuple[Path, str, torch.Tensor]]:
    for file in files:
        for name, tensor in weights.tensors(converted(file)):
            yield file, name, tensor


def converted(file: Path, wrappers: tuple[str, ...] = weights.WRAPPERS) -> Path:
    """What step 2 fetched lies in our own folder: its pickle is read once and kept as safetensors beside it, without
    the optimisers' states. A person's own file, or one on a read-only mount, is read as it is.
    """
    ours = (file.parent / SOURCES).is_file() and os.access(file.parent, os.W_OK)
    if file.suffix == ".safetensors" or not ours:
        return file
    return weights.convert(file, file.with_suffix(".safetensors"), wrappers=wrappers)


def refuse_second(name: str, file: Path, first: Path) -> None:
    """Parts of one base may lie in several files; two bases in one folder must not be mixed."""
    if file != first:
        cause = f"{first.name} and {file.name} in {file.parent} both hold {name}: they are two networks"
        raise Stop(cause, f"name the one that is meant: model.weights={file.parent}/{first.name}")


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
