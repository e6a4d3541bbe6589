"""--propose for scenes: photographs on a page, polygons drawn in a real browser, masks that step 3 reads."""

import shutil
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.data import label_page
from lib.scenes import colmap, depth, propose, regions
from tests import chromium

WISHES = {"every": "5", "box": "", "detector": ""}


def run(root, **wishes):
    propose.propose(None, lambda: pytest.fail("no model is needed"), str(root), "", WISHES | wishes)


@chromium.needed
def test_polygons_on_photographs_become_masks_that_belong_to_them(streets, tmp_path):
    run(streets)
    scene = colmap.read(streets / "harbour")
    view = scene.views[0]
    with chromium.page(streets / label_page.PAGE, 900, 700) as page:
        page.downloads(tmp_path)
        page.wait("document.getElementById('picture').naturalWidth > 0")
        assert page.run("picture().mask") == f"harbour/{view.name}.png"
        width, height = page.run("[picture().width, picture().height]")
        for x, y in ((0.2, 0.2), (0.8, 0.2), (0.8, 0.7), (0.2, 0.7)):
            page.click(
                *page.run(f"""(() => {{
                    const space = document.getElementById("window").getBoundingClientRect();
                    return [space.x + view.x + {x * width} * view.scale, space.y + view.y + {y * height} * view.scale];
                }})()""")
            )
        page.key("Enter")
        page.key("s")
        until = time.monotonic() + 30
        while not (tmp_path / "region_masks.zip").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert page.errors() == []
    with zipfile.ZipFile(tmp_path / "region_masks.zip") as archive:
        archive.extractall(tmp_path / "masks")
    found = regions.find(tmp_path / "masks", scene, view)
    mask = np.asarray(depth.decode(found, palette=True))[..., 0] > 0
    assert mask.shape == (height, width)
    assert mask.mean() == pytest.approx(0.6 * 0.5, abs=0.02)


def test_small_pictures_are_made_once_and_a_missing_photograph_is_named(streets, capsys):
    scene = colmap.read(streets / "linden")
    scene.views[0].image.unlink()
    run(streets / "linden")
    assert f"skipped {scene.views[0].image}: the file is missing" in capsys.readouterr().out
    small = sorted((streets / "linden" / propose.SMALL).rglob("*.jpg"))
    assert len(small) == len(scene.views) - 1
    before = [path.stat().st_mtime_ns for path in small]
    run(streets / "linden")
    assert [path.stat().st_mtime_ns for path in small] == before


def test_photographs_of_one_name_in_two_folders_are_shown_as_themselves(tmp_path):
    """Regions would be drawn on another camera's picture."""
    views = []
    for level, camera in ((40, "left"), (200, "right")):
        image = tmp_path / "images" / camera / "1.tif"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (60, 40), (level, 0, 0)).save(image)
        views.append(SimpleNamespace(name=f"{camera}/1", image=image))
    shown = list(propose.photographs(tmp_path, SimpleNamespace(name=tmp_path.name, folder=tmp_path, views=views)))
    for kind in ("small", "shown"):
        levels = [Image.open(tmp_path / entry[kind]).getpixel((5, 5))[0] for entry in shown]
        assert levels == pytest.approx([40, 200], abs=3)


@pytest.mark.parametrize("wish", ["box", "detector"])
def test_wishes_for_hands_are_refused(streets, wish):
    with pytest.raises(Stop, match="are for drafts of hands"):
        run(streets, **{wish: "left:1,2,3,4"})


def test_a_folder_without_photographs_is_one_sentence(tmp_path):
    with pytest.raises(Stop, match="holds no photographs of a scene"):
        run(tmp_path)
    with pytest.raises(Stop, match="is not a folder of scenes"):
        run(tmp_path / "nowhere")


def test_a_damaged_model_stops_before_anything_is_written(streets):
    shutil.rmtree(streets / "linden" / "dslr_calibration_undistorted", ignore_errors=True)
    for path in (streets / "linden").rglob("cameras.*"):
        path.unlink()
    with pytest.raises(Stop):
        run(streets)
    assert not (streets / label_page.PAGE).exists() and not (streets / propose.SMALL).exists()
