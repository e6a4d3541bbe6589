"""Depth, poses and pixels that read well and are wrong: each is told from the right ones by what else a scene knows."""

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from lib.core.errors import Stop
from lib.scenes import agreement, colmap, colmap_files, depth, lens, overlap
from lib.scenes.colmap import Scene, View
from lib.scenes.crop import crop, rays
from lib.scenes.depth import from_points
from lib.scenes.depth_files import DepthMap, find_depth_map, refuse_strange
from tests.scenes import miniature

PINHOLE = lens.camera("PINHOLE", 240, 160, [170, 170, 120, 80])
FRAME = crop(PINHOLE, 56, 42)
RAY = np.linalg.norm(rays(FRAME), axis=-1)


def measured(tmp_path, depths):
    """Three views of 300 points, the later ones 1 and 2 to the side. depths: what a view's exact depth is made into."""
    generator = np.random.default_rng(0)
    points = np.stack([*generator.uniform(-4, 4, (2, 300)), generator.uniform(6, 12, 300)], 1)
    poses = [np.concatenate([np.eye(3), [[-side], [0], [0]]], 1) for side in range(3)]
    views = [View(str(i), tmp_path, PINHOLE, pose, np.arange(300)) for i, pose in enumerate(poses)]
    exact = [from_points(points, pose, FRAME) for pose in poses]
    scene = Scene("yard", tmp_path, tuple(views), points)
    found = depths(exact, np.exp(generator.normal(0, 0.005, (42, 56))))
    return {v.name: agreement.measured(lambda d=d: d, scene, v, FRAME) for v, d in zip(views, found, strict=True)}


def test_right_depth_is_taken_with_its_noise(tmp_path):
    agreement.refuse_other_depth(tmp_path, measured(tmp_path, lambda exact, noise: [one * noise for one in exact]))


@pytest.mark.parametrize("wrong, why", [
    (lambda exact, noise: [one * RAY * noise for one in exact], "is the distance along the ray"),
    (lambda exact, noise: [np.where(one > 0, 70 / np.maximum(one, 1), 0) for one in exact], "is inverse depth"),
    (lambda exact, noise: [one * 3.28 for one in exact], "is 3.28 times what its COLMAP model says"),
    (lambda exact, noise: [exact[0], exact[1], np.where(exact[2] > 0, 30, 0)], "depth of 2 in .* is off by"),
    (lambda exact, noise: [exact[0] * noise, exact[1] * noise, exact[2] * 1.08], "depth of 2 in .* is off by 8%"),
])  # fmt: skip
def test_depth_of_another_meaning_or_unit_is_refused(tmp_path, wrong, why):
    with pytest.raises(Stop, match=why):
        agreement.refuse_other_depth(tmp_path, measured(tmp_path, wrong))


def test_depth_of_another_photograph_is_refused_with_both_names(tmp_path):
    """Its pixels are known where this view's points are: a smooth wall, at a slant."""
    column, row = np.meshgrid(np.arange(56), np.arange(42))
    exact = [8 + 0.02 * (i + 1) * column + 0.02 * row for i in range(3)]
    cells = np.arange(0, 42 * 56, 7)
    ones = np.ones(len(cells))

    def views(order):
        return {
            str(i): agreement.Measured(lambda i=i: exact[order[i]], cells, exact[i].reshape(-1)[cells], ones)
            for i in range(3)
        }

    agreement.refuse_other_depth(tmp_path, views([0, 1, 2]))
    with pytest.raises(Stop, match=r"the depth of 1 in .* is off by \d+% .* and that of 2 by 0.0%") as stop:
        agreement.refuse_other_depth(tmp_path, views([0, 2, 1]))
    assert "name of its photograph" in stop.value.command


@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("words", overlap.TURNED)
def test_depth_whose_first_row_is_the_lowest_is_refused(tmp_path, words, times):
    """A slanted wall with a step, in either unit."""
    column, row = np.meshgrid(np.arange(56), np.arange(42))
    exact = 8 + 0.05 * column + 0.03 * row + 2 * (column > 20)
    cells = np.arange(0, 42 * 56, 7)
    wrong = times * overlap.TURNED[words](exact)
    view = agreement.Measured(lambda: wrong, cells, exact.reshape(-1)[cells], np.ones(len(cells)))
    with pytest.raises(Stop, match=f"is as its COLMAP model tells once it is {words}"):
        agreement.refuse_other_depth(tmp_path, {"0": view, "1": view})


