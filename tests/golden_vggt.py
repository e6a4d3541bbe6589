"""The VGGT kinds of `tests.golden`. Tolerances and what is waived: README of the golden VGGT group."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from lib.recipes.vggt_eth3d.model import VGGT
from lib.recipes.vggt_eth3d.sections import LossConfig
from lib.recipes.vggt_eth3d.size import ModelSize
from lib.scenes import geometry, losses, metrics
from lib.scenes.dpt import uv_embedding
from lib.scenes.layers import rope, rotate
from tests.golden import Case, Tolerance, Waiver

MIN_VALID_PX = {"seed": 10, "upstream": 100}  # all that the two implementations differ in


def model(case: Case) -> dict[str, Tensor]:
    """The heads that the case has weights for; every weight must have its place."""
    known = {field.name for field in fields(ModelSize)}
    heads = {
        name: any(key.startswith(f"{name}.") for key in case.weights)
        for name in ("camera_head", "depth_head", "point_head")
    }
    network = VGGT(ModelSize(**{key: value for key, value in case.config.items() if key in known}, **heads)).eval()
    network.load_state_dict(case.weights)
    images = case.inputs["images"]
    with torch.no_grad():
        patches = network.front(images, 0)
        layers = network.layers(images, patches, 0)
        predicted = network.predict(layers, *images.shape[-2:])
    found = {"patch_tokens": patches.flatten(0, 1)} | {f"agg.layer_{index}": layer for index, layer in layers.items()}
    return found | predicted | {f"pose_enc.{i}": code for i, code in enumerate(predicted.get("pose_enc_list", []))}


def pose_encoding(case: Case) -> dict[str, Tensor]:
    height, width = case.config["image_size_hw"]
    code = geometry.encode_cameras(case.inputs["extrinsics"], case.inputs["intrinsics"], height, width)
    decoded = geometry.decode_cameras(code, height, width)
    predicted = geometry.decode_cameras(case.inputs["pred_pose_enc"], height, width)
    code = torch.cat([code[..., :3], same_sign(code[..., 3:7], case.expected["pose_enc"][..., 3:7]), code[..., 7:]], -1)
    return {
        "pose_enc": code, "decoded_extrinsics": decoded[0], "decoded_intrinsics": decoded[1],
        "pred_extrinsics": predicted[0], "pred_intrinsics": predicted[1],
    }  # fmt: skip


def same_sign(quaternion: Tensor, expected: Tensor) -> Tensor:
    """At 180 degrees w = 0 and the sign is free; elsewhere it is not."""
    opposite = (quaternion * expected).sum(-1, keepdim=True) < 0
    return torch.where(opposite & (expected[..., 3:].abs() < 1e-6), -quaternion, quaternion)


def loss_values(case: Case) -> dict[str, Tensor]:
    found = {}
    for implementation, min_valid_px in MIN_VALID_PX.items():
        for family, run in (
            ("camera", camera_case),
            ("depth", dense_case),
            ("point", dense_case),
            ("multitask", multitask_case),
        ):
            for name, options in case.config.get(f"{family}_cases", {}).items():
                parts = run(case.inputs, options, family, min_valid_px)
                found |= {f"{implementation}.{family}.{name}.{part}": value for part, value in parts.items()}
    return found


def camera_case(inputs: dict[str, Tensor], case: dict[str, Any], family: str, min_valid_px: int) -> dict[str, Tensor]:
    given = case["options"]
    loss = LossConfig(
        camera_norm=given["loss_type"],
        iteration_decay=given.get("gamma", 0.6),
        translation_weight=given.get("weight_trans", 1.0),
        rotation_weight=given.get("weight_rot", 1.0),
        focal_weight=given.get("weight_focal", 0.5),
        min_valid_px=min_valid_px,
    )
    valid = inputs[f"mask.{case['mask']}"]
    truth = geometry.encode_cameras(inputs["extrinsics"], inputs["intrinsics"], *valid.shape[-2:])
    parts = losses.camera_loss(
        [inputs[name] for name in case["pred"]],
        truth,
        valid[:, 0].sum((1, 2)) > min_valid_px,
        loss,
        loss.iteration_decay,
    )
    return {f"loss_{part}": value for part, value in parts.items()}


def dense_case(inputs: dict[str, Tensor], case: dict[str, Any], family: str, min_valid_px: int) -> dict[str, Tensor]:
    given = case["options"]
    loss = LossConfig(
        confidence_error=given.get("gamma", 1.0), confidence_reward=given.get("alpha", 0.2),
        valid_range=given.get("valid_range", -1), min_valid_px=min_valid_px,
    )  # fmt: skip
    key = {"depth": "pred_depth", "point": "pred_world_points"}[family]
    truth = inputs[case.get("depths", "depths")][..., None] if family == "depth" else inputs["world_points"]
    predicted = inputs[case.get("pred", key)].clone().requires_grad_()
    confidence = inputs[f"{key}_conf"].clone().requires_grad_()
    parts = losses.dense_loss(
        predicted, confidence, truth, inputs[f"mask.{case['mask']}"], loss, given["gradient_loss_fn"]
    )
    gradients = torch.autograd.grad(sum(parts.values()), [predicted, confidence])
    found = {f"loss_{part}_{family}": value for part, value in parts.items()}
    return found | {f"grad_{key}": gradients[0], "grad_pred_conf": gradients[1]}


def multitask_case(
    inputs: dict[str, Tensor], case: dict[str, Any], family: str, min_valid_px: int
) -> dict[str, Tensor]:
    """The case's ground truth is normalised already, so the parts are put together here as `losses.objective` does."""
    found, total = {}, 0
    if camera := case.get("camera"):
        options = {
            "pred": sorted(name for name in inputs if name.startswith("pred_pose_enc.")),
            "mask": case["mask"],
            "options": camera,
        }
        found |= camera_case(inputs, options, "camera", min_valid_px)
        total = total + camera["weight"] * found["loss_camera"]
    for name in ("depth", "point"):
        if name in case:
            parts = dense_case(inputs, {"mask": case["mask"], "options": case[name]}, name, min_valid_px)
            found |= parts
            total = total + case[name]["weight"] * sum(
                value for part, value in parts.items() if part.startswith("loss_")
            )
    return found | {"objective": total}


