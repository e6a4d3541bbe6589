"""The Depth Anything 3 kinds of `tests.golden`. Tolerances and what is waived: README of the golden group."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.recipes.da3_eth3d import base, codes, known_cameras, ray_pose, reference
from lib.recipes.da3_eth3d.model import DA3
from lib.recipes.da3_eth3d.size import ModelSize
from lib.recipes.da3_eth3d.trunk import IMAGENET_MEAN, IMAGENET_STD
from lib.scenes import geometry, similarity
from tests import golden_da3_pictures
from tests.golden import Case, Distance, Tolerance, Waiver

# The words of a case's config that are called otherwise here; the others are the same.
WORDS = {
    "patch": "patch_size", "heads": "num_heads", "head_features": "dpt_features",
    "head_out_channels": "dpt_out_channels", "head_output_hidden": "dpt_output_hidden",
    "cam_enc_depth": "camera_encoder_depth", "cam_enc_heads": "camera_encoder_heads",
}  # fmt: skip
SAME = ("embed_dim", "depth", "mlp_ratio", "out_layers", "alt_start", "qknorm_start", "rope_start")
# Of the dense outputs of a picture of the native grid only these rows and columns are stored.
STORED = {"depth": (slice(3, None, 7),) * 2, "ray": (slice(4, None, 8),) * 2}


def model(case: Case) -> dict[str, Tensor]:
    """Loaded as the published files are; every weight must have its place."""
    config = case.config
    named = {ours: config[theirs] for theirs, ours in WORDS.items()} | {word: config[word] for word in SAME}
    network = DA3(ModelSize(img_size=config["native_grid"] * config["patch"], **named)).eval()
    base.load(network, case.folder / "weights.safetensors")
    cells, patch = case.inputs.get("image_cells"), config["patch"]
    images = case.inputs["images"] if cells is None else cells.repeat_interleave(patch, -1).repeat_interleave(patch, -2)
    given = (case.inputs["extrinsics"], case.inputs["intrinsics"]) if config["pose_conditioned"] else None
    with torch.no_grad():
        read = network.read(images, None, given, config["reference_strategy"])
        predicted = network(images, known=given, rays=True, reference=config["reference_strategy"])
        found = {"camera_condition": network.camera_condition(given, *images.shape[-2:])} if given else {}
    found |= {f"tokens.{k}": layer for k, layer in enumerate(read.patches)}
    found |= {f"camera_token.{k}": token for k, token in enumerate(read.camera_tokens)}
    if read.reference is not None:
        found["reference_view"] = read.reference
    found |= dict(
        zip(
            ("extrinsics", "intrinsics"),
            geometry.decode_cameras(predicted["pose_enc"], *images.shape[-2:]),
            strict=True,
        )
    )
    found |= {"depth": predicted["depth"][..., 0], "pose_code": predicted["pose_code"]}
    found |= {name: predicted[name] for name in ("depth_conf", "ray", "ray_conf")}
    return {name: stored(name, value) if cells is not None else value for name, value in found.items()}


def stored(name: str, value: Tensor) -> Tensor:
    rows_columns = STORED.get(name.partition("_")[0])
    return value[(slice(None), slice(None), *rows_columns)] if rows_columns else value


def references(case: Case) -> dict[str, Tensor]:
    """Where several views tie any of them is right, and the reordering is not asked for."""
    found = {}
    for name, tokens in case.inputs.items():
        one = name.removesuffix(".tokens")
        for strategy in case.config["strategies"]:
            key, index = f"{one}.{strategy}", reference.chosen(strategy, tokens[:, :, 0])
            order = reference.reference_first(index, tokens.shape[1])
            first = reference.reordered(tokens[:, :, 0], order)
            expected = case.expected[f"{key}.index"]
            for sample, tied in enumerate(case.config["ties"].get(key, [])):
                if int(index[sample]) in tied and int(expected[sample]) in tied:
                    index[sample] = expected[sample]
                    first[sample] = case.expected[f"{key}.reordered_first_tokens"][sample]
            found |= {f"{key}.index": index, f"{key}.reordered_first_tokens": first}
    return found


def rays(case: Case) -> dict[str, Tensor | Distance]:
    """Against the original's numbers; and where they are right, or should be, against the true cameras."""
    found: dict[str, Any] = {}
    for name in case.config["cases"]:
        ray, confidence, index = (case.inputs[f"{name}.{part}"] for part in ("ray", "ray_conf", "sample_index"))
        cam_from_world, intrinsics = ray_pose.cameras(ray, confidence, *case.config["image_size_hw"], sample=index)
        truth = (case.inputs[f"{name}.true_extrinsics"], case.inputs[f"{name}.true_intrinsics"])
        worst = error_of_limits(
            cam_from_world, intrinsics, *truth, LIMITS["off_centre" if name == "off_centre" else ""]
        )
        drawn_by_seed = ray_pose.cameras(ray, confidence, *case.config["image_size_hw"])
        worst = max(
            worst, error_of_limits(*drawn_by_seed, *truth, LIMITS["off_centre" if name == "off_centre" else ""])
        )
        if name == "off_centre":
            found |= {f"{name}.{part}": Distance(worst) for part in ("c2w", "extrinsics", "intrinsics")}
            continue
        assert worst <= 1, f"{name}: {worst:.2f} times the allowed distance from the true cameras"
        pose = geometry.inverse(cam_from_world)
        last = torch.tensor([0.0, 0, 0, 1]).expand(*pose.shape[:2], 1, 4)
        found |= {f"{name}.c2w": torch.cat([pose, last], -2), f"{name}.extrinsics": cam_from_world}
        found[f"{name}.intrinsics"] = intrinsics
    return found


