"""The training loss of scenes: VGGT's (paper, section 3.4) as its released training code computes it.

Depth and points: a regression term, the same weighted by the predicted confidence (Kendall and Gal 2017), and a term on
spatial differences. Cameras: the difference of pose codes over the iterations of the camera head.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.scenes import geometry
from lib.scenes.sections import LossConfig

LARGEST = 100.0  # of any error, in units of the scene: one broken pixel must not own the step
LEAST_ERROR = 0.01  # of the mean distance of a scene's points: what a confidence is not asked to tell apart from 0
FILTERED_FROM = 1000  # errors; the quantile filter leaves smaller sets alone, and never leaves fewer
TRANSLATION, ROTATION, FOCAL = slice(0, 3), slice(3, 7), slice(7, 9)  # of a pose code
GRADIENT_GAMMA, GRADIENT_ALPHA = 1.0, 0.2  # of the confidence in the gradient term; published ones, not the settings'

Term = tuple[str, float, dict[str, Tensor]]  # name, weight, parts that are summed
Terms = Callable[[dict[str, Any], geometry.Scene, dict[str, Any], Tensor | None], list[Term]]


def objective(
    predicted: dict[str, Any],
    batch: dict[str, Any],
    loss: LossConfig,
    own: Terms,
    decay: float = 1.0,
    encode: Callable[[Tensor, Tensor, int, int], Tensor] = geometry.encode_cameras,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum and its parts by their published names, for the heads that `predicted` has.

    predicted: pose_enc_list, depth (b, s, h, w, 1), depth_conf (b, s, h, w). batch: depths (b, s, h, w) with 0 where
    unknown, valid (b, s, h, w), extrinsics camera from world (b, s, 3, 4), intrinsics (b, s, 3, 3) in px; in any unit
    of length, because the scene is normalised here. The pixels of a `region` (b, s, h, w) weigh loss.region_weight in
    the means of the dense errors; differences between neighbours are not weighed. own: a recipe's further terms, from
    (predicted, truth, batch, pixel_weight): each with its weight. decay: of the camera head's earlier iterations.
    encode: what makes the code in which cameras are compared.
    """
    pixel_weight = torch.where(batch["region"], loss.region_weight, 1.0) if "region" in batch else None
    # A matrix product in bf16 would move the ground truth.
    with torch.autocast(batch["depths"].device.type, enabled=False):
        truth, valid = scene(batch), batch["valid"]
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=valid.device)
        if "pose_enc_list" in predicted and loss.camera_weight:
            codes = encode(truth.cam_from_world, batch["intrinsics"], *valid.shape[-2:])
            counted = valid[:, 0].sum((1, 2)) > loss.min_valid_px
            parts |= camera_loss(predicted["pose_enc_list"], codes, counted, loss, decay)
            total = total + loss.camera_weight * parts["camera"]
        terms = own(predicted, truth, batch, pixel_weight)
        if "depth" in predicted and loss.depth_weight:
            depths = (predicted["depth"], predicted["depth_conf"], truth.depths[..., None])
            found = dense_loss(*depths, valid, loss, loss.depth_gradient, pixel_weight)
            terms = [("depth", loss.depth_weight, found), *terms]
        for name, weight, found in terms:
            parts |= {f"{part}_{name}": value for part, value in found.items()}
            total = total + weight * sum(list(found.values())[1:], next(iter(found.values())))
    return total, {"objective": total} | parts


def scene(batch: dict[str, Any]) -> geometry.Scene:
    """The batch's ground truth in the units of the network."""
    depths, cameras = batch["depths"], batch["extrinsics"]
    cam_points = geometry.cam_points_from_depth(depths, batch["intrinsics"])
    world_points = geometry.world_points_from_depth(depths, cameras, batch["intrinsics"])
    return geometry.normalise_scene(cameras, world_points, cam_points, depths, batch["valid"])


