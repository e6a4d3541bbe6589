"""--predict on photos that a test writes, with the shipped base of the demo."""

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from lib.core.errors import Stop
from lib.recipes.vggt_eth3d import assemble
from lib.recipes.vggt_eth3d import predict as adapted
from lib.scenes import predict
from tests.scenes.conftest import STAGE

BASE = Path(assemble.__file__).parent / "demo"


@pytest.fixture(scope="module")
def parts(settings):
    return assemble.build(settings(model__image_width_px=56, model__image_height_px=42), STAGE, {"base": BASE})


@pytest.fixture
def config(settings):
    return settings(model__image_width_px=56, model__image_height_px=42)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rows, columns = np.mgrid[:90, :120]
    for number, kind in enumerate(("jpg", "JPEG", "png")):
        board = 255 * ((rows // 9 + columns // 12 + number) % 2)
        picture = np.stack([columns * 2 + 5 * number, rows * 2, board], -1).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"view{number}.{kind}", format="PNG" if kind == "png" else "JPEG")
    return folder


@pytest.fixture
def predicted(config, parts, photos, tmp_path):
    with torch.no_grad():
        adapted.predict(config, STAGE, parts, str(photos), tmp_path / "out")
    return tmp_path / "out"


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """xyz (n, 3) and rgb (n, 3) by the header's own words."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = [line.split() for line in header.decode().splitlines()]
    assert lines[:2] == [["ply"], ["format", "binary_little_endian", "1.0"]]
    kinds = {"float": "<f4", "uchar": "u1"}
    table = np.frombuffer(body, [(words[2], kinds[words[1]]) for words in lines if words[0] == "property"])
    assert len(table) == int(next(words[2] for words in lines if words[:2] == ["element", "vertex"]))
    return tuple(np.stack([table[name] for name in names], -1) for names in (("x", "y", "z"), ("red", "green", "blue")))


def test_every_photo_has_its_maps_and_pictures(predicted):
    for name in ("view0", "view1", "view2"):
        depth, confidence = (np.load(predicted / f"{name}.{kind}.npy") for kind in ("depth", "confidence"))
        assert depth.shape == confidence.shape == (42, 56) and depth.dtype == np.float32
        assert (depth > 0).all() and (confidence >= 1).all()
        for picture in (f"{name}.depth.png", f"images/{name}.png"):
            assert Image.open(predicted / picture).size == (56, 42)
    assert Image.open(predicted / "montage.png").size[0] > 300


def test_the_cloud_lies_where_the_cameras_of_the_colmap_model_see_its_colours(predicted):
    """The first photo's points, found by their order in the file, project to the pixels whose colours they have."""
    model = pycolmap.Reconstruction(predicted / "sparse")
    image = next(image for image in model.images.values() if image.name == "view0.png")
    depth, confidence = (np.load(predicted / f"view0.{kind}.npy") for kind in ("depth", "confidence"))
    everything = np.stack([np.load(predicted / f"view{i}.confidence.npy") for i in range(3)])
    rows, columns = np.nonzero(confidence >= np.quantile(everything, 0.5))
    xyz, rgb = (values[: len(rows)] for values in read_ply(predicted / "points.ply"))
    in_camera = image.cam_from_world() * xyz.astype(np.float64)
    pixels = model.cameras[image.camera_id].img_from_cam(in_camera)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], -1) + 0.5, atol=0.01)
    np.testing.assert_allclose(in_camera[:, 2], depth[rows, columns], rtol=1e-4)
    np.testing.assert_array_equal(rgb, np.asarray(Image.open(predicted / "images" / "view0.png"))[rows, columns])


def test_the_cloud_holds_the_confident_half_and_is_thinned(predicted, config, parts, photos, tmp_path, monkeypatch):
    assert len(read_ply(predicted / "points.ply")[0]) == pytest.approx(3 * 42 * 56 / 2, rel=0.01)
    monkeypatch.setattr(predict, "MOST_POINTS", 500)
    with torch.no_grad():
        adapted.predict(config, STAGE, parts, str(photos), tmp_path / "thin")
    assert 400 < len(read_ply(tmp_path / "thin" / "points.ply")[0]) <= 500


