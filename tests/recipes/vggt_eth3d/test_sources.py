import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.data.recognise import listing
from lib.recipes.vggt_eth3d.config import PRESETS, Config
from lib.recipes.vggt_eth3d.sources import assets


def wanted(**settings):
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return {asset.name: asset for asset in assets(from_dotted(Config, PRESETS["strategy_b"] | dotted))}


def test_base_is_the_repository_at_the_asked_revision():
    base = wanted()["base"]
    assert (base.kind, base.source, base.revision) == ("hub", "facebook/VGGT-1B", "main")
    assert list(base.files) == ["model.safetensors"]
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = wanted(model__weights="facebook/VGGT-1B-Commercial", model__revision=commit)["base"]
    assert (base.source, base.revision) == ("facebook/VGGT-1B-Commercial", commit) and "commercial" in base.licence


def test_own_weights_are_used_where_they_lie(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    base = wanted(model__weights=str(tmp_path / "model.pt"))["base"]
    assert (base.kind, base.source, list(base.files)) == ("folder", str(tmp_path), ["model.pt"])


def test_a_folder_of_own_weights_stands_for_the_one_file_in_it(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "lineage.json").write_text("{}")
    assert list(wanted(model__weights=str(tmp_path))["base"].files) == ["model.safetensors"]
    (tmp_path / "base.safetensors").write_bytes(b"")
    with pytest.raises(Stop, match=r"2 weight files \(base.safetensors, model.safetensors\)") as stop:
        wanted(model__weights=str(tmp_path))
    assert "name the file" in stop.value.command


def test_one_of_several_weight_files_is_the_one_that_is_named(tmp_path):
    for name in ("base.safetensors", "tuned.safetensors"):
        (tmp_path / name).write_bytes(b"")
    base = wanted(model__weights=str(tmp_path / "tuned.safetensors"))["base"]
    assert (base.source, list(base.files)) == (str(tmp_path), ["tuned.safetensors"])


def test_every_scene_needs_its_photographs_and_may_have_depth():
    archives = wanted(data__scenes=["facade", "electro"])["scenes"].archives
    required = [archive.name for archive in archives if archive.required]
    assert required == ["facade_dslr_undistorted.7z", "electro_dslr_undistorted.7z", "courtyard_dslr_undistorted.7z"]
    sizes = {archive.name: archive.size_bytes for archive in archives if archive.size_bytes}
    assert sizes == {"facade_dslr_depth.7z": 804_000_000, "electro_dslr_depth.7z": 656_000_000}


def test_own_scenes_and_region_masks_are_used_in_place():
    found = wanted(data__root="here", data__region_masks="windows")
    assert (found["scenes"].kind, found["scenes"].source, found["scenes"].archives) == ("folder", "here", ())
    assert (found["regions"].kind, found["regions"].source) == ("folder", "windows")
    assert "regions" not in wanted()


def test_photographs_behind_a_link_and_the_scale_beside_the_scenes_are_data(tmp_path):
    """`**` does not enter a link, and what says that depth is in millimetres must make step 3 stale when it changes."""
    (tmp_path / "root" / "yard" / "sparse").mkdir(parents=True)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for file in ("root/yard/sparse/cameras.txt", "photos/a.jpg", "photos/sub/b.jpg", "root/other.txt"):
        (tmp_path / file).write_bytes(b"")
    (tmp_path / "root" / "yard" / "images").symlink_to(tmp_path / "photos")
    data = {"data__root": str(tmp_path / "root"), "data__scenes": ["yard"], "data__val_scenes": []}
    found = ["yard/images/a.jpg", "yard/images/sub/b.jpg", "yard/sparse/cameras.txt"]
    assert listing(tmp_path / "root", wanted(**data)["scenes"].files) == found
    (tmp_path / "root" / "summary.json").write_text("{}")
    assert listing(tmp_path / "root", wanted(**data)["scenes"].files) == ["summary.json", *found]