def scene_normalisation(case: Case) -> dict[str, Tensor]:
    found = {}
    for name, options in case.config["cases"].items():
        given = [case.inputs[key] for key in ("extrinsics", "world_points", "cam_points", "depths", options["mask"])]
        scene = geometry.normalise_scene(*given)
        scaled = options.get("scale_by_points", True)
        tensors = {
            "extrinsics": scene.cam_from_world,
            "world_points": scene.world_points,
            "cam_points": scene.cam_points,
            "depths": scene.depths,
        }
        if not scaled:  # we always scale; taken back, the rest of the change of frame remains
            tensors = {key: unscaled(key, value, scene.scale) for key, value in tensors.items()}
        found |= {
            f"{implementation}.{name}.{key}": value for key, value in tensors.items() for implementation in MIN_VALID_PX
        }
    return found


def unscaled(key: str, value: Tensor, scale: Tensor) -> Tensor:
    back = value * geometry.over(scale, value)
    return torch.cat([value[..., :3], back[..., 3:]], -1) if key == "extrinsics" else back


def without_meaning(case: Case, name: str, expected: Tensor) -> Tensor:
    """Of points and depths, the invalid pixels; from upstream, also the samples without any valid pixel."""
    implementation, sub_case, key = name.split(".")
    valid = case.inputs[case.config["cases"][sub_case]["mask"]]
    empty = ~valid.flatten(1).any(1) if implementation == "upstream" else torch.zeros(len(valid), dtype=torch.bool)
    if key == "extrinsics":
        return empty.view(-1, 1, 1, 1).expand(expected.shape)
    unusable = ~valid | empty.view(-1, 1, 1, 1)
    return unusable.view(*valid.shape, *[1] * (expected.dim() - 4)).expand(expected.shape)


def geometry_values(case: Case) -> dict[str, Tensor]:
    depth, cameras, intrinsics = (case.inputs[key] for key in ("depth", "extrinsics", "intrinsics"))
    world_from_cam = geometry.inverse(cameras)
    last_row = world_from_cam.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(cameras), 1, 4)
    pixels, cam_points = geometry.project(case.inputs["points_world"], cameras, intrinsics)
    quaternions = geometry.quaternion_from_rotation(case.inputs["rotations"])
    tokens, base = case.inputs["rope_tokens"], case.config["rope_base"]
    turned = [
        rotate(row[None], rope(positions, tokens.shape[-1], base))[0]
        for row, positions in zip(tokens, case.inputs["rope_positions_yx"], strict=True)
    ]  # fmt: skip
    return {
        "cam_points": geometry.cam_points_from_depth(depth, intrinsics),
        "world_points": geometry.world_points_from_depth(depth, cameras, intrinsics),
        "valid_mask": geometry.known(depth),
        "cam_to_world": torch.cat([world_from_cam, last_row], 1),
        "projected_pixels": pixels,
        "projected_cam_points": cam_points,
        "quat_from_rotations": same_sign(quaternions, case.expected["quat_from_rotations"]),
        "rotations_from_quat": geometry.rotation_from_quaternion(case.inputs["quaternions_xyzw"]),
        "rope_out": torch.stack(turned),
        **{
            f"uv_embed.{name}": uv_embedding(uv["channels"], uv["grid_h"], uv["grid_w"], uv["image_w"] / uv["image_h"])
            for name, uv in case.config.get("uv_cases", {}).items()
        },
    }


