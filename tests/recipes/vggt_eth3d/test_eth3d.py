"""From the archives that a person fetched to depth at network resolution, against what is there (miniature.py)."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import minimum_filter

from lib import recipes
from lib.core.run import Run
from lib.data import assets
from lib.scenes import colmap, depth, depth_files
from lib.scenes.crop import crop
from tests.scenes import miniature

RECIPE = recipes.load("vggt_eth3d")
WIDTH, HEIGHT = 112, 84


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eth3d")
    miniature.write(folder / "facade")
    return folder


@pytest.fixture(scope="module")
def views(files):
    """Of each view: its rays, what is really there, and its depth from the map (a) and from the scans (b)."""
    scene = colmap.read(files / "facade")
    found = []
    for number, view in enumerate(scene.views):
        frame = crop(view.camera, WIDTH, HEIGHT)
        x, y = miniature.network_rays(frame.intrinsics, WIDTH, HEIGHT)
        known = {
            kind: depth.known_depth(scene, view, frame, depth_map, (2,))
            for kind, depth_map in (("map", depth_files.find_depth_map(scene, view, 0)), ("scans", None))
        }
        masked = miniature.in_rectangle(number, x, y, miniature.NOT_IN_SCAN) & (number == 0)
        found.append(
            SimpleNamespace(number=number, x=x, y=y, truth=miniature.z_depth(number, x, y), masked=masked, **known)
        )
    return found


def measurable(view, kind):
    """(h, w) bool: what the geometry allows to know.

    That is every surface, or those that a scanner reached, without the masked region.
    """
    seen = miniature.seen_by_a_scanner(view.number, view.x, view.y) if kind == "scans" else np.isfinite(view.truth)
    return seen & ~view.masked


@pytest.mark.parametrize("kind", ["map", "scans"])
def test_depth_is_what_the_rays_really_meet(views, kind):
    for view in views:
        known = getattr(view, kind)
        both = (known > 0) & measurable(view, kind)
        assert np.median(np.abs(known[both] / view.truth[both] - 1)) < 0.002


@pytest.mark.parametrize("kind", ["map", "scans"])
def test_nothing_beyond_an_edge_is_filled_from_behind(views, kind):
    for view in views:
        known = getattr(view, kind)
        off_m = miniature.off_surface(view.number, view.x, view.y, known)[(known > 0) & measurable(view, kind)]
        # 10 cm is the deepest that a neighbouring measurement lies off a surface that is seen at a flat angle; the next
        # surface is farther.
        assert off_m.max() < 0.1
        assert (off_m < -0.1).mean() < 0.015  # edges grow by half a reach at most, which is part of a pixel


@pytest.mark.parametrize("kind", ["map", "scans"])
def test_nearly_all_that_can_be_known_is_known(views, kind):
    for view in views:
        allowed = measurable(view, kind)
        assert allowed.mean() > 0.7 and (getattr(view, kind) > 0)[allowed].mean() > 0.975


@pytest.mark.parametrize("kind", ["map", "scans"])
def test_what_the_mask_calls_not_in_the_scan_stays_unknown(views, kind):
    inner = minimum_filter(views[0].masked, 3)
    assert inner.sum() > 100 and np.isfinite(views[0].truth[inner]).all() and not getattr(views[0], kind)[inner].any()


def test_no_measurement_stands_in_the_sky(views):
    """Beside the skyline, that is, which may grow by a part of a pixel."""
    for view in views:
        sky = ~np.isfinite(view.truth)
        inner = minimum_filter(sky, 3, mode="nearest")
        assert inner.sum() > 50 and not view.map[inner].any() and not view.scans[inner].any()


# ---------------------------------------------------------------------------------------------- steps 2 and 3


@pytest.fixture(scope="module")
def archives(files, tmp_path_factory):
    """What a person fetched for two scenes: photographs and cameras of both, depth of the one, scans of the other."""
    scene, fetched = files / "facade", tmp_path_factory.mktemp("fetched")
    undistorted = ("images/dslr_images_undistorted", "dslr_calibration_undistorted")
    distorted = ("images/dslr_images", "dslr_calibration_jpg", "masks_for_images")
    for name in ("facade", "courtyard"):
        miniature.pack(scene, fetched / f"{name}_dslr_undistorted.7z", *undistorted)
        miniature.pack(scene, fetched / f"{name}_dslr_jpg.7z", *distorted)
    miniature.pack(scene, fetched / "facade_dslr_depth.7z", "ground_truth_depth")
    miniature.pack(scene, fetched / "courtyard_dslr_scan_eval.7z", "dslr_scan_eval")
    return fetched


def test_archives_below_the_inputs_become_prepared_scenes(archives, settings, tmp_path, capsys):
    config = settings(
        data__stand_in=False, data__scenes=["facade"], data__val_scenes=["courtyard"], model__image_width_px=112
    )
    run = Run(tmp_path, "r")
    made = assets.fetch_all(run, RECIPE, config, [archives], lambda: False)
    assert [record.missing for record in made] == [(), ()] and made[1].path == run.data("vggt_eth3d", "scenes")
    said = capsys.readouterr().out
    assert "not needed: facade_dslr_scan_eval.7z, courtyard_dslr_depth.7z" in said
    records = list(RECIPE.prepare(config, {record.name: record.path for record in made}, tmp_path / "arrays"))
    assert {(record.group, record.columns["depth"]) for record in records} == {
        ("facade", "map"), ("courtyard", "scans"),
    }  # fmt: skip
    assert [record.status for record in records] == ["ok"] * 8
    assert all(record.columns["valid_share"] > 0.6 for record in records)
    assert assets.fetch_all(run, RECIPE, config, [archives], lambda: False) == made
    assert "unpacking" not in capsys.readouterr().out


def test_views_of_one_scene_have_their_own_cameras(views, files):
    scene = colmap.read(files / "facade")
    assert {(view.camera.width, view.camera.height) for view in scene.views} == {(480, 320), (500, 330)}
    lenses = [depth_files.find_depth_map(scene, view, 0).camera for view in scene.views]
    assert [(lens.width, lens.height) for lens in lenses] == [(480, 320)] * 3 + [(500, 330)]


def test_missing_archives_are_listed_with_name_size_and_page(settings, tmp_path):
    config = settings(data__stand_in=False, data__scenes=["facade"], data__val_scenes=["courtyard"])
    made = assets.fetch_all(Run(tmp_path, "r"), RECIPE, config, [], lambda: False)[1]
    one, other = (
        f"{scene}_dslr_undistorted.7z or multi_view_training_dslr_undistorted.7z" for scene in ("facade", "courtyard")
    )
    assert made.missing == (one, other) and "www.eth3d.net" in made.how_to_get
    (tmp_path / "data/vggt_eth3d/scenes/facade/images/dslr_images_undistorted").mkdir(parents=True)
    assert assets.fetch_all(Run(tmp_path, "r"), RECIPE, config, [], lambda: False)[1].missing == (one, other)
    for folder in ("images/dslr_images_undistorted", "dslr_calibration_undistorted"):
        (tmp_path / "data/vggt_eth3d/scenes/facade" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/vggt_eth3d/scenes/facade" / folder / "a").write_text("")
    assert assets.fetch_all(Run(tmp_path, "r"), RECIPE, config, [], lambda: False)[1].missing == (other,)
