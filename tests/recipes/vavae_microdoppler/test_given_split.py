"""step 2 --import and data.split: somebody's split is followed, and what leaks in it is counted and not trained on."""

import json

import pytest

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.core.run import Damaged
from lib.data import split as splitting
from lib.recipes.vavae_microdoppler import adopt as adopting
from lib.recipes.vavae_microdoppler import data, given_split, membership
from tests.recipes.vavae_microdoppler.test_data import NOTHING, configured, folders, picture


def guides(path, root, held):
    """The guide's dataset_split.json: absolute paths of another machine, by user; held(file) says which are in val."""
    found = {"train": {}, "val": {}, "test": {}, "statistics": {"random_seed": 42}}
    for file in sorted(root.rglob("*.png")):
        listed = found["val" if held(file) else "train"].setdefault(file.parent.name, [])
        listed.append(f"/kaggle/input/micro-doppler-data/{file.relative_to(root)}")
    path.write_text(json.dumps(found))
    return path


def imported(root, file, out, **settings):
    return adopting.adopt(configured(**settings), Foreign(file, out, lambda: {"data": root}, dict))


def prepared(root, split, out, **settings):
    config = configured(split=str(split), **settings)
    records = list(data.prepare(config, {"data": root, "split": split.parent}, out))
    proof = splitting.apply(records, membership.split(config, records, out), 42, config.eval.select_share)
    return records, proof, data.summarise_data(config, records)


def test_a_random_split_is_imported_with_its_leaks_counted_and_left_out(tmp_path):
    root = folders(tmp_path / "in")  # 3 users, 4 recordings of 2 windows each
    file = guides(tmp_path / "dataset_split.json", root, lambda f: f.stem in ("rec00_w0", "rec01_w0", "rec01_w1"))
    said, settings = imported(root, file, tmp_path / "imported")
    assert "15 images to train on, 9 held out" in said
    assert "leaks: 3 of 12 recordings lie on both sides, with 3 images to train on, which are left out here" in said
    written = tmp_path / "imported" / "split.json"
    assert settings == f"data.split={written}" and "ID_1/rec00_w0.png" in json.loads(written.read_text())["val"]
    records, proof, summary = prepared(root, written, tmp_path / "out")
    sides = {r.sample_id.removeprefix("ID_1/"): r.split for r in records if r.sample_id.startswith("ID_1/")}
    assert {name for name, side in sides.items() if side == "test"} >= {"rec00_w0.png", "rec01_w0.png", "rec01_w1.png"}
    leaked = [r for r in records if r.reason == given_split.LEAK]
    assert sorted(r.sample_id for r in leaked) == [f"ID_{n}/rec00_w1.png" for n in (1, 10, 2)]
    assert proof["overlap"] == NOTHING and proof["groups"]["select"]
    assert summary["left out, as data.split holds out what is like them"] == 3
    assert summary["images"]["test"] == 9


def test_where_every_recording_leaks_nothing_is_left_and_the_sentence_counts(tmp_path):
    root = folders(tmp_path / "in")
    file = guides(tmp_path / "dataset_split.json", root, lambda f: f.stem.endswith("w0"))
    with pytest.raises(Stop, match=r"nothing to train on: 12 of 12 recordings lie on both sides, with 12 images"):
        prepared(root, file, tmp_path / "out")


def test_where_names_tell_no_recording_neighbours_of_a_held_out_image_are_left_out(tmp_path):
    root = tmp_path / "in"
    for number in range(20):
        picture(root / "a" / f"{number}.png", number)
    file = guides(tmp_path / "dataset_split.json", root, lambda f: f.stem in ("5", "6"))
    said, _ = imported(root, file, tmp_path / "imported", gap_images=2)
    assert "0 of 20 recordings" in said and "the names of 20 images tell no recording, so the 2 neighbours" in said
    records, _, _ = prepared(root, file, tmp_path / "out", gap_images=2)
    near = sorted(int(r.sample_id[2:-4]) for r in records if r.reason == given_split.NEAR)
    assert near == [3, 4, 7, 8] and [r.sample_id for r in records if r.split == "test"] == ["a/5.png", "a/6.png"]


def test_images_that_the_split_does_not_name_are_on_neither_side(tmp_path):
    root = folders(tmp_path / "in", users=("x",))
    file = guides(tmp_path / "dataset_split.json", root, lambda f: f.stem.startswith("rec00"))
    picture(root / "x" / "rec09_w0.png", 77)
    records, _, _ = prepared(root, file, tmp_path / "out")
    assert [r.sample_id for r in records if r.reason == given_split.UNNAMED] == ["x/rec09_w0.png"]


def test_a_file_that_both_sides_mean_is_refused():
    """Numbered anew on each side, and put into one folder since: the last one named would have decided."""
    listed = {"old/train/ID_1/001.png": given_split.TRAINED, "old/val/ID_1/001.png": given_split.HELD}
    with pytest.raises(Stop, match=r"two paths that end as ID_1/001\.png does, one to train on and one held out"):
        given_split.match(listed, ["ID_1/001.png"])
    apart = ["train/ID_1/001.png", "val/ID_1/001.png"]
    assert given_split.match(listed, apart)[0] == dict(zip(apart, listed.values(), strict=True))


@pytest.mark.parametrize(("content", "said"), [
    ("{", "it is not JSON"),
    ("[]", "'train' is no list of paths"),
    ('{"train": {"a": "b"}}', "'train' is no list of paths"),
    ('{"train": ["a/1.png"]}', "none to hold out"),
    ('{"train": ["a/1.png", "a/2.png"], "val": ["a/1.png", "a/3.png"]}', r"1 image on both sides, e\.g\. a/1\.png"),
    ('{"train": ["b/1.png"], "val": ["b/2.png"]}', "none of the 2 images of x.json is in"),
])  # fmt: skip
def test_what_is_no_split_of_these_images_ends_in_a_sentence(tmp_path, content, said):
    picture(tmp_path / "in" / "a" / "1.png", 1)
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(Stop, match=said):
        imported(tmp_path / "in", tmp_path / "x.json", tmp_path)
    with pytest.raises(Stop, match="is nothing that this recipe imports"):
        imported(tmp_path / "in", tmp_path / "x.txt", tmp_path)


def test_a_split_that_is_another_than_step_2_found_is_refused(tmp_path, changed_since):
    (tmp_path / "x.json").write_text('{"train": ["a/1.png"], "val": ["a/2.png"]}')
    changed_since(tmp_path, "x.json")
    with pytest.raises(Damaged, match="does not hold what was written"):
        given_split.read(tmp_path / "x.json")