def depth_metrics(case: Case) -> dict[str, Tensor]:
    """Each sample is a sequence of one frame, so one scale per sequence is what the original calls `scale`."""
    found = {}
    for sample in case.config["samples"]:
        predicted, truth, valid = (case.inputs[f"{sample}.{key}"][None] for key in ("pred", "gt", "mask"))
        for alignment in case.config["alignments"]:
            numbers = metrics.depth_numbers(metrics.align(predicted, truth, valid, alignment), truth, valid)
            found[f"{sample}.{alignment}"] = torch.tensor([numbers[name] for name in case.config["metrics"]])
            found[f"{sample}.{alignment}.corrected_delta"] = torch.tensor([numbers[f"delta_{k}"] for k in (1, 2, 3)])
            found[f"{sample}.{alignment}.negative_share"] = numbers["negative_share"]
    return found


def constant_prediction(case: Case, name: str, expected: Tensor) -> Tensor:
    sample = name.rpartition(".scale_shift")[0]
    predicted = case.inputs[f"{sample}.pred"][case.inputs[f"{sample}.mask"]]
    return torch.full(expected.shape, len(predicted) > 0 and bool((predicted == predicted[0]).all()))


def deltas_with_negatives(case: Case, name: str, expected: Tensor) -> Tensor:
    is_delta = torch.tensor([metric.startswith("delta") for metric in case.config["metrics"]])
    return is_delta & (case.expected.get(f"{name}.negative_share", torch.zeros(())) > 0)


KINDS = {
    "vggt_model": model,
    "vggt_pose_encoding": pose_encoding,
    "vggt_losses": loss_values,
    "vggt_scene_normalisation": scene_normalisation,
    "vggt_geometry": geometry_values,
    "vggt_depth_metrics": depth_metrics,
}

TOLERANCES = (
    # Below the README's atol, which is 5e-5, or 5e-6 where tokens are small.
    Tolerance("vggt_model", r"patch_tokens|agg\..*", rtol=1e-4, of_max=6e-6),
    Tolerance("vggt_model", r"pose_enc.*", rtol=1e-4, atol=5e-5),
    Tolerance("vggt_model", r"depth.*|world_points.*", of_max=1e-4),
    Tolerance("vggt_pose_encoding", r".*_intrinsics", rtol=1e-5),
    Tolerance("vggt_pose_encoding", r".*", atol=1e-5),
    Tolerance("vggt_losses", r".*\.grad_pred_.*", rtol=1e-4, atol=1e-7),
    Tolerance("vggt_losses", r".*", rtol=2e-5, atol=1e-6),
    Tolerance("vggt_scene_normalisation", r".*", rtol=1e-5, atol=1e-5),
    Tolerance("vggt_geometry", r"projected_pixels", atol=1e-3),
    Tolerance("vggt_geometry", r".*", atol=1e-5),
    Tolerance("vggt_depth_metrics", r".*\.scale_shift", rtol=1e-3),
    Tolerance("vggt_depth_metrics", r".*", rtol=1e-4),
)

EMPTY_ITEM = "an item without valid pixels explodes by 1e6, a flaw; points and depths are compared on valid pixels only"
VALID_ONLY = "points and depths are compared on valid pixels only"
CONSTANT = "scale_shift returns the unaligned prediction when the variance is exactly 0, a flaw"
NEGATIVE = "two negatives or a negative ratio count as delta inliers, a flaw; corrected_delta is compared"
WAIVED = (
    Waiver("vggt_scene_normalisation", r"upstream\..*", EMPTY_ITEM, without_meaning),
    Waiver("vggt_scene_normalisation", r"seed\..*", VALID_ONLY, without_meaning),
    Waiver("vggt_depth_metrics", r".*\.scale_shift(\..*)?", CONSTANT, constant_prediction),
    Waiver("vggt_depth_metrics", r"[^.]*\.[^.]*", NEGATIVE, deltas_with_negatives),
)
