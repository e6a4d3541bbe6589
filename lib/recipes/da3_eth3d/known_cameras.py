"""Known cameras as the camera encoder wants them; what takes a prediction to their world: lib/scenes/similarity.py."""

import torch
from torch import Tensor

from lib.core.errors import Stop
from lib.scenes import geometry

LEAST_UNIT = 0.1  # of the scene's own: cameras that are nearer to one another are not blown up


def normalised(cam_from_world: Tensor) -> Tensor:
    """Cameras (b, s, 3, 4) with view 0 as the world, and the lower median of their distances from it as the unit.

    View 0's own distance, 0, counts; so does LEAST_UNIT as the smallest unit. As the published inference does it.
    """
    ones = torch.ones(len(cam_from_world), dtype=cam_from_world.dtype, device=cam_from_world.device)
    cameras = geometry.relative_cameras(cam_from_world, ones)
    distances = geometry.inverse(cameras)[..., 3].norm(dim=-1)
    return geometry.relative_cameras(cam_from_world, distances.median(-1).values.clamp(min=LEAST_UNIT))


def refuse_some(known: int, views: int) -> None:
    """Stop: cameras are known for some of the views only; the encoder takes all or none."""
    if known not in (0, views):
        raise Stop(
            f"cameras are known for {known} of {views} views, and the network takes them for all or for none",
            "give the cameras of all views, or predict without them",
        )
