"""Region masks: found by name, cropped like their photographs, carried by samples, refused where they fit nothing."""

import shutil

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.core.order import Key
from lib.core.records import Manifest
from lib.scenes.data import prepare, summarise_data
from lib.scenes.samples import sampler
from tests.scenes.conftest import STAGE


def write_masks(folder, scene, names, size=(216, 144)):
    """The left half of the photograph is the region."""
    (folder / scene).mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = 1
    for name in names:
        Image.fromarray(mask).save(folder / scene / f"{name}.png")


def with_regions(settings, rendered, masks, out):
    return list(prepare(settings(data__region_masks=str(masks)), {"scenes": rendered, "regions": masks}, out))


def test_region_masks_are_cropped_like_their_photographs(rendered, settings, tmp_path, capsys):
    masks, out = tmp_path / "masks", tmp_path / "out"
    write_masks(masks, "linden", [f"DSC_000{i}" for i in range(1, 6)])
    write_masks(masks, "harbour", ["DSC_0001", "DSC_9999"])
    records = with_regions(settings, rendered, masks, out)
    assert [record.columns["region"] for record in records] == ["mask"] * 5 + ["none"] + ["mask"] + ["none"] * 5
    region = np.load(out / "linden" / "DSC_0001.region.npy")
    assert region.dtype == bool
    assert region[:, :62].all() and not region[:, 65:].any()  # the principal point is in column 63
    assert not np.load(out / "linden" / "DSC_0006.region.npy").any()
    said = capsys.readouterr().out
    assert "6 of 12 photographs have no region mask" in said and "linden/DSC_0006" in said
    assert "1 region masks belong to no photograph: harbour/DSC_9999" in said
    summary = summarise_data(settings(data__region_masks=str(masks)), records)
    assert [summary[scene]["without_region_mask"] for scene in ("linden", "harbour")] == [1, 5]


def test_samples_carry_the_region_when_there_are_masks(rendered, settings, tmp_path):
    write_masks(tmp_path / "masks", "linden", [f"DSC_000{i}" for i in range(1, 7)])
    records = with_regions(settings, rendered, tmp_path / "masks", tmp_path / "out")
    for record in records:
        record.split = "test" if record.group == "harbour" else "train"
    for config, present in ((settings(data__region_masks="masks", data__scale_jitter=0.3), True), (settings(), False)):
        sample = sampler(config, STAGE, Manifest(records, tmp_path / "out"), "train").draw(0, Key(1, 0, 0))
        assert ("region" in sample) == present
        if present:
            region = sample["region"]
            assert region.shape == (3, 84, 126) and region[:, :, :60].all() and not region[:, :, 67:].any()


def test_masks_that_belong_to_no_photograph_at_all_are_refused(rendered, settings, tmp_path):
    write_masks(tmp_path / "masks", "linden", ["IMG_1"])
    said = r"no mask in .* belongs to a photograph: there is no linden/DSC_0001\.png, but linden/IMG_1\.png"
    with pytest.raises(Stop, match=said):
        with_regions(settings, rendered, tmp_path / "masks", tmp_path / "out")


def test_masks_of_every_kind_of_png_are_read(rendered, settings, tmp_path):
    """16 bits of 1, an opaque RGBA, and a palette whose first colour is white."""
    left = np.zeros((144, 216), np.uint8)
    left[:, :108] = 1
    palette = Image.fromarray(1 - left)
    palette = palette.convert("P") if palette.mode != "P" else palette
    palette.putpalette([255, 255, 255, 0, 0, 0])
    kinds = [Image.fromarray(left.astype(np.uint16)), Image.fromarray(left * 255).convert("RGBA"), palette]
    (tmp_path / "masks" / "linden").mkdir(parents=True)
    for number, mask in enumerate(kinds, 1):
        mask.save(tmp_path / "masks" / "linden" / f"DSC_000{number}.png")
    with_regions(settings, rendered, tmp_path / "masks", tmp_path / "out")
    for number in (1, 2, 3):
        region = np.load(tmp_path / "out" / "linden" / f"DSC_000{number}.region.npy")
        assert region[:, :62].all() and not region[:, 65:].any(), number


def test_mask_of_another_size_is_refused_with_its_view(rendered, settings, tmp_path):
    write_masks(tmp_path / "masks", "linden", ["DSC_0001"])
    write_masks(tmp_path / "masks", "linden", ["DSC_0002"], size=(108, 72))
    records = with_regions(settings, rendered, tmp_path / "masks", tmp_path / "out")
    skipped = [record for record in records if record.status == "skipped"]
    assert [record.sample_id for record in skipped] == ["linden/DSC_0002"]
    assert "DSC_0002.png has the shape (72, 108), its photograph is 216 x 144" in skipped[0].reason


def test_a_scene_without_a_usable_image_is_refused_with_masks_too(streets, settings, tmp_path):
    shutil.rmtree(streets / "linden/images/dslr_images_undistorted")
    shutil.rmtree(streets / "harbour/images/dslr_images_undistorted")
    write_masks(tmp_path / "masks", "linden", ["DSC_0001"])
    assert {record.status for record in with_regions(settings, streets, tmp_path / "masks", tmp_path)} == {"skipped"}