def camera_loss(
    codes: list[Tensor], truth: Tensor, counted: Tensor, loss: LossConfig, decay: float
) -> dict[str, Tensor]:
    """Pose codes (b, s, 9) of each iteration against the truth: {camera, T, R, FL}.

    Later iterations weigh more (decay^(n - 1 - i) / n). Only samples with `counted` (b,) have a part: where the
    reference frame has too little depth, the scale of the scene is a guess. Without any, the loss is 0 and keeps the
    graph.
    """
    parts = {}
    for name, span in (("T", TRANSLATION), ("R", ROTATION), ("FL", FOCAL)):
        errors = [code_error(code[counted][..., span], truth[counted][..., span], loss.camera_norm) for code in codes]
        decays = [decay ** (len(codes) - 1 - i) for i in range(len(codes))]
        weighted = [share * error for share, error in zip(decays, errors, strict=True)]
        parts[name] = sum(weighted[1:], weighted[0]) / len(codes)
    camera = loss.translation_weight * parts["T"] + loss.rotation_weight * parts["R"] + loss.focal_weight * parts["FL"]
    return {"camera": camera} | parts


def code_error(code: Tensor, truth: Tensor, norm: str) -> Tensor:
    """Mean absolute difference (l1), or mean length of the difference (l2), of codes (n, s, any), which may be none.

    Non-finite differences count 0.
    """
    difference = (code - truth).abs() if norm == "l1" else (code - truth).norm(dim=-1)
    return tamed(difference).mean() if difference.numel() else (0 * code).sum()


