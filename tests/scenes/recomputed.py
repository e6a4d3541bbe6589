"""What recomputing activations may change: the memory. Tests of the networks of scenes call it."""

from collections.abc import Callable

import torch


def refuse_other_gradients(plain: dict[str, torch.Tensor], recomputed: dict[str, torch.Tensor]) -> None:
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in plain.values())
    for name, gradient in plain.items():  # sums over views are taken in another order
        assert (recomputed[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


def kept_bytes(network: Callable[[], torch.nn.Module], images: torch.Tensor, checkpointing: bool) -> int:
    """What a forward pass keeps for the backward one."""
    sizes = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    built = network()
    built.gradient_checkpointing = checkpointing
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        built(images)
    return sum(sizes)
