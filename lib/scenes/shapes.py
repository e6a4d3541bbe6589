"""Names and shapes of what networks of scenes have in common, and which of them are trained. No torch.

A test compares every name and shape with the network itself, and every count with PEFT's own injection.
"""

import re
from collections.abc import Iterable, Iterator
from math import prod

from lib.scenes.sections import DenseSize, LoraConfig

Shapes = Iterator[tuple[str, tuple[int, ...]]]
Named = dict[str, tuple[int, ...]]


def layer(name: str, *weight: int, bias: int | None = None) -> Shapes:
    """A layer's weight and its bias, which is as long as the weight's first side unless said; 0 = none."""
    yield f"{name}.weight", weight
    if bias != 0:
        yield f"{name}.bias", (bias or weight[0],)


def block(name: str, width: int, mlp_ratio: float, head_dim: int = 0) -> Shapes:
    """A transformer block; `head_dim` where queries and keys are normalised."""
    hidden = int(width * mlp_ratio)
    for part in ("norm1", "norm2"):
        yield from layer(f"{name}.{part}", width)
    for part in ("q_norm", "k_norm") if head_dim else ():
        yield from layer(f"{name}.attn.{part}", head_dim)
    yield from layer(f"{name}.attn.qkv", 3 * width, width)
    yield from layer(f"{name}.attn.proj", width, width)
    yield from layer(f"{name}.mlp.fc1", hidden, width)
    yield from layer(f"{name}.mlp.fc2", width, hidden)
    for part in ("ls1", "ls2"):
        yield f"{name}.{part}.gamma", (width,)


def dense_head(size: DenseSize, name: str, values: int) -> Shapes:
    """The DPT head under the name `name`, for maps of `values` channels and a confidence."""
    channels, features, scratch = size.dpt_out_channels, size.dpt_features, f"{name}.scratch"
    yield from layer(f"{name}.norm", 2 * size.embed_dim)
    for i, count in enumerate(channels):
        yield from layer(f"{name}.projects.{i}", count, 2 * size.embed_dim, 1, 1)
        yield from layer(f"{scratch}.layer{i + 1}_rn", features, count, 3, 3, bias=0)
        yield from layer(f"{scratch}.refinenet{i + 1}.out_conv", features, features, 1, 1)
        for unit in ("resConfUnit1", "resConfUnit2") if i < 3 else ("resConfUnit2",):
            for conv in ("conv1", "conv2"):
                yield from layer(f"{scratch}.refinenet{i + 1}.{unit}.{conv}", features, features, 3, 3)
    for i, side in ((0, 4), (1, 2), (3, 3)):
        yield from layer(f"{name}.resize_layers.{i}", channels[i], channels[i], side, side)
    yield from layer(f"{scratch}.output_conv1", features // 2, features, 3, 3)
    yield from layer(f"{scratch}.output_conv2.0", size.dpt_output_hidden, features // 2, 3, 3)
    yield from layer(f"{scratch}.output_conv2.2", values + 1, size.dpt_output_hidden, 1, 1)


def chosen(lora: LoraConfig, *layers: str) -> str:
    """A regex of those of the layers that lora.layers names; "()" for none of them."""
    return f"({'|'.join(layer for layer in layers if layer in lora.layers)})"


def adapted(shapes: Named, targets: Iterable[str]) -> list[str]:
    """The weights of the linear and convolution layers that a target matches by its whole name."""
    weights = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 1]
    layers = [name.removesuffix(".weight") for name in weights if not re.search(r"resize_layers\.[01]\.weight$", name)]
    return [f"{name}.weight" for name in layers if any(re.fullmatch(target, name) for target in targets)]


def fully_trained(shapes: Named, full: Iterable[str], module: str) -> list[str]:
    """The tensors that a regex over "<module>.<tensor>" matches by its whole name."""
    return [name for name in shapes if any(re.fullmatch(pattern, f"{module}.{name}") for pattern in full)]


def adapter_parameters(shapes: Named, targets: Iterable[str], rank: int) -> int:
    """Parameters of the adapters: one of rank r on a weight (out, in, ...) has r (in ... + out)."""
    sides = [prod(shapes[name][1:]) + shapes[name][0] for name in adapted(shapes, targets)]
    return rank * sum(sides)
