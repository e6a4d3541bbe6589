"""The adapted VGGT on a folder of photos; what it writes: lib/scenes/predict.py."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lib.core.records import Parts, Stage
from lib.recipes.vggt_eth3d import costs
from lib.recipes.vggt_eth3d.config import Config
from lib.scenes import predict as scenes
from lib.scenes import scale as scales
from lib.scenes.photos import Photo, photographs

MOST_VIEWS = 60  # of 518 x 336 px take 13 GB on a card by the published table; where there is less, fewer


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """inputs: a folder of photos. Stop: it holds none that can be used, or two do not fit into memory."""
    predict_scaled(config, stage, parts, inputs, out, [])


def predict_scaled(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path, scale: Sequence[str]) -> None:
    """As `predict`, in the unit that `scale` says (lib/scenes/scale.py). Stop: it cannot be, or does not agree."""
    network = parts.modules[costs.MODULE]

    def forward(images: Tensor, photos: list[Photo]) -> dict[str, Tensor]:
        return network(images.to(network.aggregator.camera_token.device))

    photos = photographs(config, Path(inputs), out)
    scenes.predict(photos, forward, MOST_VIEWS, out, scales.read(list(scale), photos))
