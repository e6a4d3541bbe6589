"""The training loss of Depth Anything 3, as far as it is published (paper, section 3.3), and what is ours.

Published: one factor for the whole scene (the mean distance of its points), L1 on the camera code, on the ray map and
on depth with a confidence, a term on differences of depth; all with the weight 1. Not published: how errors are
averaged, the confidence's weight, the ray map's details. There ours is the dense loss of lib.scenes.losses, without the
largest per cent of the errors, and a plain mean over the ray map without a confidence. The paper's term on points is
left out, because depth and rays have one already.
"""

from typing import Any

import torch
from torch import Tensor

from lib.recipes.da3_eth3d.codes import published_code
from lib.recipes.da3_eth3d.sections import LossConfig
from lib.scenes import geometry, losses


def objective(predicted: dict[str, Any], batch: dict[str, Any], loss: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """`lib.scenes.losses.objective` of what `DA3.forward` returns; cameras are compared in the published code."""

    def rays(
        predicted: dict[str, Any], truth: geometry.Scene, batch: dict[str, Any], pixel_weight: Tensor | None
    ) -> list[losses.Term]:
        if not loss.ray_weight:
            return []
        counted = batch["valid"][:, 0].sum((1, 2)) > loss.min_valid_px
        error = ray_error(predicted["ray"], truth.cam_from_world, batch["intrinsics"], batch["valid"].shape, counted)
        return [("ray", loss.ray_weight, {"l1": error})]

    codes = {"pose_enc_list": [predicted["pose_code"]]}
    return losses.objective(predicted | codes, batch, loss, rays, encode=published_code)


def ray_error(
    ray: Tensor, cam_from_world: Tensor, intrinsics: Tensor, shape: tuple[int, ...], counted: Tensor
) -> Tensor:
    """Mean absolute error of rays (b, s, rows, columns, 6) over the samples `counted` (b,); shape: (b, s, h, w).

    Without any of them, as where the unit of the origins is a guess, it is 0 and keeps the graph.
    """
    true = true_rays(cam_from_world, intrinsics, ray.shape[2:4], shape[2:])
    error = losses.tamed((ray - true).abs())[counted]
    return error.mean() if error.numel() else (0 * ray).sum()


def true_rays(cam_from_world: Tensor, intrinsics: Tensor, grid: tuple[int, ...], size_px: tuple[int, ...]) -> Tensor:
    """The rays of cells: direction in the world, with z = 1 in the camera, then the camera's centre; (b, s, *grid, 6).

    A picture of size_px reaches from 0 to its size, and a ray goes through the middle of its cell.
    """
    rows, columns = (
        (torch.arange(count, device=intrinsics.device) + 0.5) * size / count
        for count, size in zip(grid, size_px, strict=True)
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).to(intrinsics.dtype)
    world_from_cam = geometry.inverse(cam_from_world)
    turned = world_from_cam[..., :3] @ torch.linalg.inv(intrinsics)
    direction = torch.einsum("bsij,hwj->bshwi", turned, pixels)
    return torch.cat([direction, world_from_cam[:, :, None, None, :, 3].expand_as(direction)], -1)