def dense_loss(
    predicted: Tensor,
    confidence: Tensor,
    truth: Tensor,
    valid: Tensor,
    loss: LossConfig,
    gradient: str,
    pixel_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Maps (b, s, h, w, c) with confidence and validity (b, s, h, w): {conf, reg, grad}.

    reg = mean of e, conf = mean of gamma e confidence - alpha log(confidence), with e the distance at a valid pixel;
    both without their largest values, and each pixel counted pixel_weight (b, s, h, w) times (`filtered_mean`).
    `gradient` is "grad", "normal", either with "_conf", or "" for none.
    """
    if valid.sum() < loss.min_valid_px:
        nothing = (0 * predicted).sum() + (0 * confidence).sum()
        return {"conf": nothing, "reg": nothing, "grad": nothing}
    truth = tamed(truth)
    error = tamed((truth[valid] - predicted[valid]).norm(dim=-1))
    weighted = confidence_term(error, confidence[valid], loss)
    counts = None if pixel_weight is None else pixel_weight[valid]
    return {
        "conf": filtered_mean(weighted, loss.valid_range, counts),
        "reg": filtered_mean(error, loss.valid_range, counts),
        "grad": gradient_loss(
            predicted.flatten(0, 1), truth.flatten(0, 1), valid.flatten(0, 1), confidence.flatten(0, 1), gradient
        ),
    }


def confidence_term(error: Tensor, confidence: Tensor, loss: LossConfig) -> Tensor:
    """gamma e confidence - alpha log(confidence) of the errors (n,) at valid pixels.

    As published it has no floor: where few scenes are learned by heart, e goes to 0 and the confidence has no end.
    With loss.confidence=detached the confidence learns from an error that is no smaller than LEAST_ERROR and that it
    cannot move, so it ends at alpha / (gamma LEAST_ERROR), and the depth learns from the plain error alone. With
    "frozen" the term is left out.
    """
    if loss.confidence == "frozen":
        return 0 * error
    if loss.confidence == "detached":
        error = error.detach().clamp(min=LEAST_ERROR)
    return tamed(loss.confidence_error * error * confidence - loss.confidence_reward * confidence.log())


def tamed(x: Tensor) -> Tensor:
    """Non-finite values become 0, the rest is limited to +-LARGEST."""
    return x.nan_to_num(0.0, 0.0, 0.0).clamp(-LARGEST, LARGEST)


def filtered_mean(x: Tensor, share: float, counts: Tensor | None = None) -> Tensor:
    """The mean of the values (n,) strictly below their `share` quantile, where there are many; share <= 0 keeps all.

    With `counts` (n,) a value counts so many times; the mean is 0 where nothing counts.
    """
    if share > 0 and x.numel() > FILTERED_FROM:
        rank = round(share * (x.numel() - 1)) + 1
        below = x < x.detach().kthvalue(rank).values
        if below.sum() > FILTERED_FROM:
            x, counts = x[below], counts if counts is None else counts[below]
    return x.mean() if counts is None else (x * counts).sum() / counts.sum().clamp(min=1e-8)


def gradient_loss(predicted: Tensor, truth: Tensor, valid: Tensor, confidence: Tensor, kind: str) -> Tensor:
    """Errors of shape rather than of distance: the mean over grids of every 1st, 2nd, 4th (and 8th) pixel.

    predicted, truth: (frames, h, w, c); valid, confidence: (frames, h, w); kind as in `dense_loss`.
    """
    if not kind:
        return (0 * predicted).sum()
    family, _, weighted = kind.partition("_")
    at_scale, scales = (neighbour_error, 4) if family == "grad" else (normal_error, 3)
    found = []
    for step in (2**i for i in range(scales)):
        given, true, known, trust = (x[:, ::step, ::step] for x in (predicted, truth, valid, confidence))
        found.append(at_scale(given, true, known, trust if weighted else None))
    return sum(found[1:], found[0]) / scales


def neighbour_error(predicted: Tensor, truth: Tensor, valid: Tensor, confidence: Tensor | None) -> Tensor:
    """|change of the error| between neighbours that are both valid, summed, over the count of valid values.

    Shapes as in `gradient_loss`. As published, the confidence's own term counts at every pixel, valid or not.
    """
    error = torch.where(valid[..., None], predicted - truth, 0)
    total = (0 * predicted).sum()
    for dim in (1, 2):
        pairs = valid.shape[dim] - 1
        both = valid.narrow(dim, 1, pairs) & valid.narrow(dim, 0, pairs)
        change = torch.where(both[..., None], error.diff(dim=dim).abs(), 0).clamp(max=LARGEST)
        if confidence is not None:
            change = trusted(change, confidence.narrow(dim, 1, pairs)[..., None])
        total = total + change.sum()
    count = valid.sum() * predicted.shape[-1]
    return torch.where(count > 0, total / count.clamp(min=1), 0 * total)


def normal_error(predicted: Tensor, truth: Tensor, valid: Tensor, confidence: Tensor | None) -> Tensor:
    """1 - cosine between the surface normals of point maps, over the corners that are valid; 0 for fewer than 10.

    Shapes as in `gradient_loss`, c = 3.
    """
    predicted_normals, corners = normals(predicted, valid)
    if corners.sum() < 10:
        return (0 * predicted).sum()
    cosine = (predicted_normals[corners] * normals(truth, valid)[0][corners]).sum(-1).clamp(-1, 1)
    error = tamed(1 - cosine)
    if confidence is not None:
        error = trusted(error, confidence.expand(4, -1, -1, -1)[corners])
    return error.mean()


def normals(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normals (4, f, h, w, 3) of a point map's four corners (up-left, left-down, ...), and where all three points
    are valid (4, f, h, w).
    """
    points, valid = F.pad(points, (0, 0, 1, 1, 1, 1)), F.pad(valid, (1, 1, 1, 1))
    before, middle, after = slice(None, -2), slice(1, -1), slice(2, None)
    around = [(before, middle), (middle, before), (after, middle), (middle, after)]  # up, left, down, right
    centre, centre_valid = points[:, middle, middle], valid[:, middle, middle]
    arms = [points[:, rows, columns] - centre for rows, columns in around]
    seen = [valid[:, rows, columns] & centre_valid for rows, columns in around]
    crossed = [torch.linalg.cross(arms[i], arms[(i + 1) % 4]) for i in range(4)]
    corners = torch.stack([seen[i] & seen[(i + 1) % 4] for i in range(4)])
    return F.normalize(torch.stack(crossed), dim=-1, eps=1e-8), corners


def trusted(error: Tensor, confidence: Tensor) -> Tensor:
    """Errors weighted by the confidence, whose own reward is subtracted."""
    return GRADIENT_GAMMA * error * confidence - GRADIENT_ALPHA * confidence.log()
