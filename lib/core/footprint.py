"""Bytes on one card: the closed form behind `--plan` and `train.shard=auto`. No torch.

Sharding (torch's `fully_shard` around each block) divides the blocks' weights, and where these are trained their
gradients and Adam's moments too, by the number of cards; everything else stays whole on each of them. With S, R the
frozen bytes in blocks and outside, G the bytes of two blocks in a row (the most there are), A and F the numbers
trained outside of blocks and in them, Gp the numbers of the largest trained block, X the activations and n cards, a
card holds

    whole:    S + R + t (A + F) + copies + X + runtime
    sharded:  S / n + G + R + t A + 16 F / n + 6 Gp + X + runtime

where t = 4 (weight) + 4 (gradient) + 8 (Adam) + 8 (the flat sum in float64; 4 above `FLOAT64_LIMIT` numbers); an
average of the weights takes 4 more of each number. Two blocks are gathered at once: the one that computes and the next
one; of a trained one, 6 Gp is its gathered gradient in half and in full precision.
"""

from collections.abc import Sequence

from lib.core.records import Block, Footprint

RUNTIME_BYTES = 1_000_000_000  # CUDA's context, kernels' workspaces, fragments
FLOAT64_LIMIT = 50_000_000  # numbers; as lib.network.gradients, which needs torch (a test compares)
USABLE = 0.9  # of a card's memory: what the probe before a training allows itself (lib.training.memory)
GATHERED = 2  # blocks in a row, whole at once; one where a card is alone and waits for nobody
SHARDED_BYTES = 16  # of a trained number in blocks: weight, gradient, Adam's moments; the engine sums in place
GATHERED_BYTES = 6  # of a number of the largest trained block


def parts(footprint: Footprint, cards: int = 1, sharded: bool = False) -> dict[str, int]:
    """Bytes on each of `cards` cards by part, those that are not 0; not sharded, their number changes nothing."""
    one, average = footprint, 4 * footprint.averaged
    if sharded:
        found = {
            "frozen blocks": -(-one.frozen_blocks // cards),
            "gathered blocks": gathered_bytes(one.blocks, GATHERED if cards > 1 else 1),
            "trained blocks": -(-(SHARDED_BYTES + average) * one.trained_in_blocks // cards),
            "trained": trained_bytes(one.trained, average),
        }
    else:
        numbers = one.trained + one.trained_in_blocks
        found = {"frozen blocks": one.frozen_blocks, "trained": trained_bytes(numbers, average), "copies": one.copies}
    found |= {"frozen rest": one.frozen_rest, **one.activations, "runtime": RUNTIME_BYTES}
    return {name: size for name, size in found.items() if size}


def gathered_bytes(blocks: Sequence[Block], count: int) -> int:
    """Of the `count` blocks in a row that are whole at once, at most, and of the largest gradient."""
    rows = [blocks[first : first + count] for first in range(len(blocks))]
    together = max((sum(block.whole for block in row) for row in rows), default=0)
    return together + GATHERED_BYTES * max((block.trained for block in blocks), default=0)


def trained_bytes(numbers: int, average: int) -> int:
    """Of numbers that a card holds whole: weight, gradient, Adam's moments, the flat sum over processes, an average."""
    return numbers * (4 + 4 + 8 + (8 if numbers <= FLOAT64_LIMIT else 4) + average)


def card_bytes(footprint: Footprint, cards: int = 1, sharded: bool = False) -> int:
    """Bytes that a training keeps on each of its cards, at its peak."""
    return sum(parts(footprint, cards, sharded).values())


def can_shard(footprint: Footprint) -> bool:
    """Is there anything that cards could divide among them?"""
    return footprint.frozen_blocks + footprint.trained_in_blocks > 0


def fits(footprint: Footprint, device_bytes: int, cards: int = 1, sharded: bool = False) -> bool:
    """Does it fit on cards of this size, all of their memory counted?"""
    return card_bytes(footprint, cards, sharded) <= USABLE * device_bytes


def needs_shards(footprint: Footprint, device_bytes: int, cards: int) -> bool:
    """What `train.shard=auto` asks: several cards, none of which holds it whole, and something to divide.

    device_bytes: all of the smallest card's memory.
    """
    return cards > 1 and can_shard(footprint) and not fits(footprint, device_bytes)
