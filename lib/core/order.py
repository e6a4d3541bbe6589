"""Sample order and random keys as functions of counters, never of generator history.

Whatever interrupts a run, and however many processes it has, sample `index` of epoch `epoch` is the same sample with
the same augmentation, and micro-batch `k` of step `s` draws the same dropout noise. Nothing has to be saved for that.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Key:
    """Names one draw of one sample. `generator()` is a NumPy generator that depends on these three integers alone."""

    seed: int
    epoch: int
    index: int

    def generator(self) -> "np.random.Generator":
        import numpy as np

        return np.random.Generator(np.random.Philox(key=mix(self.seed, self.epoch, self.index)))


def mix(*numbers: int) -> int:
    """64 well-mixed bits of some integers (splitmix64, Steele et al. 2014): neighbours give unrelated streams."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & MASK)) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state = (state ^ state >> 31) + 0x9E3779B97F4A7C15 & MASK
    return state


def permutation(seed: int, epoch: int, length: int) -> "np.ndarray":
    """The order of the epoch's samples: int64 (length,), every index from 0 to length - 1 once."""
    return Key(seed, epoch, -1).generator().permutation(length)


def sample_at(position: int, seed: int, length: int, orders: "dict[int, np.ndarray]") -> Key:
    """The key of the sample at a running position; epochs follow one another without a gap, so no batch is ever short.

    `orders` keeps the permutation of the epochs in use; pass the same dictionary each time.
    """
    epoch, place = divmod(position, length)
    if epoch not in orders:
        orders.clear() if len(orders) > 1 else None
        orders[epoch] = permutation(seed, epoch, length)
    return Key(seed, epoch, int(orders[epoch][place]))


def micro_batch_keys(
    step: int,
    micro_batch_index: int,
    micro_batch: int,
    global_batch: int,
    seed: int,
    length: int,
    orders: "dict[int, np.ndarray]",
) -> list[Key]:
    """The keys of one micro-batch. `micro_batch_index` counts within the optimiser step, over all processes.

    `micro_batch`, `global_batch` and `length` (of an epoch) are in samples; `orders` as in `sample_at`.
    """
    first = step * global_batch + micro_batch_index * micro_batch
    return [sample_at(first + i, seed, length, orders) for i in range(micro_batch)]


def noise_seed(seed: int, step: int, micro_batch_index: int, objective: int) -> int:
    """What torch is seeded with before an objective's forward; 63 bits, because torch wants a signed number."""
    return mix(seed, step, micro_batch_index, objective, 0xD1CE) >> 1
