import shutil

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.scenes import colmap, lens

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
    reconstruction = lens.pycolmap().Reconstruction(scene / "sparse" / "0")
    for file in (scene / "sparse" / "0").iterdir():
        file.unlink()
    reconstruction.write_binary(scene / "sparse" / "0")
    binary = colmap.read(scene)
    both = [
        [(view.name, view.seen.tolist(), view.camera.params.tolist()) for view in read.views] for read in (text, binary)
    ]
    assert both[0] == both[1]
    np.testing.assert_array_equal(binary.points, text.points)


@pytest.mark.parametrize(
    "place", ["sparse/0", "sparse", "dslr_calibration_undistorted", "colmap/sparse/0", "colmap/sparse", "."]
)
def test_model_lies_in_any_of_the_known_places(scene, tmp_path, place):
    (tmp_path / "other" / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(scene / "sparse" / "0", tmp_path / "other" / place, dirs_exist_ok=True)
    read = colmap.read(tmp_path / "other")
    assert len(read.views) == 3 and read.views[0].image == tmp_path / "other" / "images" / "a.jpg"


def test_the_largest_of_several_models_is_read_and_said(scene, capsys):
    for number, views in (("0", 1), ("1", 3), ("2", 2)):
        shutil.copytree(scene / "sparse" / "0", scene / "all" / number)
        lines = IMAGES.split("\n")[1:]
        (scene / "all" / number / "images.txt").write_text("\n".join(lines[: 2 * views]) + "\n")
    shutil.rmtree(scene / "sparse")
    (scene / "all").rename(scene / "sparse")
    assert len(colmap.read(scene).views) == 3
    said = "yard: of 3 COLMAP models the largest is read, sparse/1 (images: sparse/0 has 1, sparse/1 has 3, sparse/2"
    assert said in capsys.readouterr().out


def test_names_are_read_to_the_end_of_the_line(scene):
    images = scene / "sparse" / "0" / "images.txt"
    images.write_text(IMAGES.replace("b.jpg", "IMG 0001 (copy).jpg").replace("a.jpg", " my  photo.v2.jpg "))
    read = colmap.read(scene)
    assert [view.name for view in read.views] == ["IMG 0001 (copy)", "my  photo.v2", "sub-c"]
    assert read.views[0].image == scene / "images" / "IMG 0001 (copy).jpg"
    assert [view.seen.tolist() for view in read.views] == [[0, 1], [1], []]


def test_photographs_that_differ_in_the_suffix_alone_keep_it(scene):
    images = scene / "sparse" / "0" / "images.txt"
    images.write_text(IMAGES.replace("b.jpg", "a.png"))
    assert [view.name for view in colmap.read(scene).views] == ["a.jpg", "a.png", "sub-c"]
    images.write_text(IMAGES.replace("b.jpg", "sub-c.png"))
    assert [view.name for view in colmap.read(scene).views] == ["a", "sub-c.png", "sub-c.jpg"]
    images.write_text(IMAGES.replace("b.jpg", "a.jpg"))
    with pytest.raises(Stop, match=r"two images of one name: a\.jpg"):
        colmap.read(scene)


def test_names_outside_of_the_scene_are_refused(scene):
    images = scene / "sparse" / "0" / "images.txt"
    images.write_text(IMAGES.replace("b.jpg", "/elsewhere/b.jpg"))
    with pytest.raises(Stop, match=r"lists the image /elsewhere/b\.jpg"):
        colmap.read(scene)


def test_a_quaternion_of_another_length_is_the_same_rotation(scene):
    images = scene / "sparse" / "0" / "images.txt"
    images.write_text(IMAGES.replace("0.5 0.5 0.5 0.5", "0.51 0.51 0.51 0.51"))
    pose = colmap.read(scene).views[0].cam_from_world
    np.testing.assert_allclose(pose, [[0, 0, 1, 1], [1, 0, 0, 2], [0, 1, 0, 3]], atol=1e-12)


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
        ("cameras", "OPENCV", "OPENCW", "cameras.txt cannot be read: camera 2 is of the model 'OPENCW'"),
        ("cameras", "30 30 20 15\n2", "30 30 20\n2", "camera 1 has 3 parameters, a PINHOLE has 4"),
        ("cameras", "40 30 30 30", "0 30 30 30", "camera 1 has the impossible size 0 x 30"),
        ("cameras", "1 PINHOLE", "-1 PINHOLE", "a camera has the impossible number -1"),
        ("cameras", "30 30 20 15\n2", "nan 30 20 15\n2", "camera 1 has a parameter that is not a finite number"),
        ("images", "0 0 0 1 b.jpg", "0 x 0 1 b.jpg", "images.txt cannot be read"),
        ("images", "1 1 0 0 0", "1 0 0 0 0", "the pose of b.jpg is not finite, or no rotation"),
        ("images", "1 b.jpg", "5 b.jpg", "images.txt cannot be read.*5"),
        ("images", "1 2 7 3 4 -1 5 6 9", "1 2 7 3", "line 3 is not a list of X, Y, POINT3D_ID"),
        ("images", "1 2 7 3 4 -1", "1 2 77 3 4 -1", "points3D.txt cannot be read: it lacks points that b.jpg sees"),
        ("points3D", "0.5 0 2", "nan 0 2", "points3D.txt cannot be read: it has 1 points that are not finite"),
        ("points3D", "7 0 0 1", "99999999999999999999 0 0 1", "points3D.txt cannot be read"),
        ("cameras", "\n2 OPENCV", "\n1 PINHOLE 40 30 33 33 20 15\n2 OPENCV", "it lists two cameras with the number 1"),
        ("points3D", "7 0 0 1", "9 5 5 5 9 9 9 0.5\n7 0 0 1", "it lists two points with the number 9"),
    ],
)
def test_damaged_text_model_is_refused_with_its_file(scene, file, old, new, message):
    path = scene / "sparse" / "0" / f"{file}.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(Stop, match=message) as stop:
        colmap.read(scene)
    assert "did you mean" not in str(stop.value)  # another camera model is another geometry