# Degrees, shares of the focal length, px of the centre, and of the origin, that count as right.
LIMITS = {"": (0.2, 5e-3, 0.5, 1e-2), "off_centre": (0.1, 1e-3, 0.5, 1e-2)}


def error_of_limits(
    cam_from_world: Tensor, intrinsics: Tensor, truth: Tensor, true_intrinsics: Tensor, limits: tuple[float, ...]
) -> float:
    """The largest error over its limit."""
    pose, true_pose = geometry.inverse(cam_from_world.double()), geometry.inverse(truth[..., :3, :].double())
    half_chord = (pose[..., :3] - true_pose[..., :3]).flatten(-2).norm(dim=-1) / 8**0.5
    focal, true_focal = (k[..., [0, 1], [0, 1]].double() for k in (intrinsics, true_intrinsics))
    errors = (
        (2 * torch.asin(half_chord)).rad2deg(), (focal / true_focal - 1).abs(),
        (intrinsics - true_intrinsics)[..., :2, 2].abs(), (pose - true_pose)[..., 3].abs(),
    )  # fmt: skip
    return max(float(error.max()) / limit for error, limit in zip(errors, limits, strict=True))


def cameras(case: Case) -> dict[str, Tensor]:
    size, given = case.config["image_size_hw"], case.inputs["extrinsics"]
    code = codes.published_code(given[..., :3, :], case.inputs["intrinsics"], *size)
    decoded = geometry.decode_cameras(codes.scenes_code(case.inputs["raw_pose_code"]), *size)
    found = {"pose_code_of_inputs": code, "decoded_extrinsics": decoded[0], "decoded_intrinsics": decoded[1]}
    found["normalised_extrinsics"] = four_rows(known_cameras.normalised(given[..., :3, :]))
    found["normalised_tight_extrinsics"] = four_rows(
        known_cameras.normalised(case.inputs["tight_extrinsics"][..., :3, :])
    )
    given, depth = given[0, :, :3], case.inputs["predicted_depth"]
    fit = similarity.of_cameras(given, case.inputs["predicted_extrinsics"][..., :3, :])
    return found | {
        "scale_input_to_prediction": fit.scale,
        "to_input.depth": depth / fit.scale, "to_input.extrinsics": given,
        "to_prediction.depth": depth, "to_prediction.extrinsics": four_rows(similarity.moved(given, fit)),
    }  # fmt: skip


def four_rows(rigid: Tensor) -> Tensor:
    last = torch.tensor([0.0, 0, 0, 1]).expand(*rigid.shape[:-2], 1, 4)
    return torch.cat([rigid, last], -2)


def pictures(case: Case) -> dict[str, Distance | Tensor]:
    """The config's table of sizes counts as well: it must agree whole before any picture is compared."""
    for row in case.config["sizes"]:
        found = golden_da3_pictures.sizes(row["width"], row["height"], case.config["process_res"], row["method"])
        assert found.seen == (row["out_width"], row["out_height"]), f"{row}: {found}"
        ours = golden_da3_pictures.intrinsics(np.array(row["intrinsics_in"]), row["width"], row["height"], found)
        assert np.allclose(ours, row["intrinsics_out"], rtol=1e-4, atol=1e-6), f"{row}: {ours}"
    results: dict[str, Distance | Tensor] = {}
    mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    for number, row in enumerate(case.config["pictures"]):
        photo = case.inputs[f"picture{number}"].numpy()
        pixels = torch.tensor(golden_da3_pictures.picture(photo, row["process_res"], row["method"])).permute(2, 0, 1)
        ours, expected = (pixels / 255 - mean) / deviation, case.expected[f"picture{number}.normalised"]
        same = ours.shape == expected.shape
        results[f"picture{number}.normalised"] = Distance((ours - expected).abs().mean().item()) if same else ours
    return results


KINDS = {
    "da3_model": model,
    "da3_reference": references,
    "da3_ray_pose": rays,
    "da3_camera": cameras,
    "da3_preprocess": pictures,
}

TOLERANCES = (
    Tolerance("da3_model", "reference_view"),
    Tolerance("da3_model", ".*", of_max=1e-4),
    Tolerance("da3_reference", ".*"),
    Tolerance("da3_ray_pose", r"off_centre\..*", atol=1.0),  # of the README's limits against the true cameras
    Tolerance("da3_ray_pose", r".*\.intrinsics", rtol=2e-3, atol=0.1),
    Tolerance("da3_ray_pose", r".*\.c2w", atol=2e-3),
    # The same rotation, and its origin turned by it: an origin may be off by 1e-2.
    Tolerance("da3_ray_pose", r".*\.extrinsics", atol=1e-2),
    Tolerance("da3_camera", "decoded_intrinsics", rtol=1e-4),
    Tolerance("da3_camera", r"(to_input|to_prediction)\..*|scale.*", rtol=1e-4, of_max=1e-4),
    Tolerance("da3_camera", ".*", rtol=1e-5, of_max=1e-5),
    Tolerance("da3_preprocess", ".*", atol=0.05),
)

WAIVED = (Waiver("da3_camera", r"post\..*", "sky and metric post-processing of variants that are not offered"),)
