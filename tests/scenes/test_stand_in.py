import zlib

import numpy as np
import pycolmap
import pytest
from PIL import Image

from lib.scenes import colmap, depth, depth_files, stand_in, worlds
from lib.scenes.crop import crop
from lib.scenes.render import FAR_M, GROUND, SKY, Box, Geometry, World, look_at
from lib.scenes.textures import BUILDING, GENERIC
from tests.scenes.conftest import VIEWS

PIXELS = stand_in.WIDTH_PX * stand_in.HEIGHT_PX


def one_box(**changes):
    box = Box((0.0, 10.0, 1.0), (1.0, 1.0, 1.0), "clouds", (0.5, 0.5, 0.5), **changes)
    sun = np.array([0.0, -0.6, 0.8])
    return Geometry(World([box], ("grass", (0.3, 0.4, 0.2)), sun, np.ones(3), (np.ones(3), np.zeros(3)), 1))


def test_rays_meet_box_ground_and_sky_at_the_distance_of_the_formula():
    camera = stand_in.pinhole(1.0)
    hits = one_box().hits(camera, look_at((0.0, 0.0, 1.0), (0.0, 10.0, 1.0)))
    middle, focal = stand_in.HEIGHT_PX // 2, camera.focal_length_x
    centre = (middle, stand_in.WIDTH_PX // 2)
    assert hits.number[centre] == 0 and hits.depth[centre] == pytest.approx(9)
    low = stand_in.HEIGHT_PX - 1  # the ground 1 m below, on the ray (low + 0.5 - middle) / focal down per metre
    assert hits.number[low, 0] == GROUND and hits.depth[low, 0] == pytest.approx(focal / (low + 0.5 - middle))
    assert hits.number[0, 0] == SKY and hits.depth[0, 0] == np.inf
    assert (hits.number == 0).sum() == pytest.approx((2 * focal / 9) ** 2, rel=0.03)  # 2 m at 9 m, in both directions


def test_box_behind_the_camera_is_not_seen_and_one_around_it_is_no_obstacle():
    camera = stand_in.pinhole(1.0)
    assert not (one_box().hits(camera, look_at((0.0, 20.0, 1.0), (0.0, 30.0, 1.0))).number == 0).any()
    assert not (one_box().hits(camera, look_at((0.0, 10.0, 1.0), (0.0, 30.0, 1.0))).number == 0).any()


def test_sun_throws_the_shadow_where_the_formula_says():
    # The box is 2 m high and its far side at y = 11; sunlight falls with 0.8 m per 0.6 m, so the shadow ends at
    # 11 + 2 * 0.6 / 0.8 = 12.5.
    lit = one_box().lit(np.array([[0, 11.8, 0.01], [0, 12.2, 0.01], [0, 12.8, 0.01], [2, 11.8, 0.01], [0, 8.0, 0.01]]))
    assert lit.tolist() == [False, False, True, True, True]


def test_scene_has_eth3d_s_files_in_its_formats(rendered):
    scene = rendered / "linden"
    names = [f"DSC_{number + 1:04d}" for number in range(VIEWS)]
    assert sorted(file.stem for file in (scene / "images/dslr_images_undistorted").iterdir()) == names
    for name in names:
        with Image.open(scene / f"images/dslr_images_undistorted/{name}.JPG") as photograph:
            assert (photograph.format, photograph.size) == ("JPEG", (stand_in.WIDTH_PX, stand_in.HEIGHT_PX))
        raw = np.fromfile(scene / f"ground_truth_depth/dslr_images/{name}.JPG", "<f4")
        assert raw.size == PIXELS and (raw > 0).all() and raw[np.isfinite(raw)].max() <= FAR_M
        assert 0.05 < np.isinf(raw).mean() < 0.6
    masks = [np.asarray(Image.open(path)) for path in (scene / "masks_for_images/dslr_images").iterdir()]
    assert masks and all(set(np.unique(mask)) == {0, 2} and mask.size == PIXELS for mask in masks)


def test_tracks_are_where_the_points_project(rendered):
    scene = colmap.read(rendered / "linden")
    assert len(scene.points) > 200 and min(len(view.seen) for view in scene.views) > 50
    reconstruction = pycolmap.Reconstruction(rendered / "linden" / "dslr_calibration_undistorted")
    errors = [
        np.linalg.norm(image.project_point(reconstruction.points3D[keypoint.point3D_id].xyz) - keypoint.xy)
        for image in reconstruction.images.values() for keypoint in image.points2D if keypoint.has_point3D()
    ]  # fmt: skip
    # The median of a Rayleigh distribution.
    assert np.median(errors) == pytest.approx(stand_in.KEYPOINT_NOISE_PX * 1.177, rel=0.1)


def test_depth_at_network_resolution_agrees_with_ray_traced_truth(rendered):
    """Laser depth goes through THIN_PRISM_FISHEYE into the crop; the truth is cast through the crop's own pixels."""
    geometry = Geometry(worlds.street(zlib.crc32(b"linden")))
    scene = colmap.read(rendered / "linden")
    for view in scene.views[:3]:
        frame = crop(view.camera, 126, 84)
        k = frame.intrinsics
        parameters = [k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5]
        centres = pycolmap.Camera(model="PINHOLE", width=126, height=84, params=parameters)
        truth = geometry.hits(centres, view.cam_from_world).depth
        pooled = depth.from_map(depth_files.find_depth_map(scene, view, 0), frame)
        known = pooled > 0
        assert np.median(np.abs(pooled[known] / truth[known] - 1)) < 0.002


def test_same_name_is_the_same_street_and_another_name_another(rendered, tmp_path):
    stand_in.write_scenes(tmp_path, ["harbour"], VIEWS)
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file())
    assert len(files) > 2 * VIEWS + 6
    assert all((tmp_path / file).read_bytes() == (rendered / file).read_bytes() for file in files)
    one, other = (rendered / name / "dslr_calibration_undistorted/images.txt" for name in ("linden", "harbour"))
    assert one.read_bytes() != other.read_bytes()


