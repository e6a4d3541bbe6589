"""Golden kinds of a map frame: the lines that the map has around it, and what its cameras see of points."""

import re

import numpy as np
import torch

from lib.recipes.llava_map import geometry, polylines, roadmap
from tests.golden import Case, Distance


def frame_key(case: Case, number: int) -> str:
    """ "frame7" or "frame07", as the stored outputs write it."""
    heads = {name.split(".")[0] for name in case.expected}
    return next((head for head in sorted(heads) if re.fullmatch(rf"frame0*{number}", head)), f"frame{number}")


def gt_extraction(case: Case) -> dict:
    points, low, high = case.config["num_points"], case.config["pc_range"][:2], case.config["pc_range"][3:5]
    half = ((high[0] - low[0]) / 2, (high[1] - low[1]) / 2)
    folder = case.folder / "dataroot" / "maps" / "expansion"
    maps = {path.stem: roadmap.RoadMap.read(path) for path in sorted(folder.glob("*.json"))}
    found = {}
    for number, frame in enumerate(case.inputs["frames"]):
        world_from_lidar = geometry.rigid(frame["ego2global_translation"], frame["ego2global_rotation"])
        world_from_lidar = world_from_lidar @ geometry.rigid(
            frame["lidar2ego_translation"], frame["lidar2ego_rotation"]
        )
        yaw = geometry.yaw_rad(world_from_lidar)
        vectors = maps[frame["map_location"]].vectors(*world_from_lidar[:2, 3], yaw, half)
        key = frame_key(case, number)
        found[f"{key}.lidar2global"] = world_from_lidar
        found[f"{key}.patch_center_and_yaw_rad"] = np.array([*world_from_lidar[:2, 3], yaw])
        found |= compare_vectors(case, key, number, vectors, points, half)
    return found


def compare_vectors(case: Case, key: str, number: int, vectors: list, points: int, half: tuple[float, float]) -> dict:
    """A frame's counts, classes, curves and samples against the stored ones, paired by Hausdorff distance."""
    names = {
        int(name.split("instance")[1].split(".")[0]): name
        for name in case.expected
        if name.startswith(f"{key}.instance")
    }
    stored = {i: case.expected[name].numpy() for i, name in names.items()}
    labels = case.expected.get(f"{key}.labels", torch.zeros(0))
    found = {f"frames.{number}.num_instances": len(vectors)}
    if len(vectors) != len(stored):
        return found
    partner = assign(vectors, stored, labels)
    for i, curve in stored.items():
        ours = vectors[partner[i]].vertices
        instance = f"frames.{number}.instances.{i}"
        found[names[i]] = Distance(max(hausdorff_m(ours, curve), abs(length_m(ours) - length_m(curve))))
        found |= {
            f"{instance}.type": vectors[partner[i]].label,
            f"{instance}.length_m": length_m(ours),
            f"{instance}.is_closed": polylines.is_closed(ours),
        }
    found[f"{key}.labels"] = torch.tensor([vectors[partner[i]].label for i in stored])
    if f"{key}.points20_clamped" in case.expected:
        samples = zip(
            case.expected[f"{key}.points20_clamped"].numpy(),
            (vectors[partner[i]].vertices for i in stored),
            strict=True,
        )
        found[f"{key}.points20_clamped"] = Distance(
            max(sample_distance_m(stored20, ours, points, half) for stored20, ours in samples)
        )
    return found


def sample_distance_m(stored: np.ndarray, ours: np.ndarray, points: int, half: tuple[float, float]) -> float:
    """Largest deviation of the samples in the nearest order; a ring starts where the stored one does."""
    import shapely

    candidates = polylines.orders(ours, points, half)
    if polylines.is_closed(ours):
        ring = shapely.LineString(ours)
        start = shapely.line_locate_point(ring, shapely.Point(stored[0]))
        along = (start + np.linspace(0, ring.length, points)) % ring.length
        line = polylines.clamped(shapely.get_coordinates(shapely.line_interpolate_point(ring, along)), half)
        candidates = np.concatenate([candidates, line[None], line[None, ::-1]])
    return float(np.abs(candidates - stored).max((1, 2)).min())


def assign(vectors: list, stored: dict, labels: torch.Tensor) -> dict[int, int]:
    from scipy.optimize import linear_sum_assignment

    cost = [
        [
            hausdorff_m(v.vertices, curve) + abs(length_m(v.vertices) - length_m(curve)) + 1e6 * (v.label != labels[i])
            for v in vectors
        ]
        for i, curve in stored.items()
    ]
    rows, columns = linear_sum_assignment(np.array(cost, dtype=float).reshape(len(stored), len(vectors)))
    return {list(stored)[row]: int(column) for row, column in zip(rows, columns, strict=True)}


def hausdorff_m(a: np.ndarray, b: np.ndarray) -> float:
    import shapely

    return float(shapely.hausdorff_distance(shapely.LineString(a), shapely.LineString(b), densify=0.05))


def length_m(curve: np.ndarray) -> float:
    return float(np.hypot(*np.diff(curve, axis=0).T).sum())


def transforms(case: Case) -> dict:
    points, scale = case.inputs["points_lidar"].numpy(), case.config["image_scale"]
    found = {}
    for number, frame in enumerate(case.inputs["frames"]):
        world_from_ego = geometry.rigid(frame["ego2global_translation"], frame["ego2global_rotation"])
        ego_from_lidar = geometry.rigid(frame["lidar2ego_translation"], frame["lidar2ego_rotation"])
        world_from_lidar = world_from_ego @ ego_from_lidar
        key = frame_key(case, number)
        found |= {
            f"{key}.points_ego": geometry.transform(ego_from_lidar, points),
            f"{key}.points_global": geometry.transform(world_from_lidar, points),
            f"{key}.lidar2global": world_from_lidar,
            f"{key}.ego_yaw_deg_0_360": np.degrees(geometry.yaw_rad(world_from_ego)) % 360,
        }
        for camera in frame["cameras"]:
            found |= {
                f"{key}.{camera['channel']}.{k}": v
                for k, v in camera_values(camera, world_from_lidar, points, scale).items()
            }
    return found


def camera_values(camera: dict, world_from_lidar: np.ndarray, points: np.ndarray, scale: float) -> dict:
    world_from_cam = geometry.rigid(camera["ego2global_translation"], camera["ego2global_rotation"])
    world_from_cam = world_from_cam @ geometry.rigid(camera["sensor2ego_translation"], camera["sensor2ego_rotation"])
    lidar_from_cam = geometry.inverse(world_from_lidar) @ world_from_cam
    cam_from_lidar = geometry.inverse(lidar_from_cam)
    intrinsics = np.array(camera["camera_intrinsic"])
    pixels, depth_m, visible = geometry.project(
        geometry.transform(cam_from_lidar, points), intrinsics, camera["width"], camera["height"]
    )

    def image_from_lidar(k: np.ndarray) -> np.ndarray:
        full = np.eye(4)
        full[:3, :3] = k
        return full @ cam_from_lidar

    return {
        "sensor2lidar_rotation": lidar_from_cam[:3, :3],
        "sensor2lidar_translation": lidar_from_cam[:3, 3],
        "lidar2cam": cam_from_lidar,
        "lidar2img": image_from_lidar(intrinsics),
        "lidar2img_scaled": image_from_lidar(geometry.scaled(intrinsics, scale, scale)),
        "depth": depth_m,
        "uv_or_minus1": pixels,
        "visible": visible,
    }
