"""Which rays a camera's photograph shows, for every model that the installed pycolmap has."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.scenes import lens
from lib.scenes.crop import crop, kept_share, rays, resample, seen

ROOT = Path(lens.__file__).parents[2]
WIDTH, HEIGHT = 240, 160
WIDE = lens.camera("SIMPLE_RADIAL", 168, 126, [92.0, 84, 63, -0.25])  # folds back 1.155 from the axis, 70.8 px from it
FISHEYE = lens.camera("FISHEYE", 168, 126, [40.0, 40, 84, 63])  # 120 degrees to the left and to the right


def photograph_of(camera):
    """Red is 0.97 x and green 0.97 y (0.97 makes rounding average out)."""
    from PIL import Image

    across, down = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    return Image.fromarray(np.rint(0.97 * np.stack([across, down, 0 * down], -1)).astype(np.uint8))


def mild(model):
    """A camera of the model that is nearly a pinhole."""
    if model == "EQUIRECTANGULAR":
        return lens.camera(model, 2 * HEIGHT, HEIGHT, [2 * HEIGHT, HEIGHT])
    pinhole = [170.0, 120, 80] if lens.parameter_counts()[model] < 6 and model not in FOUR else [170.0, 171, 120, 80]
    rest = {"FOV": [0.3], "EUCM": [0.4, 1.0]}.get(model, [0.01] * (lens.parameter_counts()[model] - len(pinhole)))
    return lens.camera(model, WIDTH, HEIGHT, [*pinhole, *rest])


FOUR = ("PINHOLE", "FOV", "FISHEYE", "DIVISION")  # models of few parameters with two focal lengths


@pytest.mark.parametrize("model", lens.parameter_counts())
def test_every_model_that_can_be_projected_is_straightened(model):
    camera = mild(model)
    frame = crop(camera, 56, 42)
    shown, known = resample(photograph_of(camera), camera, frame), seen(camera, frame)
    wanted = 0.97 * camera.img_from_cam(rays(frame).reshape(-1, 3)).reshape(42, 56, 2)
    error = (shown[..., :2] - wanted)[2:-2, 2:-2]
    assert known.mean() > 0.97 and np.abs(error[known[2:-2, 2:-2]]).max() < 2
    assert 0.1 < kept_share(camera, frame) <= 1


def test_beyond_where_a_lens_folds_back_nothing_is_shown():
    plane = np.stack([np.linspace(0, 3, 301), np.zeros(301)], 1)
    pixels = lens.in_photograph(WIDE, plane)
    assert np.isfinite(pixels[plane[:, 0] < 1.15]).all() and np.isnan(pixels[plane[:, 0] > 1.16]).all()
    edges = lens.on_plane(WIDE, np.array([[84, 63], [0, 63], [0, 0], [84, 0.0]]))
    assert np.isfinite(edges).all(1).tolist() == [True, False, False, True]


def test_a_wide_lens_is_used_as_far_as_it_goes_and_masked_beyond():
    frame = crop(WIDE, 56, 42)
    known = seen(WIDE, frame)
    radius = np.hypot(*rays(frame)[..., :2].transpose(2, 0, 1))
    clear = np.abs(radius - 1.1547) > 0.002  # 3 r^2 / 4 = 1; nearer to it rounding decides
    np.testing.assert_array_equal(known[clear], (radius < 1.1547)[clear])
    assert 0.9 < known.mean() < 1 and not known[0, 0] and known[21].all()
    shown = resample(photograph_of(WIDE), WIDE, frame)
    assert (shown[~known] == 255).all() and (shown[known][:, 2] == 0).all()


def test_a_fisheye_gives_no_rays_from_behind_the_camera():
    """pycolmap leaves those beyond 90 degrees as they were."""
    plane = lens.on_plane(FISHEYE, np.array([[84.0, 63], [0, 63], [84, 10]]))
    assert np.isfinite(plane).all(1).tolist() == [True, False, True]
    frame = crop(FISHEYE, 56, 42)
    assert seen(FISHEYE, frame).all() and frame.intrinsics[0, 0] > 28 / 2.1  # no farther than MOST_REACH from the axis


def test_a_panorama_shows_what_lies_before_the_camera():
    camera = lens.camera("EQUIRECTANGULAR", WIDTH, HEIGHT, [WIDTH, HEIGHT])
    assert lens.centre_px(camera) == (120, 80)
    assert lens.focal_px(camera) == pytest.approx((WIDTH / (2 * np.pi), HEIGHT / np.pi), rel=1e-3)
    plane = lens.on_plane(camera, np.array([[120.0, 80], [150, 80], [10, 80]]))
    np.testing.assert_allclose(plane[:2], [[0, 0], [1, 0]], atol=1e-9)  # an eighth of the turn: 45 degrees
    assert np.isnan(plane[2]).all()


def test_saving_a_png_after_pycolmap_does_not_end_the_process(tmp_path):
    """In a process that has loaded nothing else: numpy, for one, brings the system's zlib along."""
    code = f"""
from importlib import import_module
for name in (*{lens.BEFORE_PYCOLMAP!r}, "pycolmap", "PIL.Image"):
    import_module(name)
from PIL import Image
Image.new("RGB", (50, 50)).save({str(tmp_path / "a.png")!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[:300]


def test_pycolmap_is_imported_in_one_place():
    own = r"^\s*(import|from) pycolmap|import_module\(.pycolmap.\)"
    found = [path.name for path in (ROOT / "lib").rglob("*.py") if re.search(own, path.read_text(), re.MULTILINE)]
    assert found == ["lens.py"]
    assert "for name in BEFORE_PYCOLMAP:" in inspect.getsource(lens.pycolmap)
