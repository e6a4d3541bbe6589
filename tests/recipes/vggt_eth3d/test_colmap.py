import shutil

import numpy as np
import pycolmap
import pytest

from lib.core.errors import Stop
from lib.recipes.vggt_eth3d import colmap

CAMERAS = "# a comment\n1 PINHOLE 40 30 30 30 20 15\n2 OPENCV 40 30 30 31 20 15 0.1 0.01 0.001 0.001\n"
IMAGES = """# two lines per image
1 1 0 0 0 0 0 0 1 b.jpg
1 2 7 3 4 -1 5 6 9
2 0.5 0.5 0.5 0.5 1 2 3 2 a.jpg
5 5 9
3 1 0 0 0 0 0 5 1 sub/c.jpg

"""
POINTS = "7 0 0 1 10 20 30 0.5 1 0\n9 0.5 0 2 10 20 30 0.5 1 2 2 0\n"


@pytest.fixture
def scene(tmp_path):
    model = tmp_path / "yard" / "sparse" / "0"
    model.mkdir(parents=True)
    for name, text in (("cameras", CAMERAS), ("images", IMAGES), ("points3D", POINTS)):
        (model / f"{name}.txt").write_text(text)
    return tmp_path / "yard"


def test_views_carry_pose_camera_and_the_points_they_see(scene):
    read = colmap.read(scene)
    assert [view.name for view in read.views] == ["a", "b", "sub-c"]
    a, b, c = read.views
    assert b.image == scene / "images" / "b.jpg" and c.image == scene / "images" / "sub" / "c.jpg"
    # The quaternion (1, 1, 1, 1) / 2 turns x to y, y to z and z to x.
    np.testing.assert_allclose(a.cam_from_world, [[0, 0, 1, 1], [1, 0, 0, 2], [0, 1, 0, 3]], atol=1e-12)
    assert (a.camera.model_name, b.camera.model_name) == ("OPENCV", "PINHOLE")
    np.testing.assert_array_equal(read.points, [[0, 0, 1], [0.5, 0, 2]])
    assert [view.seen.tolist() for view in read.views] == [[1], [0, 1], []]


def test_binary_model_reads_like_the_text(scene):
    text = colmap.read(scene)
    reconstruction = pycolmap.Reconstruction(scene / "sparse" / "0")
    for file in (scene / "sparse" / "0").iterdir():
        file.unlink()
    reconstruction.write_binary(scene / "sparse" / "0")
    binary = colmap.read(scene)
    both = [
        [(view.name, view.seen.tolist(), view.camera.params.tolist()) for view in read.views] for read in (text, binary)
    ]
    assert both[0] == both[1]
    np.testing.assert_array_equal(binary.points, text.points)


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "dslr_calibration_undistorted"])
def test_model_lies_in_any_of_the_known_places(scene, tmp_path, place):
    (tmp_path / "other" / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(scene / "sparse" / "0", tmp_path / "other" / place)
    assert len(colmap.read(tmp_path / "other").views) == 3


def test_scene_without_a_model_is_refused(scene):
    shutil.rmtree(scene / "sparse" / "0")
    with pytest.raises(Stop, match="yard holds no COLMAP model"):
        colmap.read(scene)


def test_shared_points_are_counted_against_the_view_that_sees_fewer(scene):
    # a sees {9}, b sees {7, 9}, c nothing: a and b share 1 of min(1, 2).
    np.testing.assert_allclose(colmap.shared_points(colmap.read(scene)), [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        ("cameras", "OPENCV", "OPENCW", r"cameras.txt has a camera model 'OPENCW'.*did you mean 'OPENCV'"),
        ("cameras", "30 30 20 15\n2", "30 30 20\n2", "cameras.txt cannot be read"),
        ("images", "0 0 0 1 b.jpg", "0 x 0 1 b.jpg", "images.txt cannot be read"),
        ("images", "1 b.jpg", "5 b.jpg", "images.txt cannot be read.*5"),
        ("points3D", "0.5 0 2", "nan 0 2", "points3D.txt cannot be read"),
    ],
)
def test_damaged_text_model_is_refused_with_its_file(scene, file, old, new, message):
    path = scene / "sparse" / "0" / f"{file}.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(Stop, match=message):
        colmap.read(scene)


def test_nan_in_a_binary_model_is_refused(scene):
    model = scene / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(model)
    reconstruction.points3D[7].xyz = np.array([np.nan, 0, 1])
    reconstruction.write_binary(model)
    with pytest.raises(Stop, match="1 points that are not finite"):
        colmap.read(scene)


def test_missing_file_of_the_model_is_named(scene):
    (scene / "sparse" / "0" / "points3D.txt").unlink()
    with pytest.raises(Stop, match=r"points3D\.txt is missing"):
        colmap.read(scene)


def test_missing_scene_suggests_the_nearest_name(scene):
    with pytest.raises(Stop, match="did you mean 'yard'"):
        colmap.read(scene.parent / "yart")
    with pytest.raises(Stop, match="the folder above it is missing"):
        colmap.read(scene.parent / "nowhere" / "yard")
