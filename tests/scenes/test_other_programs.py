"""Scenes as nerfstudio and COLMAP's dense reconstruction leave them, written by hand in their formats."""

import json

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.scenes import colmap, nerfstudio
from lib.scenes.depth import read_depth
from lib.scenes.depth_files import find_depth_map
from tests.scenes.miniature import EYES, TARGETS, cam_from_world

COMMON = {"camera_model": "OPENCV", "fl_x": 30, "fl_y": 31, "cx": 20, "cy": 15, "w": 40, "h": 30, "k1": 0.1}
COMMON_FRAME = {"file_path": "images/sub/v0.jpg", "transform_matrix": np.eye(4).tolist()}


def opengl(view):
    """World from camera (4, 4), written from where the camera stands and looks: x right, y up, z backward."""
    backward = np.subtract(EYES[view], TARGETS[view])
    backward /= np.linalg.norm(backward)
    right = np.cross((0, 0, 1.0), backward)
    right /= np.linalg.norm(right)
    columns = [right, np.cross(backward, right), backward, EYES[view]]
    return np.vstack([np.stack(columns, 1), (0, 0, 0, 1)])


def write(folder, frames, **said):
    folder.mkdir(parents=True, exist_ok=True)
    nerfstudio.content.cache_clear()
    nerfstudio.depth_files.cache_clear()
    (folder / "transforms.json").write_text(json.dumps(COMMON | {"frames": frames} | said))


@pytest.fixture
def yard(tmp_path):
    frames = [
        {"file_path": f"./images/sub/v{view}.jpg", "transform_matrix": opengl(view).tolist()}
        | ({"w": 20, "camera_model": "PINHOLE", "k1": 0} if view == 1 else {})
        | {"depth_file_path": f"lidar/v{view}.png"}
        for view in range(3)
    ]
    write(tmp_path / "yard", frames)
    return tmp_path / "yard"


def test_transforms_json_gives_the_cameras_that_its_author_stood_at(yard):
    read = colmap.read(yard)
    assert [view.name for view in read.views] == ["sub-v0", "sub-v1", "sub-v2"] and len(read.points) == 0
    for number, view in enumerate(read.views):
        np.testing.assert_allclose(view.cam_from_world, cam_from_world(number), atol=1e-12)
        assert view.image == yard / "images" / "sub" / f"v{number}.jpg"
    assert [view.camera.model_name for view in read.views] == ["OPENCV", "PINHOLE", "OPENCV"]
    np.testing.assert_array_equal(read.views[0].camera.params, [30, 31, 20, 15, 0.1, 0, 0, 0])
    assert [view.camera.width for view in read.views] == [40, 20, 40]


def test_the_depth_that_frames_name_is_in_their_unit(yard):
    (yard / "lidar").mkdir()
    Image.fromarray(np.full((30, 40), 2500, np.uint16)).save(yard / "lidar" / "v0.png")
    view = colmap.read(yard).views[0]
    assert read_depth(find_depth_map(colmap.read(yard), view, 0)).max() == pytest.approx(2.5)
    stored = json.loads((yard / "transforms.json").read_text())
    write(yard, stored["frames"], depth_unit_scale_factor=0.01)
    assert read_depth(find_depth_map(colmap.read(yard), view, 0)).max() == pytest.approx(25)
    assert read_depth(find_depth_map(colmap.read(yard), view, 5000)).max() == pytest.approx(0.5)


def test_transforms_json_is_read_once_for_all_photographs(yard, monkeypatch):
    """Of a thousand photographs each would parse the thousand frames."""
    calls, read = [], nerfstudio.table_in
    monkeypatch.setattr(nerfstudio, "table_in", lambda path: calls.append(path) or read(path))
    scene = colmap.read(yard)
    assert [find_depth_map(scene, view, 0).scale for view in scene.views] == [1000] * 3
    assert calls == [yard / "transforms.json"]


def colmap_model(folder):
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 40 30 30 30 20 15\n")
    (model / "images.txt").write_text("1 1 0 0 0 0 0 0 1 sub/v0.jpg\n\n")
    (model / "points3D.txt").write_text("")


def test_a_colmap_model_goes_before_transforms_json(yard):
    colmap_model(yard)
    assert len(colmap.read(yard).views) == 1


@pytest.mark.parametrize("frames", [[], [{"file_path": "./train/r_0"}]])
def test_beside_a_colmap_model_transforms_json_speaks_of_its_own_depth_alone(yard, frames):
    """nerfstudio's own folder has both, other programs leave one too; depth/ has the scale of summary.json."""
    colmap_model(yard)
    write(yard, frames)
    scene = colmap.read(yard)
    assert find_depth_map(scene, scene.views[0], 0) is None
    (yard / "depth" / "sub").mkdir(parents=True)
    Image.fromarray(np.full((30, 40), 5000, np.uint16)).save(yard / "depth" / "sub" / "v0.png")
    (yard.parent / "summary.json").write_text(json.dumps({yard.name: {"depth_scale": 5000}}))
    assert read_depth(find_depth_map(scene, scene.views[0], 0)).max() == pytest.approx(1)


