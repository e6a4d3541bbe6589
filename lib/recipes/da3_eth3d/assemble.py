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
from lib.scenes import fronts


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


def kept_blocks(config: Config) -> int:
    """How many blocks belong to what is kept of a whole sample; 0 where only pictures are kept."""
    return costs.frozen_blocks(config) if config.cache.policy == "blocks" else 0


def frozen_features(config: Config, network: DA3) -> records.FrozenFeatures | None:
    """What is computed once; None where a block that sees one picture is trained."""
    if not costs.has_frozen_front(config):
        return None
    first, blocks = config.model.alt_start, costs.frozen_blocks(config)
    of_picture = fronts.Front(
        f"blocks 0-{first - 1} of a picture",
        lambda sample, unit: one_picture(network, sample["images"][unit]),
        costs.frozen_front(config, first),
    )
    of_sample = fronts.Front(
        f"blocks 0-{blocks - 1} of a sample",
        lambda sample, unit: whole_sample(network, sample, blocks, config.data.poses == "given"),
        costs.frozen_front(config, blocks),
    )
    return fronts.frozen_features(config, of_picture, of_sample if blocks else None)


def one_picture(network: DA3, image: Any) -> Tensor:
    """An image (3, h, w) -> its tokens before the first block that sees other views, (1 + n, c)."""
    return network.front(torch.as_tensor(image)[None, None].to(network.device))[0, 0]


def whole_sample(network: DA3, sample: records.Sample, blocks: int, posed: bool) -> Tensor:
    """What the first `blocks` blocks make of a sample, (s, 1 + n, channels).

    Picture by picture as far as they see one, so that it is the same to the last bit as going on from kept pictures.
    """
    given = {name: torch.as_tensor(sample[name])[None] for name in ("images", "extrinsics", "intrinsics")}
    batch = {name: value.to(network.device) for name, value in given.items()}
    pictures = torch.stack([one_picture(network, image) for image in batch["images"][0]])[None]
    return network.front_of_views(batch["images"], pictures, known(batch) if posed else None, blocks)[0]


def forward(config: Config, parts: records.Parts, batch: records.Batch, posed: bool, rays: bool) -> dict[str, Any]:
    """Predictions of a batch (`DA3.forward`), from the frozen front where the loop has put it there.

    posed: with the batch's cameras as known ones; what is kept of a whole sample serves only where it was made so. The
    first view is always the reference, as the ground truth has it.
    """
    network, front, blocks = parts.modules[costs.MODULE], batch.get("frozen_features"), kept_blocks(config)
    if blocks and posed != (config.data.poses == "given"):
        front = None
    told = known(batch) if posed else None
    if front is None:
        return network(batch["images"], known=told, rays=rays)
    kept = front.to(network.device).float()  # the stream between blocks is fp32
    return network(batch["images"], kept[:, 0] if blocks else kept, told, rays=rays, blocks=blocks)


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