def test_a_line_that_is_there_twice_says_nothing_else(scene):
    for part, text in (("cameras", CAMERAS), ("points3D", POINTS)):
        (scene / "sparse" / "0" / f"{part}.txt").write_text(text * 2)
    assert colmap.read(scene).views[1].camera.params.tolist() == [30, 30, 20, 15]


def test_nan_in_a_binary_model_is_refused(scene):
    model = scene / "sparse" / "0"
    reconstruction = lens.pycolmap().Reconstruction(model)
    reconstruction.points3D[7].xyz = np.array([np.nan, 0, 1])
    reconstruction.write_binary(model)
    with pytest.raises(Stop, match="1 points that are not finite"):
        colmap.read(scene)


@pytest.fixture
def binary(scene):
    """The scene's model as COLMAP's binary files: name -> bytes."""
    model = scene / "sparse" / "0"
    reconstruction = lens.pycolmap().Reconstruction(model)
    for file in model.iterdir():
        file.unlink()
    reconstruction.write_binary(model)
    return {name: (model / name).read_bytes() for name in ("cameras.bin", "images.bin", "points3D.bin")}


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_binary_file_that_ends_anywhere_too_early_is_refused(scene, binary, name):
    path, whole = scene / "sparse" / "0" / name, binary[name]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Stop, match=rf"{name} cannot be read"):
            colmap.read(scene)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_a_damaged_binary_file_takes_neither_time_nor_memory(scene, binary, name):
    """Any eight bytes may be a count; a count that is believed asks for 10^19 entries."""
    path, whole = scene / "sparse" / "0" / name, binary[name]
    for start in range(len(whole) - 7):
        path.write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
        try:
            assert len(colmap.read(scene).views) == 3
        except Stop as stop:
            known = (f"{name} cannot be read", "sees", "camera", "two poses")  # rigs lie beside the images
            assert any(word in stop.cause for word in known)


def test_missing_file_of_the_model_is_named(scene):
    (scene / "sparse" / "0" / "points3D.txt").unlink()
    with pytest.raises(Stop, match=r"points3D\.txt is missing"):
        colmap.read(scene)


def test_missing_scene_suggests_the_nearest_name(scene):
    with pytest.raises(Stop, match="did you mean 'yard'"):
        colmap.read(scene.parent / "yart")
    with pytest.raises(Stop, match="the folder above it is missing"):
        colmap.read(scene.parent / "nowhere" / "yard")
