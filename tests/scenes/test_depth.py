import json
import shutil

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.scenes import agreement, colmap, depth, depth_files, lens
from lib.scenes.colmap import Scene, View
from lib.scenes.crop import crop, rays, seen
from lib.scenes.depth import dropped_values, from_map, from_points, known_depth, read_depth
from lib.scenes.depth_files import DepthMap, find_depth_map
from tests.scenes import miniature

PINHOLE = lens.camera("PINHOLE", 240, 160, [170, 170, 120, 80])
LENS = [140, 140, 121, 79, 0.01, 0.01, 1e-3, -1e-3, 0, 0, 1e-3, 1e-3]
FISHEYE = lens.camera("THIN_PRISM_FISHEYE", 240, 160, LENS)
FRAME = crop(PINHOLE, 56, 42)
POSE = np.eye(3, 4)


def plane(x, y):
    """Depth of the plane 0.3 X + 0.2 Y + Z = 10 on the ray (x, y, 1)."""
    return 10 / (1 + 0.3 * x + 0.2 * y)


def plane_map(path, camera, width, height):
    """The plane's z-depth as a raw float32 file at any resolution of a camera."""
    column, row = np.meshgrid(
        (np.arange(width) + 0.5) * camera.width / width, (np.arange(height) + 0.5) * camera.height / height
    )
    seen = camera.cam_from_img(np.stack([column.ravel(), row.ravel()], 1))
    depth = plane(seen[:, 0], seen[:, 1]).reshape(height, width).astype("<f4")
    depth.tofile(path) if path.suffix == ".JPG" else np.save(path, depth)
    return depth


def view_of(folder, name="a.jpg", camera=PINHOLE):
    view = View(name.partition(".")[0], folder / "images" / name, camera, POSE, np.arange(0))
    return Scene(folder.name, folder, (view,), np.zeros((0, 3))), view


# Camera, file, size of the map, and the spacing of its pixels in network pixels where it is widest (the fisheye's grows
# with the angle).
MAPS = [(PINHOLE, "d.JPG", (240, 160), 0.27), (FISHEYE, "d.JPG", (240, 160), 0.5), (PINHOLE, "d.npy", (120, 80), 0.54)]


@pytest.mark.parametrize("camera, name, size, spacing", MAPS)
def test_slanted_plane_keeps_its_depth(tmp_path, camera, name, size, spacing):
    plane_map(tmp_path / name, camera, *size)
    pooled = from_map(DepthMap(tmp_path / name, camera), FRAME)
    truth = plane(*rays(FRAME)[..., :2].transpose(2, 0, 1))
    known = pooled > 0
    assert known.mean() > 0.97
    # One network pixel is 1/46 of the focal length; along it depth changes by 0.36 / 46 / (1 - 0.27) = 1.07 % at most.
    # The nearest sample lies within half a diagonal of the file's pixel, 0.71 spacings, from the centre.
    assert np.abs(pooled / truth - 1)[known].max() < 0.0107 * 0.71 * spacing
    assert abs((pooled / truth - 1)[known].mean()) < 2e-4


def test_sparse_map_loses_no_pixel_that_it_covers(tmp_path):
    depth = plane_map(tmp_path / "d.npy", PINHOLE, 240, 160)
    sparse = np.full_like(depth, np.inf)
    # 11 % of the pixels, none of which a nearest-neighbour decimation is sure to hit.
    sparse[1::3, 2::3] = depth[1::3, 2::3]
    np.save(tmp_path / "d.npy", sparse)
    assert (from_map(DepthMap(tmp_path / "d.npy", PINHOLE), FRAME) > 0).all()


def test_edge_is_not_smeared(tmp_path):
    depth = np.full((160, 240), 20.0, np.float32)
    depth[:, :120] = 5
    np.save(tmp_path / "d.npy", depth)
    pooled = from_map(DepthMap(tmp_path / "d.npy", PINHOLE), FRAME)
    assert set(np.unique(pooled)) == {5.0, 20.0}
    assert (pooled[:, :28] == 5).all() and (pooled[:, 29:] == 20).all()  # column 28 looks along the edge


def test_nearer_point_hides_the_farther_one_and_points_behind_are_ignored():
    points = np.array([[0.0, 0, 8], [0.001, 0, 4], [0.0, 0, -3], [2.0, 1, 10]])
    pooled = from_points(points, POSE, FRAME)
    k = FRAME.intrinsics
    column, row = round(0.2 * k[0, 0] + 28), round(0.1 * k[1, 1] + 21)
    assert pooled[21, 28] == 4 and pooled[row, column] == 10
    assert (pooled > 0).sum() == 2


