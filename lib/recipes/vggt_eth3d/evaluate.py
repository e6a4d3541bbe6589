"""What VGGT says of held-out sequences, scored as all scenes are, and what its published weights stay below."""

from lib.core.records import Batch, Manifest, Parts, Row, Stage
from lib.recipes.vggt_eth3d import assemble
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.sections import LICENCES
from lib.scenes import evaluate

PUBLISHED_ABS_REL = 0.08  # the base has 0.036 on ETH3D in its authors' table, a random depth head 0.43


def score_batch(config: Config, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
    """`lib.scenes.evaluate.rows` of what the network predicts."""
    return evaluate.rows(stage, batch, assemble.forward(config, parts, batch) if parts else None)


def base_limits(config: Config, stage: Stage, manifest: Manifest) -> dict[str, float]:
    """Known for published weights on ETH3D scenes with dense depth."""
    published = config.model.weights in LICENCES and evaluate.are_published(manifest)
    return {"abs_rel": PUBLISHED_ABS_REL} if published else {}
