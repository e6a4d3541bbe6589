"""Points with tracks: from the true depth of the miniature, and from depth that is wrong."""

import numpy as np
import pycolmap
import pytest
import torch

from lib.scenes import colmap_writer, geometry, tracks
from lib.scenes.colmap_writer import Picture
from tests.scenes.miniature import cam_from_world, network_rays, z_depth

WIDTH, HEIGHT, VIEWS = 120, 80, 4
INTRINSICS = np.array([[100.0, 0, 60], [0, 100, 40], [0, 0, 1]])


@pytest.fixture(scope="module")
def truth():
    """depth (s, h, w), cameras, intrinsics, points and pictures of four true views; where nothing is, it is unsure."""
    x, y = network_rays(INTRINSICS, WIDTH, HEIGHT)
    depth = np.stack([z_depth(view, x, y) for view in range(VIEWS)])
    depth = torch.from_numpy(np.where(np.isfinite(depth), depth, 0)).double()
    cameras = torch.from_numpy(np.stack([cam_from_world(view) for view in range(VIEWS)]))
    intrinsics = torch.from_numpy(INTRINSICS).expand(VIEWS, 3, 3)
    images = torch.randint(
        256, (VIEWS, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return depth, cameras, intrinsics, images


def found(depth, cameras, intrinsics, images, sure=True, asked=None):
    """asked: gets the number of each view that is made."""
    points = geometry.world_points_from_depth(depth, cameras, intrinsics)

    def surface(view):
        if asked is not None:
            asked.append(view)
        return tracks.Surface(depth[view], points[view], (depth[view] > 0) & sure, images[view])

    return tracks.find(cameras, intrinsics, [tuple(one.shape) for one in depth], surface)


def test_true_depth_gives_tracks_whose_points_lie_where_their_pixels_look(truth):
    depth, cameras, intrinsics, _ = truth
    seen = found(*truth)
    assert len(seen.points) > 200 and seen.errors_px.median() < 0.5 and seen.errors_px.max() <= tracks.ERROR_PX
    assert (torch.bincount(seen.track) > 1).all() and len(torch.bincount(seen.track)) == len(seen.points)
    pixels, in_camera = geometry.project(seen.points[seen.track][:, None], cameras[seen.view], intrinsics[seen.view])
    off_px = (pixels[:, 0] - seen.pixel).norm(dim=-1)
    torch.testing.assert_close(tracks.mean(len(seen.points), seen.track, off_px[:, None])[:, 0], seen.errors_px)
    there = depth[seen.view, seen.pixel[:, 1], seen.pixel[:, 0]]
    assert (in_camera[:, 0, 2] / there - 1).abs().max() < 2 * tracks.SAME_SURFACE  # the mean lies between the views


def test_no_two_tracks_begin_at_one_pixel_and_none_names_a_view_twice(truth):
    seen = found(*truth)
    pairs = torch.stack([seen.track, seen.view], 1)
    assert len(pairs.unique(dim=0)) == len(pairs)
    first = seen.track.diff(prepend=torch.tensor([-1])) > 0
    begun = torch.stack([seen.view, *seen.pixel.T], 1)[first]
    assert len(begun.unique(dim=0)) == len(begun)


def test_views_that_disagree_share_almost_no_point(truth):
    """Here and there a wrong depth meets another surface by chance."""
    depth, cameras, intrinsics, images = truth
    wrong = depth * torch.tensor([1.0, 1.3, 1.69, 2.197])[:, None, None]
    assert len(found(wrong, cameras, intrinsics, images).points) < 0.03 * len(found(*truth).points)


def test_pixels_that_are_not_sure_are_in_no_track(truth):
    depth, cameras, intrinsics, images = truth
    seen = found(depth, cameras, intrinsics, images, torch.arange(WIDTH) < 60)
    assert len(seen.points) and (seen.pixel[:, 0] < 60).all()


def test_more_views_make_a_coarser_grid_and_each_is_made_once_while_it_is_held(truth, monkeypatch):
    asked = []
    whole = found(*truth, asked=asked)
    assert sorted(asked) == list(range(VIEWS))
    monkeypatch.setattr(tracks, "MOST_BEGINNINGS", 4 * 15 * 10)  # a grid of 8 px
    coarse = found(*truth)
    assert 0 < len(coarse.points) < len(whole.points) / 2
    begun = coarse.track.diff(prepend=torch.tensor([-1])) > 0
    assert (coarse.pixel[begun] % 8 == 0).all()


def test_pycolmap_opens_the_model_and_measures_the_same_errors(truth, tmp_path):
    _, cameras, intrinsics, _ = truth
    seen = found(*truth)
    pictures = [Picture(f"v{view}.png", WIDTH, HEIGHT) for view in range(VIEWS)]
    colmap_writer.write(tmp_path, pictures, cameras, intrinsics, seen)
    model = pycolmap.Reconstruction(tmp_path)
    assert len(model.points3D) == len(seen.points) and model.compute_num_observations() == len(seen.track)
    model.update_point_3d_errors()
    errors = [model.points3D[number + 1].error for number in range(len(seen.points))]
    np.testing.assert_allclose(errors, seen.errors_px, atol=2e-3)  # keypoints are written in thousandths of a px
    np.testing.assert_array_equal(model.points3D[1].color, seen.colours[0])


def test_cameras_at_the_size_of_the_photos_see_the_same_points_at_the_same_places(truth, tmp_path):
    """A photo of 500 x 400 px of which the middle 500 x 333.3 are the network's 120 x 80."""
    _, cameras, intrinsics, _ = truth
    seen, scale = found(*truth), 500 / 120
    top = (400 - 80 * scale) / 2
    whole = [Picture(f"v{view}.jpg", 500, 400, 0.0, top, scale, scale) for view in range(VIEWS)]
    colmap_writer.write(tmp_path, whole, cameras, intrinsics, seen)
    model = pycolmap.Reconstruction(tmp_path)
    small, _ = geometry.project(seen.points[seen.track][:, None], cameras[seen.view], intrinsics[seen.view])
    for k in range(0, len(seen.track), 50):
        image = next(one for one in model.images.values() if one.name == f"v{seen.view[k]}.jpg")
        pixel = image.project_point(seen.points[seen.track[k]].numpy())
        np.testing.assert_allclose(pixel, (small[k, 0].numpy() + 0.5) * scale + (0, top), atol=1e-3)
    model.update_point_3d_errors()
    np.testing.assert_allclose(model.points3D[1].error, seen.errors_px[0] * scale, atol=2e-3)
