"""Bytes of what a training of scenes holds, in closed forms that a network's sizes fill. No torch.

An estimate: kernels' own workspace is not in it.
"""

import re
from collections.abc import Iterable, Sequence
from math import prod

from lib.core.records import Block, Footprint
from lib.scenes.sections import DenseSize, Settings
from lib.scenes.shapes import Named


def footprint(
    shapes: Named, held: dict[str, int], full: Iterable[str], trainable: int, blocks: str, activations: dict[str, int]
) -> Footprint:
    """What the largest sample needs.

    held: bytes of each tensor as it is held; full: names of those that are trained without adapters; trainable: how
    many parameters are trained; blocks: regex of the blocks that cards can divide; activations: bytes by what they are.
    """
    whole, of_blocks = set(full), tensors_of_blocks(shapes, blocks)
    inside = {name for names in of_blocks for name in names}
    found = [
        Block(
            whole=sum(held[name] for name in names),
            frozen=sum(held[name] for name in names if name not in whole),
            trained=sum(prod(shapes[name]) for name in names if name in whole),
        )
        for names in of_blocks
    ]
    return Footprint(
        frozen_rest=sum(held[name] for name in shapes.keys() - inside - whole),
        trained=trainable - sum(block.trained for block in found),
        activations=activations,
        blocks=tuple(found),
    )


def tensors_of_blocks(shapes: Iterable[str], blocks: str) -> list[list[str]]:
    """The names of each block's tensors."""
    found: dict[str, list[str]] = {}
    for name in shapes:
        if block_name := re.match(blocks, name):
            found.setdefault(block_name[0], []).append(name)
    return list(found.values())


def epoch_bytes(config: Settings, blocks: int, read: Sequence[int], special: int, width: int) -> int:
    """Of what the first `blocks` blocks make of an epoch of samples (`fronts.packed`), in fp32; 0 where none is kept.

    read: the blocks that heads read; special: tokens of a view beside its patches; width: of a token.
    """
    if not blocks or config.data.colour_jitter or config.data.scale_jitter:
        return 0
    model, kept = config.model, [index for index in read if index < blocks]
    patches = (model.image_height_px // model.patch_size) * (model.image_width_px // model.patch_size)
    tokens = sum(config.data.frames) / 2 * (patches + special)
    numbers = (2 * len(kept) + (blocks - 1 not in kept)) * width
    return int(config.data.samples_per_epoch * tokens * numbers * 4)


def block_bytes(width: int, ratio: float, tokens: int, number: int, dropout: float, copies: bool) -> int:
    """What one adapted block keeps for the backward pass of so many tokens; `number` is the bytes of one number.

    fp32: the stream before both norms. Low precision: qkv, q and k after RoPE, the attention's output, the MLP's hidden
    layer before GELU, and the four adapters' inputs, each with a byte of dropout mask; q and k before their norm are
    kept in fp32 too. copies: frozen weights are held in fp32, and low-precision copies of them stay as long as the
    block's graph.
    """
    stream, attention, hidden = 2 * 4, (3 + 2 + 1) * number + (2 * 4 if number < 4 else 0), ratio * number
    inputs = (3 + ratio) * (number + bool(dropout))
    copied = number * (4 + 2 * ratio) * width**2 if number < 4 and copies else 0
    return int(tokens * width * (stream + attention + hidden + inputs) + copied)


def dense_frame_bytes(size: DenseSize, pixels: int, dropout: bool) -> int:
    """What the depth head keeps for one frame of so many pixels, all in fp32: the input of each convolution, and what
    an adapter's dropout makes of it.
    """
    channels, features, hidden = size.dpt_out_channels, size.dpt_features, size.dpt_output_hidden
    patches = pixels // size.patch_size**2
    # At full size, and at twice the finest grid.
    inputs: float = pixels * (features // 2 + hidden) + 64 * patches * 2 * features
    for cells, convolutions, count in zip((16, 4, 1, 1 / 4), (5, 5, 5, 2), channels, strict=True):
        inputs += cells * patches * (convolutions * features + count)
    inputs += 4 * patches * 2 * size.embed_dim
    once = 4 * patches * (4 * 2 * size.embed_dim + sum(channels)) + 4 * pixels * 4
    dropped = 4 + 1 if dropout else 0  # the values and a byte of mask
    return int(inputs * (4 + dropped) + once)