def test_nothing_measured_is_zero(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[1, np.inf, np.nan], [0, -2, 3]], np.float32))
    camera = lens.camera("PINHOLE", 3, 2, [3, 3, 1.5, 1])
    np.testing.assert_array_equal(read_depth(DepthMap(tmp_path / "d.npy", camera)), [[1, 0, 0], [0, 0, 3]])


@pytest.mark.parametrize(("mark", "kind"), [
    (9999, "f4"), (1e10, "f8"), (65504, "f2"), (60000, "u2"), (1e-4, "f4"),
])  # fmt: skip
def test_one_number_far_beyond_all_others_is_no_depth(tmp_path, mark, kind):
    """What other programs write where they measured nothing: the sky of a rendering, 9999, an inverse of nothing."""
    depth = plane_map(tmp_path / "d.npy", PINHOLE, 240, 160).astype(kind)
    depth[:20] = mark
    np.save(tmp_path / "d.npy", depth)
    found = read_depth(DepthMap(tmp_path / "d.npy", PINHOLE))
    assert (found[:20] == 0).all() and (found[20:] == depth[20:].astype("f4")).all()


def test_a_far_point_and_a_far_wall_are_depths(tmp_path):
    depth = plane_map(tmp_path / "d.npy", PINHOLE, 240, 160)
    for far in (np.s_[:1, :3], np.s_[:20]):
        depth[far] = 900 if far == np.s_[:1, :3] else 8 * plane(-0.7, -0.5)
        np.save(tmp_path / "d.npy", depth)
        assert (read_depth(DepthMap(tmp_path / "d.npy", PINHOLE)) == depth).all()


def test_truncated_depth_is_refused(tmp_path):
    plane_map(tmp_path / "a.JPG", PINHOLE, 240, 160)
    plane_map(tmp_path / "b.npy", PINHOLE, 240, 160)
    Image.fromarray(np.random.default_rng(0).integers(1, 60000, (160, 240), dtype=np.uint16)).save(tmp_path / "c.png")
    cut = "may be truncated"
    messages = {"a.JPG": "153596 bytes, but 240 x 160 x 4 = 153600", "b.npy": cut, "c.png": cut}
    for name, message in messages.items():
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-4] if name == "a.JPG" else data[: len(data) // 2])
        with pytest.raises(Stop, match=f"{name}.*{message}"):
            read_depth(DepthMap(tmp_path / name, PINHOLE))


HEADERS = {
    "of text": b"{'descr': '<U8', 'fortran_order': False, 'shape': (1, 2)}",
    "of pickles": b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 2)}",
    "of 10^18 values": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000)}",
    "without an end": b"{'descr': '<f4",
    "without a row": b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2)}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_damaged_npy_is_refused_in_one_sentence(tmp_path, header):
    body = header.ljust(117) + b"\n" + bytes(64)
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header.ljust(117) + b"\n").to_bytes(2, "little") + body)
    with pytest.raises(Stop, match=r"d\.npy (cannot be read|has the shape|holds values of)"):
        read_depth(DepthMap(tmp_path / "d.npy", PINHOLE))


def test_depth_of_another_shape_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.ones((160, 160), np.float32))
    with pytest.raises(Stop, match=r"d\.npy has the shape"):
        read_depth(DepthMap(tmp_path / "d.npy", PINHOLE))


def test_16_bit_depth_takes_its_scale_from_the_setting_or_the_summary(tmp_path):
    scene, view = view_of(tmp_path / "yard")
    (tmp_path / "yard" / "depth").mkdir(parents=True)
    Image.fromarray(np.full((80, 120), 2500, np.uint16)).save(tmp_path / "yard" / "depth" / "a.png")
    with pytest.raises(Stop, match="needs a scale"):
        find_depth_map(scene, view, 0)
    assert read_depth(find_depth_map(scene, view, 5000)).max() == pytest.approx(0.5)
    (tmp_path / "summary.json").write_text(json.dumps({"yard": {"depth_scale": 1000}}))
    assert read_depth(find_depth_map(scene, view, 0)).max() == pytest.approx(2.5)


