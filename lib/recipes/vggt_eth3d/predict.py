"""The adapted VGGT on a folder of photos; what it writes: lib/scenes/predict.py."""

from pathlib import Path

from torch import Tensor

from lib.core.records import Parts, Stage
from lib.recipes.vggt_eth3d import costs
from lib.recipes.vggt_eth3d.config import Config
from lib.scenes import predict as scenes


def predict(config: Config, stage: Stage, parts: Parts, inputs: str, out: Path) -> None:
    """inputs: a folder of photos. Stop: it holds none that can be used, or two do not fit into memory."""
    network = parts.modules[costs.MODULE]

    def forward(images: Tensor, chunk: list[int]) -> dict[str, Tensor]:
        return network(images.to(network.aggregator.camera_token.device))

    photos = scenes.photographs(config, Path(inputs))
    scenes.write(out, photos, scenes.run(forward, photos.images))
