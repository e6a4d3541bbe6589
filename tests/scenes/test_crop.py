import numpy as np
import pycolmap
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.scenes.crop import crop, kept_share, rays, read_image, resample, seen

CAMERAS = {
    "PINHOLE": [170.0, 171.0, 117.0, 79.0],
    "SIMPLE_PINHOLE": [170.0, 123.0, 80.0],
    "SIMPLE_RADIAL": [170.0, 120.0, 80.0, 0.05],
    "OPENCV": [170.0, 171.0, 120.0, 80.0, -0.08, 0.01, 0.002, -0.001],
    "THIN_PRISM_FISHEYE": [170.0, 170.0, 121.0, 79.0, 0.01, 0.01, 0.001, -0.001, 0.0, 0.0, 0.001, 0.001],
}


def camera(model):
    return pycolmap.Camera(model=model, width=240, height=160, params=CAMERAS[model])


WHOLE = crop(camera("PINHOLE"), 120, 80)  # fine enough for the whole photograph to be read


@pytest.mark.parametrize("model", CAMERAS)
def test_each_pixel_shows_what_its_ray_meets(model):
    """Red is 0.97 x and green 0.97 y, so that the crop must show the place where COLMAP projects its rays.

    The factor 0.97 makes rounding average out.
    """
    across, down = np.meshgrid(np.arange(240) + 0.5, np.arange(160) + 0.5)
    photograph = Image.fromarray(np.rint(0.97 * np.stack([across, down, 0 * down], -1)).astype(np.uint8))
    frame = crop(camera(model), 56, 42)
    shown = resample(photograph, camera(model), frame)
    assert shown.shape == (42, 56, 3)
    k = frame.intrinsics
    column, row = np.meshgrid(np.arange(56), np.arange(42))
    points = np.stack([(column - k[0, 2]) / k[0, 0], (row - k[1, 2]) / k[1, 1], np.ones(column.shape)], -1)
    wanted = 0.97 * camera(model).img_from_cam(points.reshape(-1, 3)).reshape(42, 56, 2)
    error = (shown[..., :2] - wanted)[2:-2, 2:-2]  # at its edge the resampling filter lacks half of its pixels
    # Three roundings to 8 bits make 1.5 at most and nothing on average; half a network pixel would be 1.8 everywhere.
    assert np.abs(error).max() < 1.5 and np.abs(error.mean((0, 1))).max() < 0.15


@pytest.mark.parametrize("model", CAMERAS)
def test_crop_is_central_isotropic_and_inside_the_photograph(model):
    source = camera(model)
    frame = crop(source, 56, 42)
    assert frame.intrinsics[:2, 2].tolist() == [28, 21]
    assert frame.intrinsics[0, 0] / frame.intrinsics[1, 1] == pytest.approx(
        source.focal_length_x / source.focal_length_y
    )
    seen = source.img_from_cam(rays(frame).reshape(-1, 3))
    assert seen.min() > 0 and (seen < [240, 160]).all()


def test_no_larger_crop_would_fit():
    source = camera("PINHOLE")
    frame = crop(source, 56, 42)
    # 79 px above the principal point are the scarce side: 21.5 network pixels must fit in them.
    assert frame.scale == pytest.approx(max(28.5 / 117, 21.5 / 79))


def test_principal_point_near_the_edge_is_refused():
    with pytest.raises(Stop, match="principal point"):
        crop(pycolmap.Camera(model="PINHOLE", width=240, height=160, params=[170, 170, 20, 80]), 56, 42)


@pytest.mark.parametrize("width, height, share", [(112, 84, 9 / 16), (84, 112, 1), (112, 112, 3 / 4)])
def test_the_share_of_a_portrait_photograph_that_is_kept_is_known(width, height, share):
    portrait = pycolmap.Camera(model="PINHOLE", width=126, height=168, params=[150, 150, 63, 84])
    assert kept_share(portrait, crop(portrait, width, height)) == pytest.approx(share, abs=0.02)


