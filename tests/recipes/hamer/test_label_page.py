"""label.html as a person uses it: clicks, drags and keys in a real Chromium at two sizes, and what it saves."""

import contextlib
import io
import json
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from lib.data import label_page as page_of
from lib.data import pictures
from lib.recipes.hamer import formats, label_page
from lib.recipes.hamer.data_config import DataConfig
from lib.recipes.hamer.hand import stand_in_hand
from tests import chromium as browser

SIZES = pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["desk", "phone"])
GRID = np.array([[60 + 12 * (k % 5), 40 + 18 * (k // 5), 0.4] for k in range(21)], float)


def drafted(file: str, hand: str, shift: float = 0.0) -> dict:
    points = GRID + np.array([shift, 0, 0])
    numbers = {"keypoints_3d": np.zeros((21, 3)).tolist(), "hand_pose": [0.0] * 48, "betas": [0.0] * 10}
    box = [50 + shift, 30, 120 + shift, 125]
    return {"file": file, "hand": hand, "box": box, "draft": True, "confidence": 0.4} | {
        "keypoints_2d": points.tolist(), **numbers
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Two photographs, one of two hands; a name with a space, an umlaut and a script's end."""
    random = np.random.default_rng(0)
    entries = [drafted("a.png", "right"), drafted("a.png", "left", 150), drafted("b </script> ü.png", "right")]
    for file in ("a.png", "b </script> ü.png"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (200, 300, 3), np.uint8)).save(path)
    label_page.write(tmp_path, entries)
    return tmp_path


@contextlib.contextmanager
def opened(folder, size):
    with browser.page(folder / page_of.PAGE, *size) as page:
        page.downloads(folder)
        page.wait("document.getElementById('picture').naturalWidth > 0")
        page.wait("(() => { const before = JSON.stringify(view); show(); return JSON.stringify(view) === before })()")
        yield page
        assert page.errors() == []


def spot(page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture lies in the window."""
    at = page.run(f"""(() => {{
        const space = document.getElementById("window").getBoundingClientRect();
        return [space.x + view.x + ({x} + .5) * view.scale, space.y + view.y + ({y} + .5) * view.scale];
    }})()""")
    return tuple(at)


def saved(page, file):
    """What the page saves, once it is there whole."""
    page.click_on("#save")
    until = time.monotonic() + 30
    while not file.exists() or not file.stat().st_size:
        assert time.monotonic() < until, "nothing was saved"
        time.sleep(0.05)
    content = file.read_bytes()
    file.unlink()
    return content


@browser.needed
@SIZES
def test_a_dragged_keypoint_an_accepted_and_a_rejected_hand_are_saved(folder, size, tmp_path):
    with opened(folder, size) as page:
        assert page.run("progress.textContent") == "0 of 3 hands done"
        page.drag(spot(page, *GRID[8, :2]), spot(page, 140.0, 150.0))
        assert page.run("document.querySelector('#names li[aria-selected=true]').textContent") == "index tip"
        page.click_on("#accept")
        page.key("r")  # the left hand of the same picture is the next one
        assert page.run("file.textContent") == "b </script> ü.png"
        page.key("h")
        page.key("a")
        assert page.run("progress.textContent") == "3 of 3 hands done"
        accepted, rejected, flipped = json.loads(saved(page, folder / "hands.json"))
    moved = np.array(accepted["keypoints_2d"])
    np.testing.assert_allclose(moved[8], [140, 150, 1], atol=0.6)
    np.testing.assert_allclose(np.delete(moved, 8, 0)[:, :2], np.delete(GRID, 8, 0)[:, :2])
    assert (moved[:, 2] == 1).all()
    assert set(accepted) == {"file", "hand", "box", "keypoints_2d"}  # what nobody could see is not made a label
    assert rejected["rejected"] and rejected["draft"] and flipped["hand"] == "left"


@browser.needed
@SIZES
def test_boxes_are_drawn_and_resized_and_every_change_can_be_undone(folder, size):
    with opened(folder, size) as page:
        before = page.run("JSON.stringify(items)")
        page.key("b")
        page.drag(spot(page, 200, 140), spot(page, 270, 190))
        page.drag(spot(page, 270, 190), spot(page, 290, 195))
        page.key("k")
        page.key(".")
        page.key("ArrowRight")
        page.key("x")
        fresh = page.run("items.at(-1)")
        np.testing.assert_allclose(fresh["box"], [200, 140, 290, 195], atol=1)
        wrist = fresh["keypoints_2d"][0]
        np.testing.assert_allclose(wrist, [246, 195, 0], atol=1)  # laid out, moved by one pixel, hidden
        for _ in range(5):
            page.key("z", 2)
        assert page.run("JSON.stringify(items)") == before


@browser.needed
def test_work_survives_a_reload_and_a_group_is_typed(folder):
    with opened(folder, (1280, 800)) as page:
        page.click_on("#group")
        for letter in "anna":
            page.key(letter)
        page.key("Enter")
        page.key("a")
        page.run("saved = before = true")  # no question on leaving
        page.call("Page.reload")
        page.wait("!window.before && document.readyState === 'complete'")
        assert page.run("progress.textContent") == "1 of 3 hands done"
        assert json.loads(saved(page, folder / "hands.json"))[0]["group"] == "anna"


@browser.needed
@pytest.mark.parametrize("upright", [True, False], ids=["hands", "regions"])
def test_every_kind_of_picture_is_shown_as_it_is_read(tmp_path, upright):
    """Chromium heeds the orientation of JPEG and PNG, not of WebP, and shows no TIFF, whatever it is called."""
    stored, turned, shown = Image.new("RGB", (120, 80)), Image.Exif(), []
    for k, colour in enumerate(("#f00", "#0f0", "#00f", "#fff")):
        stored.paste(colour, (60 * (k % 2), 40 * (k // 2), 60 * (k % 2) + 60, 40 * (k // 2) + 40))
    turned[pictures.ORIENTATION] = 6
    for file, kind in (("a.jpg", "JPEG"), ("b.png", "PNG"), ("c.webp", "WEBP"), ("d.tif", "TIFF"), ("e.jpg", "TIFF")):
        path = tmp_path / file
        stored.save(path, kind, exif=turned, **({"lossless": True} if kind == "WEBP" else {}))
        width, height = pictures.header(path, upright=upright)[:2]
        seen = page_of.shown(tmp_path, file, f"whole/{file}.jpg", upright)
        shown.append({"file": file, "width": width, "height": height, "shown": seen, "small": "", "mask": "m.png"})
    page_of.write(tmp_path, "hands" if upright else "regions", shown, [])
    with browser.page(tmp_path / page_of.PAGE) as page:
        for place, one in enumerate(shown):
            page.run(f"go({place})")
            page.wait("document.getElementById('picture').complete")
            page.run("document.getElementById('picture').decode()")
            page.picture(tmp_path / "seen.png")
            window, due = Image.open(tmp_path / "seen.png"), pictures.read(tmp_path / one["file"], upright=upright)
            for x, y in ((15, 15), (due.width - 15, 15), (15, due.height - 15)):
                found = np.array(window.convert("RGB").getpixel(spot(page, x, y)))
                np.testing.assert_allclose(found, due.getpixel((x, y)), atol=12, err_msg=one["file"])


@browser.needed
def test_the_page_asks_nothing_of_any_other_place(folder):
    with opened(folder, (1280, 800)) as page:
        assert all(address.startswith(("file://", "data:")) for address in page.requests())
    text = (folder / page_of.PAGE).read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "</script> ü" not in text


@browser.needed
def test_what_is_saved_is_read_as_labels(folder):
    with opened(folder, (1280, 800)) as page:
        page.key("a")
        page.key("r")
        content = saved(page, folder / "hands.json")
    (folder / "hands.json").write_bytes(content)
    accepted, draft = formats.hands(DataConfig(format="folder", truth="2d"), folder, stand_in_hand())
    assert not accepted.draft and (accepted.labels.keypoints_2d[:, 2] == 1).all() and not accepted.labels.has_pose
    assert draft.draft and not draft.labels.keypoints_2d.any() and draft.side_px > 0


@browser.needed
@SIZES
def test_polygons_become_masks_of_the_photographs_size(tmp_path, size):
    """White where the polygon is, under the name that the recipe of scenes looks for."""
    Image.new("RGB", (300, 200), (90, 90, 90)).save(tmp_path / "view.png")
    photo = {"file": "view.png", "shown": "view.png", "width": 300, "height": 200}
    shown = [photo | {"small": "", "mask": "terrace/view.png"}]
    page_of.write(tmp_path, "regions", shown, [])
    with opened(tmp_path, size) as page:
        for corner in ((40, 50), (140, 50), (140, 120), (40, 120)):
            page.click(*spot(page, *corner))
        page.key("Enter")
        page.drag(spot(page, 140, 120), spot(page, 160, 120))
        assert page.run("progress.textContent") == "1 of 1 pictures have a region"
        content = saved(page, tmp_path / "region_masks.zip")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None and archive.namelist() == ["terrace/view.png"]
        mask = np.asarray(Image.open(archive.open("terrace/view.png")).convert("L"))
    assert mask.shape == (200, 300)
    assert mask[60, 50] == 255 and mask[115, 150] == 255 and mask[40, 50] == 0 and mask[130, 50] == 0
    assert abs((mask > 127).sum() - 70 * (100 + 120) / 2) < 400
