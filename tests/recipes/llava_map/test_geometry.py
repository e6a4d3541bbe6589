"""Frames, cameras and mirrors against formulas written out here."""

import numpy as np

from lib.recipes.llava_map import geometry


def camera_looking(yaw_deg: float) -> np.ndarray:
    """bev_from_cam of a level camera 1.5 m above the ground; yaw 0 looks along y, positive turns left."""
    yaw = np.radians(yaw_deg)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [np.sin(yaw), 0, np.cos(yaw)], [0, -1, 0]])
    matrix[:3, 3] = 0.4, 1.0, 1.5
    return matrix


INTRINSICS = np.array([[300.0, 0, 190], [0, 300, 110], [0, 0, 1]])


def test_quaternions_are_scalar_first():
    half = np.radians(45)
    turned = geometry.rigid((1, 2, 3), (np.cos(half), 0, 0, np.sin(half)))
    assert np.allclose(geometry.transform(turned, np.array([[1.0, 0, 0]])), [[1, 3, 3]])
    assert np.isclose(geometry.yaw_rad(turned), np.pi / 2)


def test_inverse_undoes_a_pose():
    pose = geometry.rigid((5, -2, 1), (0.3, 0.5, -0.2, 0.7))
    assert np.allclose(geometry.inverse(np.stack([pose, pose])) @ pose, np.eye(4), atol=1e-12)


def test_bev_frame_is_level_and_on_the_ground():
    world_from_ego = geometry.rigid((10, 20, 7), (0.9, 0.02, -0.01, 0.4))
    world_from_lidar = world_from_ego @ geometry.rigid((0.94, 0, 1.84), (0.7071, 0, 0, -0.7071))
    bev = geometry.bev_frame(world_from_ego, world_from_lidar)
    assert np.allclose(bev[:2, 3], world_from_lidar[:2, 3]) and bev[2, 3] == 7
    assert np.allclose(bev[2, :3], [0, 0, 1])
    assert np.isclose(geometry.yaw_rad(bev), geometry.yaw_rad(world_from_lidar))


def test_points_behind_the_camera_have_no_pixel():
    pixels, _, seen = geometry.project(np.array([[0, 0, -5.0], [0, 0, 5.0]]), INTRINSICS, 400, 225)
    assert (pixels[0] == -1).all() and not seen[0]
    assert np.allclose(pixels[1], [190, 110]) and seen[1]


def test_mirroring_twice_is_identity():
    pose, intrinsics = camera_looking(55), INTRINSICS
    once = geometry.mirrored_camera(pose, intrinsics, 400)
    twice = geometry.mirrored_camera(*once, 400)
    assert np.allclose(twice[0], pose) and np.allclose(twice[1], intrinsics)


def test_mirrored_camera_sees_the_mirrored_world():
    """A point at pixel u must appear, mirrored, at width - u in the mirrored camera. In the ego frame it would not."""
    points = np.array([[-3.0, 9.0], [1.5, 14.0], [-8.0, 12.0]])
    pose = camera_looking(20)
    mirrored_pose, mirrored_intrinsics = geometry.mirrored_camera(pose, INTRINSICS, 400)

    def pixels(pose, intrinsics, flat):
        return geometry.project(
            geometry.transform(geometry.inverse(pose), geometry.on_ground(flat)), intrinsics, 400, 225
        )[0]

    plain, mirrored = (
        pixels(pose, INTRINSICS, points),
        pixels(mirrored_pose, mirrored_intrinsics, geometry.mirrored_points(points)),
    )
    assert np.allclose(mirrored[:, 0], 400 - plain[:, 0]) and np.allclose(mirrored[:, 1], plain[:, 1])
    assert np.linalg.det(mirrored_pose[:3, :3]) > 0


def test_left_and_right_cameras_change_places():
    exchanged = geometry.MIRRORED_CAMERA
    assert all(exchanged[exchanged[name]] == name for name in exchanged)
    assert exchanged["CAM_BACK_LEFT"] == "CAM_BACK_RIGHT" and exchanged["CAM_FRONT"] == "CAM_FRONT"