# ---------------------------------------------------------------------------------------------- without points


def seen(change=lambda pose: pose, times=1.0):
    """What four cameras of the miniature see of each other's surfaces."""
    camera = np.array([[60.0, 0, 40], [0, 60, 28], [0, 0, 1]])
    x, y = miniature.network_rays(camera, 80, 56)
    depths = [miniature.z_depth(view, x, y) for view in range(4)]
    known = [np.where(np.isfinite(one), one, 0).astype(np.float32) * times for one in depths]
    return [overlap.Seen(one, camera, change(miniature.cam_from_world(view))) for view, one in enumerate(known)]


def test_views_of_one_world_share_what_they_see(tmp_path):
    assert 0.3 < overlap.shares(tmp_path, seen()).min() < 0.9


@pytest.mark.parametrize("change, times, why", [
    (lambda pose: pose, 1000, "when depth is divided by 1000"),
    (overlap.turned, 1, "the cameras' y and z axes are turned round"),
    (overlap.inverse, 1, "the poses are inverted"),
    (lambda pose: overlap.larger(pose, 1e4), 1, "no view sees what another one sees"),
])  # fmt: skip
def test_depth_and_poses_of_two_worlds_are_refused(tmp_path, change, times, why):
    with pytest.raises(Stop, match=why):
        overlap.shares(tmp_path, seen(change, times))


@pytest.mark.parametrize(("change", "why"), [
    (overlap.ordered(lambda views: [*views[1:], views[0]]), "each depth is given to the photograph after"),
    (overlap.ordered(lambda views: [views[-1], *views[:-1]]), "each depth is given to the photograph before"),
    (overlap.ordered(lambda views: views[::-1]), "from the last to the first"),
    (overlap.drawn(lambda depth: depth[:, ::-1]), "mirrored from left to right"),
    (overlap.drawn(lambda depth: depth[::-1]), "mirrored from top to bottom"),
    (overlap.drawn(lambda depth: depth[::-1, ::-1]), "turned by half a circle"),
])  # fmt: skip
def test_depth_of_other_photographs_and_turned_depth_is_refused_without_points_too(tmp_path, change, why):
    """Each map looks right for itself; files that are off by one, and arrays whose first row is the lowest."""
    with pytest.raises(Stop, match=f"views agree when .*{why}"):
        overlap.shares(tmp_path, change(seen()))


# ---------------------------------------------------------------------------------------------- the model itself


def inverted(pose):
    return overlap.inverse(pose), None


def last_first(pose):
    """The scalar of the quaternion at its end."""
    return pose, [3, 0, 1, 2]


WRONG = {
    "as it is": (lambda pose: (pose, None), 1),
    "world from camera": (inverted, 1),
    "OpenGL's axes": (lambda pose: (overlap.turned(pose), None), 1),
    "x, y, z, w": (last_first, 1),
    "intrinsics of twice the size": (lambda pose: (pose, None), 2),
}


