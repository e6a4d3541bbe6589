"""Camera metrics: angles between all pairs of views, the area under their recall curve, the field of view.

Only relative cameras and the directions of their baselines count, so neither the world's frame nor its scale matters
(VGGT paper, section 4.1; PoseDiffusion, Wang et al. 2023).
"""

import torch
from torch import Tensor

from lib.core.records import Metric
from lib.scenes import geometry

AUC_DEG = (3, 5, 15, 30)
MEASURES = {
    f"pose_auc_{limit}": Metric(
        lower_is_better=False,
        title=f"Camera AUC at {limit}°",
        meaning=f"Area under the share of camera pairs that are right to within 0 to {limit} degrees.",
        front=limit == 30,
    )
    for limit in AUC_DEG
}
MEASURES["fov_error"] = Metric("deg", title="Field of view error", meaning="Mean error of both fields of view.")
SAME_PLACE = 1e-6  # metres or median depths (units.py): a shorter true baseline has no direction


def camera_numbers(
    code: Tensor, cam_from_world: Tensor, intrinsics: Tensor, height_px: int, width_px: int
) -> dict[str, float]:
    """MEASURES of predicted pose codes (s, 9) against true cameras (s, 3, 4), (s, 3, 3) in px.

    pose_auc_k: mean over 1, 2, ... k degrees of the share of pairs with a smaller error, NaN for a single view.
    fov_error: mean absolute difference of both fields of view, degrees.
    """
    code, cam_from_world, intrinsics = code.double(), cam_from_world.double(), intrinsics.double()
    errors_deg = pair_errors_deg(geometry.decode_cameras(code, height_px, width_px)[0], cam_from_world)
    true_fov = geometry.encode_cameras(cam_from_world, intrinsics, height_px, width_px)[..., 7:]
    found = {f"pose_auc_{limit}": area_under_recall(errors_deg, limit) for limit in AUC_DEG}
    return found | {"fov_error": (code[..., 7:] - true_fov).abs().mean().rad2deg().item()}


def area_under_recall(errors_deg: Tensor, limit_deg: int) -> float:
    """The mean over 1, 2, ... limit_deg degrees of the share of the errors (pairs,) that are smaller."""
    ends = torch.arange(1, limit_deg + 1, device=errors_deg.device)
    return (errors_deg[:, None] < ends).double().mean().item()


def pair_errors_deg(predicted: Tensor, truth: Tensor) -> Tensor:
    """The larger of rotation and direction error for every pair of cameras (s, 3, 4), as (pairs,) in degrees.

    What is not a number counts as 180.
    """
    first, second = torch.triu_indices(len(truth), len(truth), 1, device=truth.device)
    one, other = (relative(cameras[first], cameras[second]) for cameras in (predicted, truth))
    worst = torch.maximum(rotation_error(one[..., :3], other[..., :3]), direction_error(one[..., 3], other[..., 3]))
    return worst.rad2deg().nan_to_num(180.0)


def relative(first: Tensor, second: Tensor) -> Tensor:
    """Second camera from first camera, both from world: (pairs, 3, 4)."""
    rotation = second[..., :3] @ first[..., :3].mT
    return torch.cat([rotation, second[..., 3:] - rotation @ first[..., 3:]], -1)


def rotation_error(one: Tensor, other: Tensor) -> Tensor:
    """The angle between rotations (..., 3, 3) in radians, exact near 0, where the arc cosine of the trace is not."""
    return 2 * torch.asin(((one - other).flatten(-2).norm(dim=-1) / 8**0.5).clamp(max=1))


def direction_error(one: Tensor, other: Tensor) -> Tensor:
    """The angle between the lines along translations (..., 3) in radians: the sign is free, as in the published
    evaluation.

    Without a true baseline there is no direction to miss: 0. A predicted baseline of length 0 has none: 90 degrees.
    """
    angle = torch.atan2(torch.linalg.cross(one, other).norm(dim=-1), (one * other).sum(-1).abs())
    angle = torch.where(one.norm(dim=-1) > 0, angle, torch.pi / 2)
    return torch.where(other.norm(dim=-1) > SAME_PLACE, angle, 0)
