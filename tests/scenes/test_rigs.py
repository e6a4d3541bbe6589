"""Models with rigs, as the installed COLMAP writes them."""

import shutil

import numpy as np
import pytest

from lib.core.errors import Stop
from lib.scenes import colmap, lens


@pytest.fixture(scope="module")
def model():
    """Two cameras on a rig at three moments."""
    options = lens.pycolmap().SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 2, 3
    options.num_points3D = 20
    options.sensor_from_rig_translation_stddev = 0.3
    return lens.pycolmap().synthesize_dataset(options)


@pytest.fixture(params=["bin", "txt"])
def scene(request, model, tmp_path):
    place = tmp_path / "yard" / "sparse" / "0"
    place.mkdir(parents=True)
    (model.write_binary if request.param == "bin" else model.write_text)(place)
    assert (place / f"frames.{request.param}").is_file() and (place / f"rigs.{request.param}").is_file()
    return tmp_path / "yard"


def test_the_poses_are_those_of_frames_times_rigs(scene, model):
    views = {view.image.name: view for view in colmap.read(scene).views}
    assert len(views) == 6
    for image in model.images.values():
        np.testing.assert_allclose(views[image.name].cam_from_world, image.cam_from_world().matrix(), atol=1e-9)


def test_frames_of_another_state_than_the_images_are_refused(scene, model, tmp_path):
    """The images of a model that was scaled, beside the frames of before."""
    moved = type(model)(model)
    moved.transform(lens.pycolmap().Sim3d(2.0, lens.pycolmap().Rotation3d(), np.zeros(3)))
    [frames] = (scene / "sparse" / "0").glob("frames.*")
    other = tmp_path / "moved"
    other.mkdir()
    (moved.write_binary if frames.suffix == ".bin" else moved.write_text)(other)
    shutil.copy(other / frames.name, frames)
    with pytest.raises(Stop, match=r"has two poses of camera00.*: images\.\w+ says another than frames"):
        colmap.read(scene)
    frames.unlink()
    assert len(colmap.read(scene).views) == 6


@pytest.mark.parametrize("name", ["rigs", "frames"])
def test_what_ends_too_early_is_refused_by_name(scene, name):
    [path] = (scene / "sparse" / "0").glob(f"{name}.*")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(Stop, match=rf"{name}\.\w+ cannot be read"):
        colmap.read(scene)