def test_points_do_not_move_under_autocast(predicted, config, parts, photos, tmp_path):
    """The network runs in bf16 then, so the cloud is compared with its own depth, which is z in the first camera."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        adapted.predict(config, STAGE, parts, str(photos), tmp_path / "half")
    xyz, _ = read_ply(tmp_path / "half" / "points.ply")
    confidence = np.stack([np.load(tmp_path / "half" / f"view{i}.confidence.npy") for i in range(3)])
    keep = confidence >= np.quantile(confidence, 0.5)
    model = pycolmap.Reconstruction(tmp_path / "half" / "sparse")
    first = next(image for image in model.images.values() if image.name == "view0.png")
    depth = np.load(tmp_path / "half" / "view0.depth.npy")[keep[0]]
    np.testing.assert_allclose((first.cam_from_world() * xyz[: len(depth)].astype(np.float64))[:, 2], depth, rtol=1e-4)


def test_both_models_see_the_points_that_photos_agree_on(predicted):
    small, whole = (pycolmap.Reconstruction(predicted / place) for place in ("sparse", "photos/sparse"))
    assert sorted(one.name for one in whole.images.values()) == ["view0.jpg", "view1.JPEG", "view2.png"]
    assert all((camera.width, camera.height) == (120, 90) for camera in whole.cameras.values())
    assert len(small.points3D) == len(whole.points3D)


def test_standing_and_lying_photos_of_sub_folders_are_predicted_together(config, parts, photos, tmp_path):
    """Each has maps of its own shape, and its camera looks at the middle of it, also at the photo's own size."""
    (photos / "sub").mkdir()
    Image.open(photos / "view0.jpg").rotate(90, expand=True).save(photos / "sub" / "stands.tif")
    with torch.no_grad():
        adapted.predict(config, STAGE, parts, str(photos), tmp_path / "out")
    shapes = {name: np.load(tmp_path / "out" / f"{name}.depth.npy").shape for name in ("view0", "sub/stands")}
    assert shapes == {"view0": (42, 56), "sub/stands": (56, 42)}
    for place, name, size in (("sparse", "sub/stands.png", (42, 56)), ("photos/sparse", "sub/stands.tif", (90, 120))):
        model = pycolmap.Reconstruction(tmp_path / "out" / place)
        image = next(image for image in model.images.values() if image.name == name)
        camera = model.cameras[image.camera_id]
        assert (camera.width, camera.height) == size
        np.testing.assert_allclose(camera.params[2:], np.array(size) / 2 + 0.5 * size[0] / 42, atol=1e-3)


def test_a_killed_prediction_leaves_nothing_that_stays_and_a_failed_one_nothing(config, parts, photos, tmp_path):
    (tmp_path / "out" / ".raw.killed.tmp").mkdir(parents=True)
    with torch.no_grad(), pytest.raises(Stop, match=r"no photo .view9"):
        adapted.predict_scaled(config, STAGE, parts, str(photos), tmp_path / "out", ["view0.jpg view9.jpg 2"])
    with torch.no_grad():
        adapted.predict_scaled(config, STAGE, parts, str(photos), tmp_path / "out", ["view0.jpg view1.JPEG 2.5"])
    assert not list((tmp_path / "out").glob(".*"))
    model = pycolmap.Reconstruction(tmp_path / "out" / "sparse")
    ends = [image.projection_center() for image in model.images.values() if image.name in ("view0.png", "view1.png")]
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(2.5, rel=1e-4)
    assert set(json.loads((tmp_path / "out" / "scale.json").read_text())["network_units_per_given_unit"]) == {
        "view0", "view1", "view2",
    }  # fmt: skip
