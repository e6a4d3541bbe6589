"""The stages of the training, the networks of a stage, its losses, and the export.

CHANGE: what is adapted and by which loss. The loop, checkpoints, precision and several devices are not the recipe's
business.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lib.core.records import Batch, Group, LoraSpec, Manifest, Objective, Parts, Stage
from lib.core.run import atomic
from lib.network import weights

from .config import Config
from .model import Denoiser


def stages(config: Config, manifest: Manifest) -> list[Stage]:
    """One leg. A second one would start from the first: Stage("sharpen", steps, init_from="adapt")."""
    steps_per_epoch = -(-len(manifest.side("train")) // config.train.global_batch)
    return [Stage("adapt", config.train.epochs * steps_per_epoch)]


def build(config: Config, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
    """The base, every tensor matched, and where the adapters go; lib attaches them afterwards.

    `targets` are regexes over whole names of layers.
    """
    network = Denoiser(config.model.window_px)
    loaded = weights.load_strict(network, asset_dirs["base"] / "base.safetensors")
    lora = config.lora
    adapters = LoraSpec(("spread",), lora.rank, lora.alpha, lora.dropout, lora.peft)
    return Parts({"denoiser": network}, {"denoiser": adapters}, tuple(lora.full), base=loaded.fingerprint)


def objectives(config: Config, stage: Stage) -> list[Objective]:
    """One loss that moves everything that is trained; every trained tensor belongs to exactly one group."""
    everything = Group("denoiser", r"denoiser\..*", config.train.lr, config.train.weight_decay)
    return [Objective("clean", absolute_error, (everything,))]


def absolute_error(parts: Parts, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, Any]]:
    """The mean over the samples, and numbers for the log (loss_…)."""
    error = (parts.modules["denoiser"](batch["noisy"]) - batch["clean"]).abs().mean()
    return error, {"loss_grey_levels": 255 * error.detach()}


def export(config: Config, stage: Stage, parts: Parts, out: Path) -> None:
    """The merged network in the format of the base: whoever can load the base can load this."""
    tensors = {name: tensor.contiguous() for name, tensor in parts.modules["denoiser"].state_dict().items()}
    with atomic(out / "base.safetensors") as temporary:
        save_file(tensors, temporary)
