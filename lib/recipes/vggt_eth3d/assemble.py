"""The network of a run: strictly loaded, told what is adapted and what is frozen in front; its loss; its merged export."""
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib import weights
from lib.errors import Stop
from lib.recipes import LoraSpec, Parts, Prefix
from lib.recipes.vggt_eth3d import costs, losses
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.model import VGGT
from lib.recipes.vggt_eth3d.size import ModelSize

WEIGHT_FILES = ("model.safetensors", "base.safetensors", "model.pt")
NOT_BUILT = {"point_head": r"point_head\..*", "track_head": r"track_head\..*"}


def model_size(cfg: Config) -> ModelSize:
    names = {f.name for f in dataclasses.fields(ModelSize)}
    return ModelSize(**{name: value for name, value in vars(cfg.model).items() if name in names})


def build(cfg: Config, folder: Path) -> Parts:
    """The base on the CPU, every tensor matched; keys of heads that are not built are counted and left out."""
    with torch.device("meta"):
        network = VGGT(model_size(cfg))
    ignored = tuple(pattern for head, pattern in NOT_BUILT.items() if not hasattr(network, head))
    loaded = weights.load_strict(network, weight_file(folder), ignore=ignored, dtype=torch.float32)
    network.eval().checkpointing = cfg.train.checkpointing
    if cfg.model.base_precision == "bf16":
        hold_in_bf16(cfg, network)
    spec = {costs.MODULE: lora(cfg)} if costs.lora_targets(cfg) else {}
    return Parts({costs.MODULE: network}, spec, costs.full_tensors(cfg), prefix(cfg, network), loaded.fingerprint, weight_file(folder))


def hold_in_bf16(cfg: Config, network: VGGT) -> None:
    """The aggregator's linear layers, which run in autocast: what autocast would round in every step is rounded once.

    Heads run in fp32 and tokens, norms and adapters stay in fp32. A merged export then is the rounded base plus the adapters,
    added in fp32: the network that was scored.
    """
    layers = [name for name, _ in network.named_modules() if costs.in_autocast(name)]
    trained = costs.fully_trained({f"{name}.weight": () for name in layers}, costs.full_tensors(cfg))
    if trained:
        raise Stop(f"model.base_precision=bf16 is for frozen layers, but lora.full trains {trained[0]}", "set model.base_precision=fp32")
    for name in layers:
        network.get_submodule(name).to(torch.bfloat16)


def weight_file(folder: Path) -> Path:
    if folder.is_file():
        return folder
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise Stop(f"{folder} holds none of {', '.join(WEIGHT_FILES)}", "python step2_download.py --force")


def lora(cfg: Config) -> LoraSpec:
    expected = costs.adapter_numbers(cfg)
    return LoraSpec(costs.lora_targets(cfg), cfg.lora.rank, cfg.lora.alpha, cfg.lora.dropout, cfg.lora.peft, expected)


# ---------------------------------------------------------------------------------------------- the frozen front


def front_blocks(cfg: Config) -> int:
    """How many pairs of blocks belong to the prefix. Patch tokens belong to an image; the output of blocks to a sample, whose
    frames and order it depends on, so it is worth keeping only where samples come again (data.distinct_epochs)."""
    return (costs.frozen_blocks(cfg) or 0) if cfg.data.distinct_epochs else 0


def prefix(cfg: Config, network: VGGT) -> Prefix | None:
    """What is computed once; None when even the patch embed is trained."""
    if costs.frozen_blocks(cfg) is None:
        return None
    blocks, refused = front_blocks(cfg), "augmentation changes the images" if cfg.data.colour_jitter or cfg.data.scale_jitter else ""
    name, units, compute = "patch tokens", lambda sample: sample["units"], lambda sample, unit: one_image(network, sample, unit)
    if blocks:
        name, units = f"blocks 0-{blocks - 1}", lambda sample: [sample["sample_id"]]
        compute = lambda sample, unit: whole_sample(network, sample, blocks)  # noqa: E731
    return Prefix(name, units, compute, costs.frozen_front(blocks), refused)


def one_image(network: VGGT, sample: dict[str, Any], unit: int) -> torch.Tensor:
    """(n, c)"""
    image = torch.as_tensor(sample["images"][unit]).to(network.aggregator.camera_token.device)
    return network.prefix(image[None, None], 0)[0, 0]


def whole_sample(network: VGGT, sample: dict[str, Any], blocks: int) -> torch.Tensor:
    """(s, tokens, channels)"""
    images = torch.as_tensor(sample["images"]).to(network.aggregator.camera_token.device)
    return network.prefix(images[None], blocks)[0]


def forward(cfg: Config, parts: Parts, batch: dict[str, Any]) -> dict[str, Any]:
    """Predictions of a batch, going on from the frozen front where the loop has put it there."""
    network = parts.modules[costs.MODULE]
    if "prefix" not in batch:
        return network(batch["images"])
    blocks = front_blocks(cfg)
    front = batch["prefix"].to(batch["images"].device)
    return network(batch["images"], front[:, 0] if blocks else front, blocks)


def loss(cfg: Config) -> Callable[[Parts, dict[str, Any], int], tuple[torch.Tensor, dict[str, Any]]]:
    def objective(parts: Parts, batch: dict[str, Any], step: int) -> tuple[torch.Tensor, dict[str, Any]]:
        total, numbers = losses.objective(forward(cfg, parts, batch), batch, cfg.loss)
        return total, {f"loss_{name}": value for name, value in numbers.items() if name != "objective"}

    return objective


# ---------------------------------------------------------------------------------------------- export


def export(cfg: Config, parts: Parts, out: Path) -> None:
    """One safetensors file with exactly the keys that the base file has; what was not built is carried through."""
    from safetensors.torch import save_file

    from lib.run import atomic

    tensors = dict(parts.modules[costs.MODULE].state_dict())
    for name, tensor in weights.tensors(parts.source):
        if name not in tensors:
            tensors[name] = tensor.clone()  # a head that was not built, e.g. the track head
    with atomic(out / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
