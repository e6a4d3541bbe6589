"""What a network and its ancestors were trained on travels with it; a start that has seen the test side is refused."""

import pytest

from lib.core.errors import Stop
from lib.core.records import Manifest, Record
from lib.core.run import read_json
from lib.network import lineage


def manifest(sides: dict[str, str], tmp_path) -> Manifest:
    """{group: side}; one file a group, named after it."""
    return Manifest([Record(f"{g}/1", g, "asset:x", g * 64, split=side) for g, side in sides.items()], tmp_path)


def test_training_and_select_sides_count_and_ancestors_are_added(tmp_path):
    older, newer = tmp_path / "older", tmp_path / "newer"
    lineage.of_run(manifest({"a": "train", "b": "select", "c": "test"}, tmp_path), "scene", []).write(older)
    lineage.of_run(manifest({"d": "train"}, tmp_path), "scene", [older]).write(newer)
    stored = read_json(newer / "lineage.json")
    assert stored == {"groups": {"scene": ["a", "b", "d"]}, "files": [g * 16 for g in "abd"]}


def test_a_start_that_has_seen_the_test_side_is_refused_by_group_and_by_file(tmp_path):
    older = tmp_path / "older"
    lineage.of_run(manifest({"a": "train"}, tmp_path), "scene", []).write(older)
    with pytest.raises(Stop, match=r"the checkpoint was trained on 1 scene and 1 file held out here \(a\)"):
        lineage.refuse_seen(manifest({"a": "test"}, tmp_path), "scene", older, "the checkpoint")
    renamed = manifest({"a": "test"}, tmp_path)
    renamed.records[0].group = "z"
    with pytest.raises(Stop, match=r"0 scenes and 1 file held out here \(a/1\)"):
        lineage.refuse_seen(renamed, "scene", older, "the checkpoint")
    lineage.refuse_seen(manifest({"b": "test", "a": "train"}, tmp_path), "scene", older, "the checkpoint")
    lineage.refuse_seen(manifest({"a": "test"}, tmp_path), "scene", tmp_path / "published", "the base")


def test_every_checkpoint_and_export_carries_it(step, prepared, folder):
    prepared("train.epochs=1", last=5)
    assert step(5, "--export", "adapter") == 0
    wanted = {"group": [f"g{i}" for i in (0, 1, 10, 2, 3, 4)]}
    for place in (*folder.glob("train/adapt/step-*"), folder / "export" / "adapter"):
        assert read_json(place / "lineage.json")["groups"] == wanted
