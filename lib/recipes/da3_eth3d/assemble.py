"""The network of a run: strictly loaded, with its adapters and its frozen front; its loss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.core import records
from lib.recipes.da3_eth3d import costs, files, losses
from lib.recipes.da3_eth3d.base import load
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.known_cameras import normalised
from lib.recipes.da3_eth3d.model import DA3


def build(config: Config, stage: records.Stage, asset_dirs: dict[str, Path]) -> records.Parts:
    """The base on the CPU, every tensor matched.

    Stop: no weight file in asset_dirs["base"], a tensor too many or too few, or a network of another size.
    """
    source = asset_dirs["base"] / files.weight_file(config, asset_dirs["base"])
    with torch.device("meta"):
        network = DA3(config.model)
    loaded = load(network, source, (costs.BLOCKS,))
    network.eval().gradient_checkpointing = config.train.gradient_checkpointing
    targets = costs.lora_targets(config)
    return records.Parts(
        {costs.MODULE: network},
        {costs.MODULE: lora(config)} if targets else {},
        costs.full_tensors(config),
        frozen_features(config, network),
        loaded.fingerprint,
        source,
        shard={costs.MODULE: (costs.BLOCKS,)},
    )


def lora(config: Config) -> records.LoraSpec:
    given = config.lora
    counted = costs.adapter_parameters(config)
    return records.LoraSpec(
        costs.lora_targets(config), given.rank, given.alpha, given.dropout, given.peft, counted, given.conv_dropout
    )


def frozen_features(config: Config, network: DA3) -> records.FrozenFeatures | None:
    """What the blocks that see one picture make of it; None where one of them is trained."""
    if not costs.has_frozen_front(config):
        return None
    changed = "augmentation changes the images" if config.data.colour_jitter or config.data.scale_jitter else ""
    return records.FrozenFeatures(
        f"blocks 0-{config.model.alt_start - 1} of a picture",
        lambda sample: sample["units"],
        lambda sample, unit: one_picture(network, sample["images"][unit]),
        costs.frozen_front(config),
        changed,
    )


def one_picture(network: DA3, image: Any) -> Tensor:
    """An image (3, h, w) -> its tokens before the first block that sees other views, (1 + n, c)."""
    return network.front(torch.as_tensor(image)[None, None].to(network.device))[0, 0]


def forward(config: Config, parts: records.Parts, batch: records.Batch, posed: bool, rays: bool) -> dict[str, Any]:
    """Predictions of a batch (`DA3.forward`), from the frozen front where the loop has put it there.

    posed: with the batch's cameras as known ones. The first view is always the reference, as the ground truth has it.
    """
    network = parts.modules[costs.MODULE]
    front = batch.get("frozen_features")
    kept = None if front is None else front.to(network.device).float()  # the stream between blocks is fp32
    return network(batch["images"], kept, known(batch) if posed else None, rays=rays)


def known(batch: records.Batch) -> tuple[Tensor, Tensor]:
    """The batch's cameras as the camera encoder wants them: (b, s, 3, 4) and (b, s, 3, 3)."""
    with torch.autocast(batch["extrinsics"].device.type, enabled=False):
        return normalised(batch["extrinsics"]), batch["intrinsics"]


def objectives(config: Config, stage: records.Stage) -> list[records.Objective]:
    """One loss, which updates every trained tensor."""
    rate, decay = config.train.lr, config.train.weight_decay
    return [records.Objective("depth", loss(config), (records.Group("da3", rf"{costs.MODULE}\..*", rate, decay),))]


def loss(config: Config) -> Callable[[records.Parts, records.Batch, int], tuple[Tensor, dict[str, Tensor]]]:
    posed, rays = config.data.poses == "given", bool(config.loss.ray_weight)

    def of_batch(parts: records.Parts, batch: records.Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        predicted = forward(config, parts, batch, posed, rays)
        total, found = losses.objective(predicted, batch, config.loss)
        return total, {f"loss_{name}": value for name, value in found.items() if name != "objective"}

    return of_batch