@pytest.mark.parametrize("frame, said, why", [
    ({}, {"frames": {}}, "no list of frames"),
    ({}, {"frames": []}, "its list of frames is empty"),
    ({}, {"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR.* is not one of"),
    ({}, {"k3": 0.1}, "OPENCV camera with k3"),
    ({}, {"w": 0}, "impossible size"),
    ({"fl_x": "wide"}, {}, "could not convert"),
    ({"fl_x": None}, {}, "frame 1: "),
    ({"fl_x": 10**400}, {}, "frame 1: int too large"),
    ({}, {"w": float("inf")}, "frame 1: cannot convert float infinity"),
    ({"transform_matrix": [[10**400] * 4] * 4}, {}, "frame 1: int too large"),
    ({"transform_matrix": None}, {}, "no finite matrix"),
    ({"transform_matrix": np.zeros((4, 4)).tolist()}, {}, "no rotation"),
    ({"transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}, {}, "no rotation"),
    ({"transform_matrix": opengl(1).T.tolist()}, {}, "is it written by columns"),
    ({"file_path": "/etc/a.jpg"}, {}, "below images/"),
    ({"file_path": "images/../../a.jpg"}, {}, "below images/"),
    ({"file_path": 3}, {}, "below images/"),
])  # fmt: skip
def test_what_transforms_json_cannot_mean_is_refused_with_the_frame(tmp_path, frame, said, why):
    write(tmp_path / "yard", **{"frames": [COMMON_FRAME | frame]} | said)
    with pytest.raises(Stop, match=f"transforms.json cannot be read: .*{why}"):
        colmap.read(tmp_path / "yard")


@pytest.mark.parametrize(("frames", "said"), [
    ([{"depth_file_path": "d.png"}], "frame 1: it lacks 'file_path'"),
    ([{"file_path": 3, "depth_file_path": "d.png"}], "frame 1: its file_path"),
])  # fmt: skip
def test_frames_beside_a_colmap_model_are_refused_when_their_depth_is_looked_for(yard, frames, said):
    scene = colmap.read(yard)
    write(yard, frames)
    with pytest.raises(Stop, match=said):
        find_depth_map(scene, scene.views[0], 0)


@pytest.mark.parametrize("factor", [10**400, 1e-320, 0, float("nan"), True, "0.001", None])
def test_a_factor_that_divides_no_depth_is_refused(yard, factor):
    scene = colmap.read(yard)
    write(yard, json.loads((yard / "transforms.json").read_text())["frames"], depth_unit_scale_factor=factor)
    with pytest.raises(Stop, match=r"depth_unit_scale_factor=.* is no positive number"):
        find_depth_map(scene, scene.views[0], 0)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"null"])
def test_a_damaged_transforms_json_is_one_sentence(tmp_path, content):
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(Stop, match=r"transforms\.json cannot be read"):
        colmap.read(tmp_path)


@pytest.mark.parametrize("name", ["/etc/depth.npy", "../depth.npy"])
def test_depth_outside_the_scene_is_refused(tmp_path, name):
    write(tmp_path, [COMMON_FRAME | {"depth_file_path": name}])
    scene = colmap.read(tmp_path)
    with pytest.raises(Stop, match="lies outside the scene"):
        find_depth_map(scene, scene.views[0], 0)


@pytest.fixture
def dense(yard):
    """COLMAP's dense depth of the first view: row 2, column 5 is 7.5, the rest unknown."""
    frames = json.loads((yard / "transforms.json").read_text())["frames"]
    write(yard, frames, camera_model="PINHOLE", k1=0)
    (yard / "stereo" / "depth_maps" / "sub").mkdir(parents=True)
    values = np.zeros((30, 40), "<f4")
    values[2, 5] = 7.5
    path = yard / "stereo" / "depth_maps" / "sub" / "v0.jpg.geometric.bin"
    path.write_bytes(b"40&30&1&" + values.tobytes())
    path.with_name("v0.jpg.photometric.bin").write_bytes(b"40&30&1&" + np.ones((30, 40), "<f4").tobytes())
    return path


def test_colmaps_dense_depth_is_read_row_by_row(yard, dense):
    scene = colmap.read(yard)
    found = read_depth(find_depth_map(scene, scene.views[0], 0))
    assert found.shape == (30, 40) and found[2, 5] == 7.5 and (found > 0).sum() == 1


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1], lambda content: content + b"\0", lambda content: b"", lambda content: b"40&30&1",
    lambda content: content.replace(b"&1&", b"&3&", 1), lambda content: content.replace(b"40", b"99999999999999", 1),
    lambda content: content.replace(b"40", b"-4", 1), lambda content: content.replace(b"40", b"wide", 1),
])  # fmt: skip
def test_a_damaged_dense_depth_is_one_sentence(yard, dense, damage):
    dense.write_bytes(damage(dense.read_bytes()))
    scene = colmap.read(yard)
    with pytest.raises(Stop, match=r"geometric\.bin cannot be read"):
        read_depth(find_depth_map(scene, scene.views[0], 0))


def test_the_float_depth_that_frames_name_is_scaled_as_nerfstudio_does(yard):
    frames = json.loads((yard / "transforms.json").read_text())["frames"]
    (yard / "lidar").mkdir()
    np.save(yard / "lidar" / "v0.npy", np.full((30, 40), 2500, np.float32))
    write(yard, [frame | {"depth_file_path": frame["depth_file_path"].replace("png", "npy")} for frame in frames])
    scene = colmap.read(yard)
    assert read_depth(find_depth_map(scene, scene.views[0], 0)).max() == pytest.approx(2.5)


def test_instant_ngps_files_say_which_lens_it_is(tmp_path):
    said = {key: value for key, value in COMMON.items() if key != "camera_model"}
    for is_fisheye, model in ((True, "OPENCV_FISHEYE"), (False, "OPENCV")):
        nerfstudio.content.cache_clear()
        (tmp_path / "transforms.json").write_text(
            json.dumps(said | {"is_fisheye": is_fisheye, "frames": [COMMON_FRAME]})
        )
        [view] = colmap.read(tmp_path).views
        assert view.camera.model_name == model and view.camera.params[4] == 0.1