@pytest.mark.parametrize(("summary", "said"), [
    ("[]", "needs a scale"), ('{"yard": 5000}', "needs a scale"), ('{"yard": {}}', "needs a scale"),
    *((f'{{"yard": {{"depth_scale": {scale}}}}}', "needs a scale") for scale in ('"5000"', "Infinity", "9" * 400)),
    ("{", r"summary\.json cannot be read"), ("[" * 100_000, r"summary\.json cannot be read"),
])  # fmt: skip
def test_a_summary_without_a_scale_is_asked_for_one(tmp_path, summary, said):
    scene, view = view_of(tmp_path / "yard")
    (tmp_path / "yard" / "depth").mkdir(parents=True)
    Image.fromarray(np.full((80, 120), 2500, np.uint16)).save(tmp_path / "yard" / "depth" / "a.png")
    (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(Stop, match=said):
        find_depth_map(scene, view, 0)


@pytest.mark.parametrize("made, stated, known, unit", [
    (None, "auto", False, ""), (None, "auto", True, "m"), (None, "m", False, "m"), (None, "unknown", True, ""),
    ("depth/a.png", "auto", False, "m"), ("depth/a.npy", "auto", False, ""),
    ("ground_truth_depth/dslr_images/a.jpg", "auto", False, "m"), ("dslr_scan_eval/scan.ply", "auto", False, "m"),
    ("dslr_scan_eval/scan.ply", "unknown", False, ""),
])  # fmt: skip
def test_the_unit_is_metres_where_a_laser_or_a_scale_says_so(tmp_path, made, stated, known, unit):
    scene, _ = view_of(tmp_path / "yard")
    if made:
        (tmp_path / "yard" / made).parent.mkdir(parents=True)
        (tmp_path / "yard" / made).write_bytes(b"")
    assert depth.unit(scene, stated, known) == unit


@pytest.mark.parametrize("times, noise, expected", [(1, 0.02, 1), (3.3, 0.02, 3.3), (0.1, 0.02, 0.1), (3, 0.6, 1)])
def test_depth_in_another_unit_than_the_poses_is_noticed(tmp_path, times, noise, expected):
    """Noise of 60 % is a bad depth, and no unit."""
    generator = np.random.default_rng(0)
    points = np.stack([*generator.uniform(-2, 2, (2, 300)), generator.uniform(6, 12, 300)], 1)
    view = View("a", tmp_path, PINHOLE, POSE, np.arange(300))
    known = from_points(points, POSE, FRAME) * times * np.exp(generator.normal(0, noise, (42, 56)))
    measured = agreement.measured(lambda: known, Scene("yard", tmp_path, (view,), points), view, FRAME)
    assert agreement.factor_to_points(measured.pairs(known)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("unit", [1e-7, 1e7])
def test_points_give_depth_in_any_unit(unit):
    points = np.array([[0.0, 0, 8], [0.001, 0, 4], [0.0, 0, -3], [2.0, 1, 10]])
    found = from_points(points * unit, POSE, FRAME)
    np.testing.assert_allclose(found, from_points(points, POSE, FRAME) * unit, rtol=1e-6)


def test_depth_beyond_a_wide_lens_is_unknown(tmp_path):
    camera = lens.camera("SIMPLE_RADIAL", 168, 126, [92.0, 84, 63, -0.25])
    np.save(tmp_path / "d.npy", np.full((126, 168), 7.0, np.float32))
    frame = crop(camera, 56, 42)
    found = from_map(DepthMap(tmp_path / "d.npy", camera), frame)
    known = seen(camera, frame)
    assert np.isfinite(found).all() and not found[~known].any() and (found[known] == 7).mean() > 0.99


@pytest.mark.parametrize("source", ["points", "scans"])
def test_what_a_wide_lens_does_not_show_has_no_depth(tmp_path, source):
    """Points and scans are known there; the photograph is not."""
    camera = lens.camera("SIMPLE_RADIAL", 168, 126, [92.0, 84, 63, -0.25])
    frame = crop(camera, 56, 42)
    points = (rays(frame) * 5).reshape(-1, 3)
    view = View("a", tmp_path / "yard" / "a.jpg", camera, POSE, np.arange(len(points)))
    scene = Scene("yard", tmp_path / "yard", (view,), points)
    if source == "scans":
        (tmp_path / "yard" / "dslr_scan_eval").mkdir(parents=True)
        miniature.write_ply(tmp_path / "yard" / "dslr_scan_eval" / "a.ply", points)
        mesh = '<MLMesh filename="a.ply"><MLMatrix44>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</MLMatrix44></MLMesh>'
        (tmp_path / "yard" / "dslr_scan_eval" / "scan_alignment.mlp").write_text(f"<M>{mesh}</M>")
    known = known_depth(scene, view, frame, None, (2,)) > 0
    shown = seen(camera, frame)
    assert not known[~shown].any() and known[shown].mean() > 0.99 and not shown.all()


def masked_view(streets):
    """The first view of linden with a mask of the distorted photograph: its upper rows 1, the left of the others 2."""
    scene = colmap.read(streets / "linden")
    camera = find_depth_map(scene, scene.views[0], 0).camera
    mask = np.zeros((camera.height, camera.width), np.uint8)
    mask[: camera.height // 2], mask[camera.height // 2 :, : camera.width // 2] = 1, 2
    path = streets / "linden/masks_for_images/dslr_images/DSC_0001.png"
    Image.fromarray(mask).save(path)
    return scene, scene.views[0], crop(scene.views[0].camera, 112, 84), path


def test_mask_value_2_removes_depth_and_value_1_on_request(streets):
    scene, view, frame, _ = masked_view(streets)
    plain = from_map(find_depth_map(scene, view, 0), frame)
    depth_map = find_depth_map(scene, view, 0)
    default, strict = (known_depth(scene, view, frame, depth_map, dropped_values(obs)) for obs in (False, True))
    # Lens and principal point move the borders by a few pixels.
    middle = (np.s_[46:, :50], np.s_[46:, 62:], np.s_[:38, :])
    assert all((plain[part] > 0).any() for part in middle)
    assert not default[middle[0]].any() and not strict[middle[0]].any() and not strict[middle[2]].any()
    np.testing.assert_array_equal(default[middle[2]], plain[middle[2]])
    np.testing.assert_array_equal(strict[middle[1]], plain[middle[1]])


def test_mask_of_another_resolution_or_a_broken_one_is_refused(streets):
    scene, view, frame, path = masked_view(streets)
    Image.new("L", (108, 72)).save(path)
    with pytest.raises(Stop, match=r"DSC_0001.png has the shape \(72, 108\), its photograph is 216 x 144"):
        known_depth(scene, view, frame, find_depth_map(scene, view, 0), (2,))
    path.write_bytes(b"broken")
    with pytest.raises(Stop, match=r"DSC_0001\.png cannot be read"):
        known_depth(scene, view, frame, find_depth_map(scene, view, 0), (2,))


def test_depth_of_the_distorted_photographs_needs_their_cameras(streets):
    shutil.rmtree(streets / "linden" / "dslr_calibration_jpg")
    scene = colmap.read(streets / "linden")
    with pytest.raises(Stop, match="dslr_calibration_jpg is missing") as stop:
        find_depth_map(scene, scene.views[0], 0)
    assert "linden_dslr_jpg.7z" in stop.value.command


def test_view_without_a_depth_file_has_no_map(tmp_path):
    scene, view = view_of(tmp_path / "yard")
    assert find_depth_map(scene, view, 0) is None


def test_photographs_of_the_same_name_in_two_folders_have_their_own_depth(tmp_path):
    for metres, folder in ((2, "left"), (3, "right")):
        (tmp_path / "yard" / "depth" / folder).mkdir(parents=True)
        np.save(tmp_path / "yard" / "depth" / folder / "a.npy", np.full((160, 240), metres, np.float32))
        scene, view = view_of(tmp_path / "yard", f"{folder}/a.jpg")
        assert read_depth(find_depth_map(scene, view, 0)).max() == metres


def test_two_photographs_that_differ_in_their_ending_do_not_share_a_depth(tmp_path):
    """a.jpg and a.png of two cameras: a.npy would be both their truths."""
    views = [view_of(tmp_path / "s", name)[1] for name in ("a.jpg", "a.png")]
    scene = Scene("s", tmp_path / "s", tuple(views), np.zeros((0, 3)))
    (tmp_path / "s" / "depth").mkdir(parents=True)
    np.save(tmp_path / "s" / "depth" / "a.npy", np.ones((2, 2), np.float32))
    with pytest.raises(Stop, match="may belong to any of 2 photographs called a") as stopped:
        find_depth_map(scene, views[0], 0)
    assert "a.jpg.npy" in stopped.value.command
    for view in views:
        np.save(tmp_path / "s" / "depth" / f"{view.image.name}.npy", np.ones((2, 2), np.float32))
    found = [find_depth_map(scene, view, 0).path.name for view in views]
    assert found == ["a.jpg.npy", "a.png.npy"]


def test_scan_depth_belongs_to_the_distorted_camera(streets):
    scene = colmap.read(streets / "linden")
    found = find_depth_map(scene, scene.views[0], 0)
    assert found.camera.model_name == "THIN_PRISM_FISHEYE" and scene.views[0].camera.model_name == "PINHOLE"
    found.path.unlink()
    with pytest.raises(Stop, match=r"DSC_0001\.JPG is absent"):
        read_depth(found)


def test_values_that_are_no_depths_are_refused_by_their_type(tmp_path):
    np.save(tmp_path / "d.npy", np.ones((160, 240), np.complex64))
    with pytest.raises(Stop, match=r"d\.npy holds values of the type complex64, which are not depths"):
        read_depth(DepthMap(tmp_path / "d.npy", PINHOLE))


def test_depth_of_a_photograph_whose_camera_nobody_lists_is_refused(streets):
    with pytest.raises(Stop, match=r"does not list dslr_images/other\.JPG, whose depth is there"):
        depth_files.distorted_camera(streets / "linden", "other.JPG")