def test_photographs_are_read_as_they_are_stored(tmp_path):
    """COLMAP measured the stored pixels, whatever EXIF says; 16 bits are scaled, and transparent is white."""
    grey = np.tile(np.arange(240, dtype=np.uint16), (160, 1))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(grey * 257).save(tmp_path / "deep.png")
    for name in ("turned.png", "deep.png"):
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name, camera("PINHOLE"), WHOLE))[..., 0], grey)
    clear = Image.fromarray(grey.astype(np.uint8)).convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(grey < 120, 0, 255).astype(np.uint8)))
    clear.save(tmp_path / "clear.png")
    found = np.asarray(read_image(tmp_path / "clear.png", camera("PINHOLE"), WHOLE))[..., 0]
    np.testing.assert_array_equal(found, np.where(grey < 120, 255, grey))


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_a_large_jpeg_is_decoded_coarser_and_shows_the_same(model, tmp_path):
    """1 923 x 1 285 px, no multiple of 8. Half a decoded pixel would move green and blue, ramps, by 0.27 everywhere."""
    width, height = 1923, 1285
    numbers = [8 * value if index < 4 else value for index, value in enumerate(CAMERAS[model])]
    large = pycolmap.Camera(model=model, width=width, height=height, params=numbers)
    across, down = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    waves = 128 + 100 * np.sin(40 * across) * np.cos(30 * down)
    photograph = np.stack([waves, 255 * across, 255 * down], -1).astype(np.uint8)
    Image.fromarray(photograph).save(tmp_path / "large.jpg", quality=98, subsampling=0)
    frame = crop(large, 56, 42)
    drafted = read_image(tmp_path / "large.jpg", large, frame)
    assert drafted.width < width / 3
    found, whole = (resample(one, large, frame).astype(int) for one in (drafted, Image.open(tmp_path / "large.jpg")))
    inner = (found - whole)[1:-1, 1:-1]
    assert np.abs(inner).max() <= 1 and np.abs(inner.mean((0, 1))).max() < 0.2


def test_unusable_photographs_are_refused_by_name(tmp_path):
    with pytest.raises(Stop, match=r"a\.jpg is listed but absent"):
        read_image(tmp_path / "a.jpg", camera("PINHOLE"), WHOLE)
    (tmp_path / "b.jpg").write_bytes(b"not a photograph")
    with pytest.raises(Stop, match=r"b\.jpg: it is damaged"):
        read_image(tmp_path / "b.jpg", camera("PINHOLE"), WHOLE)
    Image.effect_noise((240, 160), 50).save(tmp_path / "c.jpg")
    (tmp_path / "c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:4000])
    with pytest.raises(Stop, match=r"c\.jpg: it cannot be decoded"):
        read_image(tmp_path / "c.jpg", camera("PINHOLE"), WHOLE)
    Image.effect_noise((100, 100), 50).save(tmp_path / "d.jpg")
    with pytest.raises(Stop, match=r"d\.jpg is 100 x 100 pixels, its camera 240 x 160"):
        read_image(tmp_path / "d.jpg", camera("PINHOLE"), WHOLE)
    Image.new("RGB", (240, 160), "black").save(tmp_path / "e.png")
    with pytest.raises(Stop, match=r"e\.png: it is a picture of one colour"):
        read_image(tmp_path / "e.png", camera("PINHOLE"), WHOLE)
    Image.new("1", (14000, 14000)).save(tmp_path / "f.png")
    with pytest.raises(Stop, match=r"f\.png: it has more than 160 million pixels"):
        read_image(tmp_path / "f.png", camera("PINHOLE"), WHOLE)
    Image.fromarray(np.linspace(0, 9, 38400, dtype=np.float32).reshape(160, 240)).save(tmp_path / "g.tiff")
    with pytest.raises(Stop, match=r"g\.tiff: its float values go from 0 to 9"):
        read_image(tmp_path / "g.tiff", camera("PINHOLE"), WHOLE)


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV"])
def test_a_standing_photograph_is_seen_whole_in_a_lying_frame(model):
    """Red is 0.97 x and green 0.97 y, as above; beside the photograph lies white, and no pixel counts as seen."""
    standing = pycolmap.Camera(model=model, width=160, height=240, params=[171, 170, 82, 119, *CAMERAS[model][4:]])
    across, down = np.meshgrid(np.arange(160) + 0.5, np.arange(240) + 0.5)
    photograph = Image.fromarray(np.rint(0.97 * np.stack([across, down, 0 * down], -1)).astype(np.uint8))
    frame = crop(standing, 112, 84, whole=True)
    assert frame.intrinsics[:2, 2].tolist() == [56, 42]
    assert kept_share(standing, crop(standing, 112, 84)) < 0.55 and kept_share(standing, frame) == 1
    shown, known = resample(photograph, standing, frame), seen(standing, frame)
    assert (shown[~known] == 255).all() and known.sum() == pytest.approx(112 * 84 * 0.5, rel=0.08)
    wanted = 0.97 * standing.img_from_cam(rays(frame).reshape(-1, 3)).reshape(84, 112, 2)
    inner = known & np.roll(known, 2, 0) & np.roll(known, -2, 0) & np.roll(known, 2, 1) & np.roll(known, -2, 1)
    error = (shown[..., :2] - wanted)[inner]
    assert np.abs(error).max() < 2.5 and np.abs(error.mean(0)).max() < 0.15
