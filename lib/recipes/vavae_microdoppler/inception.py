"""Fréchet distance in the space that published FIDs are stated in, when a person brings that network.

`eval.inception` names a TorchScript file of it that takes uint8 pictures (n, 3, h, w) of any size and returns features
(n, d) for `return_features=True`: NVIDIA's inception-2015-12-05.pt (StyleGAN3's metrics, 96 MB, d = 2048). It is no
asset of the recipe: without it the distance in the pooled VGG space stands alone. Fewer images than d make the distance
too large, for base and adapted alike.
"""

import base64
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.core.errors import Stop, first_line
from lib.core.records import Row
from lib.recipes.vavae_microdoppler import metrics

MEASURE = "frechet_inception"


def texts(path: str, real: torch.Tensor, fake: torch.Tensor | None) -> list[dict[str, str]]:
    """What a row keeps of each pair of images (n, 3, h, w) in [-1, 1]; nothing without the network or a second image.

    Stop: the file is missing, is not TorchScript, or holds another network.
    """
    if not path or fake is None:
        return [{} for _ in real]
    one, other = features(path, real), features(path, fake)
    return [{"inception_real": packed(a), "inception_fake": packed(b)} for a, b in zip(one, other, strict=True)]


def distance(rows: list[Row]) -> dict[str, float]:
    """{frechet_inception: distance of the two sets}, or {} where the rows hold no features."""
    if "inception_real" not in rows[0].texts:
        return {}
    names = ("inception_real", "inception_fake")
    real, fake = (np.stack([unpacked(row.texts[name]) for row in rows]) for name in names)
    return {MEASURE: metrics.frechet(real, fake)}


@torch.no_grad()
def features(path: str, image: torch.Tensor) -> np.ndarray:
    """(n, d) float32 of images (n, 3, h, w) in [-1, 1]."""
    pictures = metrics.to_uint8(image).permute(0, 3, 1, 2).contiguous()
    with torch.autocast(image.device.type, enabled=False):
        found = network(path, image.device)(pictures, return_features=True)
    if found.ndim != 2 or len(found) != len(image):
        raise Stop(
            f"eval.inception={path} gave features of shape {tuple(found.shape)}, not ({len(image)}, d)",
            "name NVIDIA's inception-2015-12-05.pt",
        )
    return found.float().cpu().numpy()


@cache
def network(path: str, device: torch.device) -> Any:
    if not Path(path).is_file():
        raise Stop(f"eval.inception={path} does not exist", "leave it out, or put inception-2015-12-05.pt there")
    try:
        return torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise Stop(
            f"eval.inception={path} is not a TorchScript file ({first_line(error)})",
            "name NVIDIA's inception-2015-12-05.pt",
        ) from error


def packed(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype(np.float16).tobytes()).decode()


@cache  # the bootstrap asks for every vector a thousand times
def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float64)
