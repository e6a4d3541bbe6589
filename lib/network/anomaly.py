"""--detect-anomaly: train on from the last good checkpoint until a number is not finite, and name what made it.

Forward: the first module whose output is not finite. Backward: the operation, by torch's anomaly mode, which also
prints the line that called it. Both cost about twice the time, so they are on only when asked for.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lib.core.errors import FAILED, Stop
from lib.core.records import Parts
from lib.network.adapters import plain_name
from lib.network.gradients import GradientSum

ADVICE = "look at that module's input: a smaller train.lr, train.precision=fp32, or the samples named above"


@contextlib.contextmanager
def named(parts: Parts) -> Iterator[None]:
    """Within the block a number that is not finite ends the run (Stop) and names the module or operation behind it."""
    layers = [
        (f"{name}.{path}".rstrip("."), layer)
        for name, module in parts.modules.items()
        for path, layer in module.named_modules()
    ]
    hooks = [layer.register_forward_hook(refuse_bad_output(plain_name(name))) for name, layer in layers]
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    except RuntimeError as error:
        made = re.search(r"Function '(\w+)' returned nan values", str(error))
        if not made:
            raise
        raise Stop(
            f"the backward pass of {made[1]} gave a number that is not finite; torch names the line above",
            ADVICE,
            FAILED,
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def refuse_bad_loss(objective: str, loss: torch.Tensor, samples: list[str]) -> None:
    """Every module's output passed, so the loss's own arithmetic made it."""
    if not torch.isfinite(loss):
        found = f"the loss {objective} of {', '.join(samples)} is {float(loss.detach())}"
        cause = f"every module's output is finite, but {found}"
        raise Stop(cause, "look at that loss and at those samples", FAILED)


def refuse_bad_gradient(sums: GradientSum) -> None:
    """Torch's anomaly mode sees NaN alone; an infinite gradient is named here."""
    if names := sums.not_finite():
        raise Stop(f"the loss is finite, but the gradient of {names[0]} is not", ADVICE, FAILED)


def refuse_bad_output(name: str) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if torch.is_tensor(tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise Stop(
                    f"{name} ({type(module).__name__}) is the first module whose output is not finite", ADVICE, FAILED
                )

    return hook
