"""The frozen front of a network of scenes: what is computed once for a picture, and further on once for a sample.

The output of blocks that see several views belongs to a sample, whose views and order it depends on, so it is worth
keeping only where samples come again (data.distinct_epochs).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.core.records import FrozenFeatures, Sample
from lib.scenes.sections import Settings


class Front(NamedTuple):
    name: str
    compute: Callable[[Sample, int], Tensor]  # of a unit of a sample: of one picture, or of unit 0, which is all of it
    frozen: str  # regex over "<module>.<tensor>" of all that it runs through


def frozen_features(config: Settings, of_picture: Front, of_sample: Front | None) -> FrozenFeatures | None:
    """What cache.policy asks for: the front of pictures, with the one of samples as `deeper` where step 4 decides.

    None: samples are asked for and no block of theirs is frozen, which a checked configuration never does.
    """
    augmented = config.data.colour_jitter or config.data.scale_jitter
    refused = "augmentation changes the images" if augmented else ""
    deeper = of_sample and FrozenFeatures(
        of_sample.name, lambda sample: [sample["sample_id"]], of_sample.compute, of_sample.frozen, refused
    )
    if config.cache.policy == "blocks":
        return deeper
    return FrozenFeatures(
        of_picture.name,
        lambda sample: sample["units"],
        of_picture.compute,
        of_picture.frozen,
        refused,
        deeper if config.cache.policy == "auto" else None,
    )


def packed(layers: dict[int, Tensor], tokens: Tensor, blocks: int) -> Tensor:
    """What the first `blocks` blocks leave to those behind them, side by side in one tensor.

    The layers among them that heads read, (b, s, n, 2c) each, and the token stream (b, s, n, c), unless the last block
    is read: the second half of its layer is the stream.
    """
    return torch.cat([*layers.values(), *([] if blocks - 1 in layers else [tokens])], -1)


def unpacked(front: Tensor, read: Sequence[int], blocks: int, width: int) -> tuple[dict[int, Tensor], Tensor]:
    """The layers and the token stream of `packed`. read: the blocks that heads read; width: c."""
    kept = [index for index in read if index < blocks]
    parts = front.split([2 * width] * len(kept) + [width] * (blocks - 1 not in kept), -1)
    return dict(zip(kept, parts, strict=False)), parts[-1][..., -width:]
