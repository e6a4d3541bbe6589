"""Photos as the network sees them: which are found, how they are cut, and what is said of them."""

import sys

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.data.pictures import Unreadable
from lib.scenes import photos as photos_of
from lib.scenes.photos import Window, photographs


@pytest.fixture
def config(settings):
    return settings(model__image_width_px=56, model__image_height_px=42)


@pytest.fixture
def photos(tmp_path):
    for number, kind in enumerate(("jpg", "JPEG", "png")):
        save(tmp_path / "photos" / f"view{number}.{kind}", 120, 90)
    return tmp_path / "photos"


def save(path, width, height, **how):
    """Across red rises, down green; the file is what its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([255 * columns / width, 255 * rows / height, 0 * rows + 90], -1).astype(np.uint8)
    Image.fromarray(picture).save(path, **how)


def ramp(width: int, height: int) -> Image.Image:
    """Grey from black on the left to white on the right."""
    return Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))


def picture_of(config, folder, called):
    return next(photo for photo in photographs(config, folder) if photo.called == called).read()


# ---------------------------------------------------------------------------------------------- which there are


def test_sub_folders_keep_their_paths_in_files_and_in_the_colmap_model(config, photos):
    save(photos / "b" / "view0.tif", 120, 90)
    save(photos / "b" / "c" / "view0.webp", 120, 90)
    save(photos / ".thumbs" / "view0.jpg", 12, 9)
    found = photographs(config, photos)
    assert [photo.called for photo in found] == ["b/c/view0", "b/view0", "view0", "view1", "view2"]
    assert [photo.whole.name for photo in found][:3] == ["b/c/view0.webp", "b/view0.tif", "view0.jpg"]
    assert all(photo.read().shape == (42, 56, 3) for photo in found)


def test_photos_come_in_the_order_in_which_they_were_numbered(config, photos):
    """Where chunks share their neighbours, 10 after 1 would be another place."""
    names = ["1", "2", "9", "10", "11", "100"]
    for name in names:
        save(photos / "film" / f"IMG_{name}.jpg", 60, 40)
    found = photographs(config, photos / "film")
    assert [photo.called for photo in found] == [f"IMG_{name}" for name in names]


def test_two_photos_of_one_name_keep_their_suffixes(config, photos):
    Image.open(photos / "view0.jpg").save(photos / "view0.png")
    called = [photo.called for photo in photographs(config, photos)]
    assert called == ["view0.jpg", "view0.png", "view1", "view2"]


def test_photos_beside_the_folder_images_are_said_to_be_left_out(config, photos, capsys):
    save(photos / "images" / "view9.png", 120, 90)
    assert [photo.called for photo in photographs(config, photos)] == ["view9"]
    said = "the photos in images/ are taken, and 3 photos beside it left out: view0.jpg, view1.JPEG, view2.png"
    assert said in capsys.readouterr().out


def test_predictions_below_the_photos_are_no_photos(config, photos):
    save(photos / "out" / "view9.png", 120, 90)
    assert len(photographs(config, photos, photos / "out")) == 3
    with pytest.raises(Stop, match="would lie among its photos"):
        photographs(config, photos, photos)


def test_the_photos_of_a_scene_are_those_in_images_and_not_its_depth(config, photos):
    scene = photos.parent / "scene"
    scene.mkdir()
    photos.rename(scene / "images")
    save(scene / "depth" / "view0.png", 120, 90)
    assert [photo.whole.name for photo in photographs(config, scene)] == ["view0.jpg", "view1.JPEG", "view2.png"]


def test_heic_without_its_package_is_said_in_one_sentence(config, photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    for name in ("view3.heic", "view4.HEIF"):
        (photos / name).write_bytes(b"\0\0\0 ftypheic")
    assert len(photographs(config, photos)) == 3
    [said] = capsys.readouterr().out.splitlines()
    assert "2 HEIC photos cannot be read" in said and "pip install pillow-heif" in said
    for path in photos.glob("view[012]*"):
        path.unlink()
    with pytest.raises(Stop, match="2 HEIC photos cannot be read: Pillow needs the package pillow-heif"):
        photographs(config, photos)


def test_a_photo_that_cannot_be_used_is_named_and_left_out(config, photos, capsys):
    Image.new("RGB", (120, 90), "black").save(photos / "view0.jpg", format="PNG")
    Image.fromarray(np.full((90, 120), 7.5, np.float32)).save(photos / "view4.tiff")
    Image.new("1", (20000, 20000)).save(photos / "view5.png")
    (photos / "view2.png").write_bytes((photos / "view2.png").read_bytes()[:200])
    (photos / "._view1.jpg").write_bytes(b"of a Mac")
    used, reasons = [], {}
    for photo in photographs(config, photos):
        try:
            photo.read()
            used.append(photo.called)
        except Unreadable as reason:
            reasons[photo.whole.name] = str(reason)
    said = capsys.readouterr().out.splitlines() + [f"{name} {reason}" for name, reason in reasons.items()]
    assert used == ["view1"]
    words = {"view0.jpg": "one colour", "view2.png": "decoded", "view4.tiff": "float values", "view5.png": "too large"}
    for name, reason in words.items():
        assert any(name in line and reason in line for line in said), (name, said)
    assert not any("._view1" in line for line in said)


def test_what_is_not_a_folder_of_photos_is_refused(config, photos, tmp_path):
    with pytest.raises(Stop, match=r"there is no folder .*nowhere"):
        photographs(config, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Stop, match="holds no photos"):
        photographs(config, tmp_path / "empty")
    for name in ("images", "sparse"):
        (tmp_path / "scenes" / "castle" / name).mkdir(parents=True)
    with pytest.raises(Stop, match=r"scenes holds 1 scene \(castle\)"):
        photographs(config, tmp_path / "scenes")
    for path in photos.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(Stop, match="none of the 3 photos"):
        photographs(config, photos)


# ---------------------------------------------------------------------------------------------- how they are seen


@pytest.mark.parametrize("size, expected", [((1200, 800), (56, 42)), ((800, 1200), (56, 56)), ((3000, 300), (56, 14))])
def test_the_shape_follows_the_first_photo_in_whole_patches(config, size, expected):
    assert photos_of.network_size(config, *size) == expected


def test_transparent_becomes_white_and_rotated_upright(config, tmp_path):
    clear = ramp(56, 42).convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.repeat(np.uint8([0, 255]), 28), (42, 1))))
    clear.save(tmp_path / "clear.png")
    picture = picture_of(config, tmp_path, "clear")
    assert (picture[:, :28] == 255).all() and picture[0, 28, 0] == np.asarray(ramp(56, 42))[0, 28]
    turned = Image.Exif()
    turned[0x0112] = 6  # turn by 90 degrees to show it
    ramp(42, 56).save(tmp_path / "clear.png", exif=turned)
    picture = picture_of(config, tmp_path, "clear")
    assert picture.shape == (42, 56, 3) and picture[0].max() < 10 and picture[-1].min() > 245


def test_16_bits_are_scaled_and_not_clipped(config, tmp_path):
    Image.fromarray(np.asarray(ramp(56, 42)).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(picture_of(config, tmp_path, "deep")[..., 0], np.asarray(ramp(56, 42)))


def test_a_large_jpeg_is_decoded_coarser_and_shows_the_same(config, tmp_path, monkeypatch):
    save(tmp_path / "large.jpg", 1203, 901, quality=98, subsampling=0)
    decoded, read = [], photos_of.pictures.read

    def noted(path, **how):
        decoded.append(read(path, **how))
        return decoded[-1]

    monkeypatch.setattr(photos_of.pictures, "read", noted)
    picture = picture_of(config, tmp_path, "large").astype(int)
    assert decoded[0].width == 151
    cut = photos_of.cut_from("large.jpg", (1203, 901), (56, 42))
    exact = np.asarray(photos_of.fitted(Image.open(tmp_path / "large.jpg"), cut, Window(0, 0, 56, 42))).astype(int)
    off = (picture - exact)[1:-1, 1:-1, :2]
    assert np.abs(off).max() <= 1 and np.abs(off.mean((0, 1))).max() < 0.3


def test_standing_photos_among_lying_ones_are_seen_whole_with_white_beside_them(config, photos, capsys):
    save(photos / "view3.png", 60, 120)
    found = photographs(config, photos)
    assert [photo.window for photo in found] == [Window(0, 7, 56, 42)] * 3 + [Window(14, 0, 28, 56)]
    picture = found[3].read()
    assert picture.shape == found[0].read().shape == (56, 56, 3)
    assert (picture[:, :14] == 255).all() and (picture[:, 42:] == 255).all() and (picture[:, 14:42, 2] < 100).all()
    shown = picture[:, 14:42].astype(int)
    assert shown[-1, :, 1].min() > 250 and shown[0, :, 1].max() < 5  # of its height nothing is lost
    [said] = capsys.readouterr().out.splitlines()
    assert "4 of 4 photos fill a part" in said and "view0.jpg has 120 x 90 px" in said


@pytest.mark.parametrize("size, window", [((120, 75), (0, 0, 56, 42)), ((400, 40), (0, 18, 56, 6))])
def test_a_photo_of_nearly_the_same_shape_is_cut_and_of_another_is_not(config, photos, size, window):
    save(photos / "view3.png", *size)
    assert photographs(config, photos)[3].window == window


def test_what_is_cut_from_a_photo_is_where_its_pixels_come_from():
    """A photo with one white pixel: its place in the network's picture leads back to it."""
    for size in ((120, 90), (60, 120), (300, 41)):
        photo = Image.new("RGB", size)
        photo.putpixel((size[0] // 2 + 3, size[1] // 2 - 2), (255, 255, 255))
        cut = photos_of.cut_from("a.jpg", size, (56, 42))
        small = np.asarray(photos_of.fitted(photo, cut, Window(0, 0, 56, 42)).convert("L"), np.float64)
        rows, columns = np.mgrid[:42, :56] + 0.5
        place = np.array([(columns * small).sum(), (rows * small).sum()]) / small.sum()
        back = np.array([cut.left, cut.top]) + place * (cut.scale_x, cut.scale_y)
        np.testing.assert_allclose(back, (size[0] // 2 + 3.5, size[1] // 2 - 1.5), atol=0.2 * cut.scale_x)
