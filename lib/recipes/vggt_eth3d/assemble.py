"""The network of a run: strictly loaded, with what is adapted and what is frozen in front; its loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.core.records import Batch, FrozenFeatures, Group, LoraSpec, Objective, Parts, Sample, Stage
from lib.network import weights
from lib.recipes.vggt_eth3d import costs, losses
from lib.recipes.vggt_eth3d.base import weight_file
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.model import VGGT
from lib.scenes import fronts

BLOCKS = (costs.BLOCKS,)
NOT_BUILT = {"point_head": r"point_head\..*", "track_head": r"track_head\..*"}


def build(config: Config, stage: Stage, asset_dirs: dict[str, Path]) -> Parts:
    """The base on the CPU, every tensor matched; keys of heads that are not built are counted and left out.

    Stop: no weight file in asset_dirs["base"], or a missing, unexpected or mis-shaped tensor.
    """
    source = asset_dirs["base"] / weight_file(config, asset_dirs["base"])
    with torch.device("meta"):
        network = VGGT(config.model)
    ignored = tuple(pattern for head, pattern in NOT_BUILT.items() if not hasattr(network, head))
    loaded = weights.load_strict(network, source, ignore=ignored, dtype=torch.float32, shard=BLOCKS)
    network.eval().gradient_checkpointing = config.train.gradient_checkpointing
    if config.model.base_precision == "bf16":
        hold_in_bf16(network)
    return Parts(
        {costs.MODULE: network},
        {costs.MODULE: lora(config)} if costs.lora_targets(config) else {},
        costs.full_tensors(config),
        frozen_features(config, network),
        loaded.fingerprint,
        source,
        shard={costs.MODULE: BLOCKS},
    )


def hold_in_bf16(network: VGGT) -> None:
    """The aggregator's linear layers, which run in autocast: what autocast would round in every step is rounded once.

    Heads run in fp32, and tokens, norms and adapters stay in fp32. A merged export is then the rounded base plus the
    adapters, added in fp32: the network that was scored.
    """
    for name in [name for name, _ in network.named_modules() if costs.in_autocast(name)]:
        network.get_submodule(name).to(torch.bfloat16)


def lora(config: Config) -> LoraSpec:
    targets, expected, said = costs.lora_targets(config), costs.adapter_parameters(config), config.lora
    return LoraSpec(targets, said.rank, said.alpha, said.dropout, said.peft, expected, said.conv_dropout)


# ---------------------------------------------------------------------------------------------- the frozen front


def front_blocks(config: Config) -> int:
    """How many pairs of blocks belong to the frozen features."""
    return (costs.frozen_blocks(config) or 0) if config.cache.policy == "blocks" else 0


def frozen_features(config: Config, network: VGGT) -> FrozenFeatures | None:
    """What is computed once; None when even the patch embed is trained."""
    blocks = costs.frozen_blocks(config)
    if blocks is None:
        return None
    of_picture = fronts.Front(
        "patch tokens", lambda sample, unit: one_image(network, sample, unit), costs.frozen_front(0)
    )
    of_sample = fronts.Front(
        f"blocks 0-{blocks - 1}",
        lambda sample, unit: whole_sample(network, sample, blocks),
        costs.frozen_front(blocks),
    )
    return fronts.frozen_features(config, of_picture, of_sample if blocks else None)


def one_image(network: VGGT, sample: Sample, unit: int) -> Tensor:
    """Patch tokens (n, c) of image `unit` of a sample."""
    image = torch.as_tensor(sample["images"][unit]).to(network.aggregator.camera_token.device)
    return network.front(image[None, None], 0)[0, 0]


def whole_sample(network: VGGT, sample: Sample, blocks: int) -> Tensor:
    """What the first `blocks` pairs of blocks make of a sample: (s, tokens, channels)."""
    images = torch.as_tensor(sample["images"]).to(network.aggregator.camera_token.device)
    return network.front(images[None], blocks)[0]


def forward(config: Config, parts: Parts, batch: Batch) -> dict[str, Any]:
    """Predictions of a batch (`VGGT.forward`), going on from the frozen front where the loop has put it there."""
    network = parts.modules[costs.MODULE]
    if "frozen_features" not in batch:
        return network(batch["images"])
    blocks = front_blocks(config)
    front = batch["frozen_features"].to(batch["images"].device).float()  # the stream between blocks is fp32
    return network(batch["images"], front[:, 0] if blocks else front, blocks)


def objectives(config: Config, stage: Stage) -> list[Objective]:
    """One loss, which updates every trained tensor."""
    group = Group("vggt", rf"{costs.MODULE}\..*", config.train.lr, config.train.weight_decay)
    return [Objective("depth", loss(config), (group,))]


def loss(config: Config) -> Callable[[Parts, Batch, int], tuple[Tensor, dict[str, Tensor]]]:
    """`losses.objective` of a batch, and its parts as loss_<part>."""

    def objective(parts: Parts, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        total, found = losses.objective(forward(config, parts, batch), batch, config.loss)
        return total, {f"loss_{name}": value for name, value in found.items() if name != "objective"}

    return objective
