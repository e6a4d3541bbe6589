"""The toy base: y = W2 tanh(W1 x)."""

from lib.core.records import Asset

from . import WIDTH


def base_tensors():
    import torch

    draw = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (WIDTH, WIDTH), "0.bias": (WIDTH,), "2.weight": (1, WIDTH), "2.bias": (1,)}
    return {name: torch.randn(shape, generator=draw) * WIDTH**-0.5 for name, shape in shapes.items()}


def make_base(folder):
    from safetensors.torch import save_file

    save_file(base_tensors(), folder / "base.safetensors")


def assets(config):
    return [Asset("base", "made", stand_in=make_base, made_from="1")]
