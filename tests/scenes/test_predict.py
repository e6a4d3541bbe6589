"""--predict on photos that a test writes, with the shipped base of the demo."""

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


class ByViews(torch.nn.Module):
    """Answers in a unit of its own for every call, as the network does; more than `most` views are too many."""

    def __init__(self, most: int):
        super().__init__()
        self.most, self.calls = most, []

    def forward(self, images, chunk):
        if images.shape[1] > self.most:
            raise torch.OutOfMemoryError("injected")
        unit, marks = float(len(self.calls) + 1), images[..., 0, 0, 0]  # the mark of a view: its first number
        self.calls.append(images.shape[1])
        code = torch.zeros(*marks.shape, 9)
        code[..., 0] = marks * unit
        depth = unit * (1 + marks)[..., None, None, None].expand(*marks.shape, 4, 6, 1)
        return {"pose_enc": code, "depth": depth, "depth_conf": torch.ones(*marks.shape, 4, 6)}


def test_short_of_memory_chunks_share_the_first_view_and_its_scale(capsys):
    images = torch.arange(7.0)[:, None, None, None].expand(7, 3, 4, 6)
    network = ByViews(3)
    found = predict.run(network, images)
    assert network.calls == [3, 3, 3] and "3 views at a time" in capsys.readouterr().out
    torch.testing.assert_close(found["depth"][:, 0, 0, 0], 1 + torch.arange(7.0))
    torch.testing.assert_close(found["pose_enc"][:, 0], torch.arange(7.0))


def test_two_views_that_do_not_fit_are_refused():
    with pytest.raises(Stop, match="two views do not fit"):
        predict.run(ByViews(1), torch.zeros(4, 3, 4, 6))


@pytest.mark.parametrize("count, views, expected", [
    (1, 1, [[0]]), (3, 3, [[0, 1, 2]]), (5, 3, [[0, 1, 2], [0, 3, 4]]), (4, 2, [[0, 1], [0, 2], [0, 3]]),
    (4, 3, [[0, 1, 2], [0, 3]]),
])  # fmt: skip
def test_chunks_cover_every_photo_once_and_begin_with_the_first(count, views, expected):
    assert predict.chunks(count, views) == expected


@pytest.mark.parametrize("size, expected", [((1200, 800), (56, 42)), ((800, 1200), (56, 56)), ((3000, 300), (56, 14))])
def test_the_shape_follows_the_first_photo_in_whole_patches(config, size, expected):
    assert predict.network_size(config, Image.new("RGB", size)) == expected


def ramp(width: int, height: int) -> Image.Image:
    """Grey from black on the left to white on the right."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def test_transparent_becomes_white_and_rotated_upright(tmp_path):
    clear = ramp(40, 20).convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.repeat(np.uint8([0, 255]), 20), (20, 1))))
    clear.save(tmp_path / "clear.png")
    photo = np.asarray(predict.read(tmp_path / "clear.png"))
    assert (photo[:, :20] == 255).all() and photo[0, 20, 0] == np.asarray(ramp(40, 20))[0, 20]
    turned = Image.Exif()
    turned[0x0112] = 6  # turn by 90 degrees to show it
    ramp(40, 20).save(tmp_path / "turned.jpg", exif=turned)
    assert predict.read(tmp_path / "turned.jpg").size == (20, 40)


def test_16_bits_are_scaled_and_not_clipped(tmp_path):
    deep = np.asarray(ramp(40, 20)).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(np.asarray(predict.read(tmp_path / "deep.png"))[..., 0], np.asarray(ramp(40, 20)))


def test_a_photo_that_cannot_be_used_is_named_and_left_out(config, photos, capsys):
    Image.new("RGB", (120, 90), "black").save(photos / "view0.jpg", format="PNG")
    Image.fromarray(np.full((90, 120), 7.5, np.float32)).save(photos / "view4.tiff")
    Image.new("1", (20000, 20000)).save(photos / "view5.png")
    (photos / "view2.png").write_bytes((photos / "view2.png").read_bytes()[:200])
    (photos / "._view1.jpg").write_bytes(b"of a Mac")
    found = predict.photographs(config, photos)
    assert found.called == ["view1"] and len(found.images) == len(found.whole) == 1
    said = capsys.readouterr().out
    reasons = {
        "view0.jpg": "one colour",
        "view2.png": "decoded",
        "view4.tiff": "float values",
        "view5.png": "too large",
    }
    for name, reason in reasons.items():
        assert any(name in line and reason in line for line in said.splitlines()), (name, said)
    assert "._view1" not in said


def test_two_photos_of_one_name_keep_their_suffixes(config, photos):
    Image.open(photos / "view0.jpg").save(photos / "view0.png")
    assert predict.photographs(config, photos).called == ["view0.jpg", "view0.png", "view1", "view2"]


def test_what_is_cut_off_a_photo_is_said(config, photos, capsys):
    ramp(60, 120).save(photos / "view3.png")
    assert predict.photographs(config, photos).images.shape == (4, 3, 42, 56)
    [said] = capsys.readouterr().out.splitlines()
    assert "view3.png: 38% of it is seen" in said and "60 x 120" in said  # 60 x 45 of 60 x 120


def test_what_is_not_a_folder_of_photos_is_refused(config, photos, tmp_path):
    with pytest.raises(Stop, match="holds no photos"):
        predict.photographs(config, tmp_path / "nowhere")
    for path in photos.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(Stop, match="none of the 3 photos"):
        predict.photographs(config, photos)


def test_what_is_cut_from_a_photo_is_where_its_pixels_come_from(config):
    """A photo with one white pixel: its place in the network's picture leads back to it."""
    for size in ((120, 90), (60, 120), (300, 41)):
        photo = Image.new("RGB", size)
        photo.putpixel((size[0] // 2 + 3, size[1] // 2 - 2), (255, 255, 255))
        small = np.asarray(predict.fitted(photo, (56, 42)).convert("L"), np.float64)
        rows, columns = np.mgrid[:42, :56] + 0.5
        place = np.array([(columns * small).sum(), (rows * small).sum()]) / small.sum()
        cut = predict.cut_from("a.jpg", photo, (56, 42))
        back = np.array([cut.left, cut.top]) + place * (cut.scale_x, cut.scale_y)
        np.testing.assert_allclose(back, (size[0] // 2 + 3.5, size[1] // 2 - 1.5), atol=0.2 * cut.scale_x)


def test_both_models_see_the_points_that_photos_agree_on(predicted):
    small, whole = (pycolmap.Reconstruction(predicted / place) for place in ("sparse", "photos/sparse"))
    assert sorted(one.name for one in whole.images.values()) == ["view0.jpg", "view1.JPEG", "view2.png"]
    assert all((camera.width, camera.height) == (120, 90) for camera in whole.cameras.values())
    assert len(small.points3D) == len(whole.points3D)
