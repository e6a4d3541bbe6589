import numpy as np
import pycolmap
import pytest

from lib.core.errors import Stop
from lib.scenes.crop import crop
from lib.scenes.scans import Cloud, depth, read, read_alignment, read_ply, spacing
from tests.scenes.miniature import write_ply

FRAME = crop(pycolmap.Camera(model="PINHOLE", width=240, height=160, params=[170, 170, 120, 80]), 56, 42)
POSE = np.eye(3, 4)


def wall(z, left, right, step):
    """Points on a wall across the view, a grid of spacing `step`."""
    x, y = np.meshgrid(np.arange(left, right, step), np.arange(-6, 6, step))
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], 1).astype(np.float32)


def cloud(*walls):
    points = np.concatenate(walls)
    return Cloud(points, spacing(points))


def write_alignment(folder, matrix, name="scan1.ply"):
    text = "\n".join(" ".join(map(str, row)) for row in np.asarray(matrix))
    mesh = f'<MLMesh label="{name}" filename="{name}"><MLMatrix44>\n{text}\n</MLMatrix44></MLMesh>'
    project = f"<!DOCTYPE MeshLabDocument>\n<MeshLabProject><MeshGroup>{mesh}</MeshGroup></MeshLabProject>"
    (folder / "scan_alignment.mlp").write_text(project)


@pytest.fixture
def scene(tmp_path):
    """A scan of one wall, whose scanner stood 2 m to the right and looked to the left."""
    folder = tmp_path / "facade" / "dslr_scan_eval"
    folder.mkdir(parents=True)
    write_ply(folder / "scan1.ply", wall(6, -4, 4, 0.02))
    write_alignment(folder, [[0, 0, 1, 2], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
    return tmp_path / "facade"


def test_scans_are_moved_into_the_world(scene):
    points = read(scene).points
    np.testing.assert_allclose(points[:, 0], 8, atol=1e-5)  # z = 6 of the scan is x = 6 + 2 of the world
    assert points[:, 2].min() == pytest.approx(-3.98, abs=1e-4) and points[:, 2].max() == pytest.approx(4, abs=1e-4)


def test_spacing_is_that_of_the_grid():
    for step in (0.005, 0.02):
        measured = spacing(wall(6, -2, 2, step))
        # 0.1 / 0.02 = 5 points a side; a cube holds 5 or, by rounding, 4 or 6 of them
        assert np.median(measured) == pytest.approx(step, rel=0.25) and measured.max() < 2 * step
    assert spacing(np.array([[1.0, 2, 3]])).tolist() == pytest.approx([0.05])  # a lonely point


def test_front_wall_hides_the_back_wall_that_is_scanned_more_densely():
    """Front: points 0.65 pixels apart, of which a pixel holds two or three, and some hundred of the wall behind."""
    seen = depth(cloud(wall(3, -8, 0, 0.049), wall(10, -8, 8, 0.01)), POSE, FRAME)
    assert set(np.unique(seen)) <= {0, 3, 10}
    front, back = seen[:, :27], seen[:, 30:]  # the front wall ends in column 28
    assert (front == 3).all()
    assert (back == 10).all()


def test_no_surface_where_no_point_covers_the_centre():
    """The wall ends 0.3 pixels before the centre of the middle column."""
    pixel_m = 6 / FRAME.intrinsics[0, 0]
    seen = depth(cloud(wall(6, -4, -0.3 * pixel_m, 0.01)), POSE, FRAME)
    assert (seen[:, 27] == 6).all() and not seen[:, 28].any()


def test_what_lies_behind_the_camera_is_not_seen():
    assert not depth(cloud(wall(-6, -4, 4, 0.02)), POSE, FRAME).any()


def cut(scene):
    path = scene / "dslr_scan_eval/scan1.ply"
    path.write_bytes(path.read_bytes()[:-100])


def as_text(scene):
    (scene / "dslr_scan_eval/scan1.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n"
    )


def without_z(scene):
    path = scene / "dslr_scan_eval/scan1.ply"
    path.write_bytes(path.read_bytes().replace(b"float z", b"float w", 1))


def property_without_a_name(scene):
    path = scene / "dslr_scan_eval/scan1.ply"
    path.write_bytes(path.read_bytes().replace(b"property float z", b"property ", 1))


def property_twice(scene):
    path = scene / "dslr_scan_eval/scan1.ply"
    path.write_bytes(path.read_bytes().replace(b"float z", b"float z\nproperty float z", 1))


def remove_scan(scene):
    (scene / "dslr_scan_eval/scan1.ply").unlink()


def remove_alignment(scene):
    (scene / "dslr_scan_eval/scan_alignment.mlp").unlink()


def cut_alignment(scene):
    path = scene / "dslr_scan_eval/scan_alignment.mlp"
    path.write_text(path.read_text()[:-30])


def short_matrix(scene):
    write_alignment(scene / "dslr_scan_eval", np.eye(4)[:3])


def infinite_matrix(scene):
    write_alignment(scene / "dslr_scan_eval", np.full((4, 4), np.inf))


def matrix_by_columns(scene):
    write_alignment(scene / "dslr_scan_eval", np.eye(4) + np.outer([0, 0, 0, 1], [3, 2, 1, 0]))


FAULTS = [
    (cut, "scan1.ply is truncated"),
    (as_text, "scan1.ply is not a binary little-endian PLY"),
    (without_z, "scan1.ply does not begin with"),
    (property_without_a_name, "scan1.ply does not begin with"),
    (property_twice, "scan1.ply does not begin with"),
    (remove_scan, "scan1.ply is missing"),
    (remove_alignment, "scan_alignment.mlp is missing"),
    (cut_alignment, "mlp cannot be read"),
    (short_matrix, "mlp cannot be read"),
    (infinite_matrix, "not finite"),
    (matrix_by_columns, "does not end with the row 0, 0, 0, 1"),
]


@pytest.mark.parametrize("fault, message", FAULTS)
def test_damaged_scans_are_refused_by_name(scene, fault, message):
    assert len(read_ply(*read_alignment(scene / "dslr_scan_eval/scan_alignment.mlp")[0][:1])) == 240_000
    fault(scene)
    with pytest.raises(Stop, match=message):
        read(scene)