def test_box_worlds_wear_nothing_of_the_streets():
    assert not set(GENERIC) & set(BUILDING)
    boxes, street = worlds.box_world(5), worlds.street(5)
    assert {box.texture for box in boxes.boxes} | {boxes.ground[0]} <= set(GENERIC)
    assert not {box.texture for box in street.boxes} & set(GENERIC)
    upright = [abs(box.world_from_box[2, 2]) > 0.999 for box in boxes.boxes]
    assert not any(upright)


def test_box_sample_is_consistent_between_its_views():
    sample = stand_in.box_sample(0, 3, 126, 84)
    assert sample["images"].shape == (3, 3, 84, 126) and sample["images"].dtype == np.float32
    camera, (first, second) = sample["intrinsics"][0], sample["extrinsics"][:2]
    row, column = np.nonzero(sample["valid"][0])
    cam = np.linalg.inv(camera) @ np.stack([column, row, np.ones(len(row))]) * sample["depths"][0][row, column]
    there = second[:, :3] @ (first[:, :3].T @ (cam - first[:, 3:])) + second[:, 3:]
    u, v = np.rint((camera @ there)[:2] / there[2]).astype(int)
    inside = (u >= 0) & (u < 126) & (v >= 0) & (v < 84) & (there[2] > 0)
    error = np.abs(sample["depths"][1][v[inside], u[inside]] / there[2, inside] - 1)
    assert (error < 0.1).mean() > 0.8 and np.median(error[error < 0.1]) < 0.01


def test_box_sample_follows_from_its_seed():
    a, b, other = (stand_in.box_sample(seed, 2, 56, 42) for seed in (3, 3, 4))
    assert np.array_equal(a["images"], b["images"]) and np.array_equal(a["depths"], b["depths"])
    assert not np.array_equal(a["depths"], other["depths"])