@pytest.mark.parametrize("change, times", WRONG.values(), ids=WRONG)
def test_cameras_that_see_their_points_elsewhere_are_refused(tmp_path, change, times):
    """Four views of the boxes' corners, as text, with what other programs write instead."""
    points, lines = miniature.BOXES.reshape(-1, 3), []
    for view in range(4):
        pose, order = change(miniature.cam_from_world(view))
        cam = points @ miniature.cam_from_world(view)[:, :3].T + miniature.cam_from_world(view)[:, 3]
        pixels = PINHOLE.img_from_cam(cam)
        quaternion = np.roll(Rotation.from_matrix(pose[:, :3]).as_quat(), 1)[order or [0, 1, 2, 3]]
        lines.append(" ".join(map(str, [view + 1, *quaternion, *pose[:, 3], 1, f"{view}.jpg"])))
        lines.append(" ".join(f"{x} {y} {i}" for i, (x, y) in enumerate(pixels)))
    (tmp_path / "cameras.txt").write_text(f"1 PINHOLE 240 160 {170 * times} {170 * times} 120 80\n")
    (tmp_path / "images.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "points3D.txt").write_text("\n".join(f"{i} {x} {y} {z} 0 0 0 0" for i, (x, y, z) in enumerate(points)))
    if change is WRONG["as it is"][0] and times == 1:
        assert len(colmap_files.read(tmp_path).images) == 4
        return
    with pytest.raises(Stop, match="4 of 4 images see their points elsewhere than their cameras do") as stop:
        colmap_files.read(tmp_path)
    assert "QW first" in stop.value.command


# ---------------------------------------------------------------------------------------------- files of depth


@pytest.fixture
def yard(tmp_path):
    (tmp_path / "yard" / "depth").mkdir(parents=True)
    view = View("a", tmp_path / "yard" / "images" / "a.jpg", PINHOLE, np.eye(3, 4), np.arange(0))
    return Scene("yard", tmp_path / "yard", (view,), np.zeros((0, 3)))


def test_whole_numbers_need_a_scale_in_every_kind_of_file(yard):
    np.save(yard.folder / "depth" / "a.npy", np.full((160, 240), 2500, np.uint16))
    with pytest.raises(Stop, match=r"a\.npy holds whole numbers and needs a scale"):
        find_depth_map(yard, yard.views[0], 0)
    found = find_depth_map(yard, yard.views[0], 1000)
    assert depth.read_depth(found).max() == 2.5 and depth.unit(yard, "auto", False) == depth.METRES
    np.save(yard.folder / "depth" / "a.npy", np.full((160, 240), 2.5, np.float32))
    assert find_depth_map(yard, yard.views[0], 1000).scale == 1 and not depth.unit(yard, "auto", False)


def test_a_picture_of_depth_is_no_depth_and_the_largest_16_bit_value_was_not_measured(tmp_path):
    Image.fromarray(np.full((160, 240), 200, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(Stop, match=r"a\.png holds values of the type uint8, which are not depths"):
        depth.read_depth(DepthMap(tmp_path / "a.png", PINHOLE, 1000))
    values = np.full((160, 240), 1500, np.uint16)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / "b.png")
    found = depth.read_depth(DepthMap(tmp_path / "b.png", PINHOLE, 1000))
    assert found[0, 0] == 0 and set(found.reshape(-1)[1:]) == {1.5}


def test_depth_files_of_no_photograph_are_said_and_none_of_any_is_refused(yard, capsys):
    refuse_strange([yard])
    strange = yard.folder / "depth" / "a_depth.npy"
    np.save(strange, np.ones((160, 240), np.float32))
    with pytest.raises(Stop, match=r"there is depth/a_depth\.npy, but no depth/a\.npy"):
        refuse_strange([yard])
    np.save(yard.folder / "depth" / "a.npy", np.ones((160, 240), np.float32))
    refuse_strange([yard])
    assert "yard: 1 file of depth/ belong to no photograph: depth/a_depth.npy" in capsys.readouterr().out


def test_a_photometric_depth_alone_is_refused(yard):
    (yard.folder / "stereo" / "depth_maps").mkdir(parents=True)
    (yard.folder / "stereo" / "depth_maps" / "a.jpg.photometric.bin").write_bytes(b"")
    with pytest.raises(Stop, match=r"a\.jpg\.photometric\.bin, but no"):
        refuse_strange([yard])


def test_colmaps_dense_depth_beside_distorted_photographs_is_refused(yard):
    (yard.folder / "stereo" / "depth_maps").mkdir(parents=True)
    (yard.folder / "stereo" / "depth_maps" / "a.jpg.geometric.bin").write_bytes(b"")
    distorted = colmap.View(
        "a", yard.views[0].image, lens.camera("SIMPLE_RADIAL", 240, 160, [170, 120, 80, 0.1]), *[0] * 2
    )
    with pytest.raises(Stop, match=r"of COLMAP's undistorted photograph, and .*a\.jpg has a SIMPLE_RADIAL camera"):
        find_depth_map(yard, distorted, 0)
    assert find_depth_map(yard, yard.views[0], 0).scale == 1
