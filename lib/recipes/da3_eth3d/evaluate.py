"""What Depth Anything 3 says of held-out sequences, with known cameras and without them."""

from dataclasses import replace
from typing import Any

from lib.core.records import Batch, Metric, Parts, Row, Stage
from lib.recipes.da3_eth3d import assemble, ray_pose
from lib.recipes.da3_eth3d.config import Config
from lib.scenes import evaluate, geometry

ALONE = "_without_poses"  # of a metric: the network was not told the cameras
BOTH_WAYS = ("mae", "abs_rel", "delta_103")


def measures(config: Config, stage: Stage) -> dict[str, Metric]:
    """Those of all scenes; with data.poses=given three of them once more, without the cameras."""
    found = evaluate.measures(config, stage)
    twice = BOTH_WAYS if config.data.poses == "given" else ()
    alone = {name: replace(found[name], title=f"{found[name].title}, cameras not given", front=False) for name in twice}
    return found | {name + ALONE: measure for name, measure in alone.items()}


def score_batch(config: Config, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
    """`lib.scenes.evaluate.rows` of what the network predicts."""
    given = config.data.poses == "given"
    rows = evaluate.rows(stage, batch, predicted(config, parts, batch, given) if parts else None)
    if given:
        alone = evaluate.rows(stage, batch, predicted(config, parts, batch, False)) if parts else rows
        for row, other in zip(rows, alone, strict=True):
            row.numbers.update({name + ALONE: other.numbers[name] for name in BOTH_WAYS})
    return rows


def predicted(config: Config, parts: Parts, batch: Batch, posed: bool) -> dict[str, Any]:
    """As `assemble.forward`, with the cameras that eval.cameras asks for."""
    by_rays = config.eval.cameras == "rays"
    found = assemble.forward(config, parts, batch, posed, by_rays)
    return found | {"pose_enc": code_of_rays(found)} if by_rays else found


def code_of_rays(found: dict[str, Any]) -> Any:
    """Cameras from the predicted rays, in the code of the scenes (b, s, 9)."""
    size_px = found["depth"].shape[2:4]
    cameras = ray_pose.cameras(found["ray"], found["ray_conf"], *size_px)
    return geometry.encode_cameras(cameras.cam_from_world, cameras.intrinsics, *size_px)
