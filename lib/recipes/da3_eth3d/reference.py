"""Which view comes first, and so whose camera is the world.

Training always takes the first one: ground truth is in its frame. A prediction from three views or more may choose.
"""

import torch
from torch import Tensor

FEWEST_VIEWS = 3  # that a choice is made among
STRATEGIES = ("first", "middle", "saddle_balanced", "saddle_sim_range")
TIE = 1e-4  # scores that are so near count as one, else rounding would choose among mirrored views


def chosen(strategy: str, class_tokens: Tensor) -> Tensor:
    """The reference view of every sample (b,), from the class tokens (b, s, c) before the network looks across views.

    first, middle: by position. saddle_balanced: the view that is nearest to the middle in three respects, its
    likeness to the others, the length of its token and its contrast. saddle_sim_range: the view whose likeness to the
    others differs most; where all are alike that is a tie of the two nearest ones by construction, and the first of
    them is taken.
    """
    batch, views = class_tokens.shape[:2]
    if strategy in ("first", "middle") or views == 1:
        return class_tokens.new_full((batch,), views // 2 if strategy == "middle" else 0, dtype=torch.long)
    tokens = class_tokens.double()
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    likeness = unit @ unit.mT - torch.eye(views, dtype=unit.dtype, device=unit.device)
    if strategy == "saddle_sim_range":
        score = likeness.amax(-1) - likeness.amin(-1)
    else:
        three = (likeness.sum(-1) / (views - 1), tokens.norm(dim=-1), unit.var(-1))
        score = -torch.stack([(stretched(one) - 0.5).abs() for one in three]).sum(0)
    return (score > score.amax(-1, keepdim=True) - TIE).int().argmax(-1)  # the first of equal ones


def stretched(numbers: Tensor) -> Tensor:
    """Numbers (b, s) over the range that they have in their sample: 0..1."""
    low, high = numbers.amin(-1, keepdim=True), numbers.amax(-1, keepdim=True)
    return (numbers - low) / (high - low + 1e-8)


def reference_first(index: Tensor, views: int) -> Tensor:
    """The order (b, s) in which the view `index` (b,) comes first, and the others stay as they are."""
    keys = torch.arange(views, device=index.device).expand(len(index), -1).clone()
    keys.scatter_(1, index[:, None], -1)
    return keys.argsort(-1)


def reordered(values: Tensor, order: Tensor) -> Tensor:
    """Values of views (b, s, ...) in the order (b, s); `order.argsort(-1)` puts them back."""
    index = order.view(*order.shape, *[1] * (values.dim() - 2))
    return values.take_along_dim(index, 1)
