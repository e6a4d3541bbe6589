"""Boxes without keypoints, and drafts that nobody accepted: legal records that teach nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import Stop
from lib.core.order import Key
from lib.core.records import Manifest
from lib.data import split as splits
from lib.recipes.hamer import assemble, data, looks, samples
from lib.recipes.hamer.agreement import BONES
from tests.recipes.hamer.conftest import STAGE, flat_only

LABELS = ("keypoints_2d", "keypoints_3d", "hand_pose", "betas")


def boxes_only(*numbers: int):
    """For `folder`: these hands keep their box alone."""

    def edit(entries):
        flat_only(entries)
        for number in numbers:
            entries[number]["box"] = [40, 50, 100, 90]
            for name in LABELS:
                entries[number].pop(name, None)

    return edit


def drafts(entries):
    """For `folder`: the first hand is a draft."""
    entries[0]["draft"] = True


def divided(folder, edit, **settings) -> tuple:
    config, records = folder(edit, data__truth="2d", data__val_groups=["p3"], **settings)
    proof = splits.apply(records, data.split(config, records, Path()), 0)
    return config, records, proof


def test_a_box_without_keypoints_is_split_and_shown_and_teaches_nothing(folder, tmp_path):
    config, records, _ = divided(folder, boxes_only(0, 1))
    assert [record.status for record in records] == ["ok"] * 4 and records[0].split == "train"
    manifest = Manifest(records, tmp_path / "prepared")
    assert data.summarise_data(config, records)["boxes without labels"] == 2
    sampler = samples.sampler(config, STAGE, manifest, "train")
    assert sampler.length == 1 and sampler.draw(0, Key(0, 0, 0))["group"] == "p2"
    [stage] = assemble.stages(config, manifest)
    assert stage.steps == config.train.epochs  # one step an epoch: boxes are not counted


def test_boxes_alone_are_split_and_refused_only_by_the_training(folder, tmp_path):
    config, records, proof = divided(folder, boxes_only(0, 1, 2, 3))
    assert proof["groups"]["test"] == ["p3"]
    manifest = Manifest(records, tmp_path / "prepared")
    with pytest.raises(Stop, match="no hand of the training side has labels"):
        samples.sampler(config, STAGE, manifest, "train")
    with pytest.raises(Stop, match="no hand of the test side has keypoints in 2d"):
        samples.sampler(config, STAGE, manifest, "test")


def test_what_is_held_out_by_share_has_labels(folder):
    config, records = folder(boxes_only(0, 1), data__truth="2d")
    held = set()
    for config.train.seed in range(6):
        held.update(data.split(config, records, Path()).val_groups)
    assert held == {"p2", "p3"}


def test_labels_of_a_draft_are_not_used_and_its_box_is(folder, tmp_path):
    _, records = folder(drafts)
    manifest = Manifest(records, tmp_path / "prepared")
    draft, truth = records[:2]
    assert (draft.status, draft.columns["labelled"], truth.columns["labelled"]) == ("ok", 0, 1)
    assert "a draft that nobody accepted" in draft.columns["notes"]
    assert not samples.Shards(manifest.arrays).labels(draft).keypoints_2d.any()
    assert draft.columns["fit_3d_onto_2d"] == "" != truth.columns["fit_3d_onto_2d"]


def test_labels_are_drawn_over_the_kept_pixels(folder, tmp_path):
    """2D in colour, 3D in white on top where they agree, and a box without labels alone."""
    folder(boxes_only(3))
    drawn = sorted((tmp_path / "prepared" / "overlays").iterdir())
    assert [path.name[:15] for path in drawn] == [f"shard-00000-00{i}" for i in range(4)]
    labelled, box = (np.asarray(Image.open(drawn[i]), int) for i in (0, 3))
    assert abs(labelled - box).max(2).mean() > 3


def test_projected_joints_cover_the_2d_keypoints_they_belong_to():
    random = np.random.default_rng(0)
    joints = np.hstack([random.uniform(-0.08, 0.08, (21, 2)), random.uniform(0.5, 0.7, (21, 1)), np.ones((21, 1))])
    points = np.hstack([joints[:, :2] / joints[:, 2:3] * 500 + [60, 80], np.ones((21, 1))])
    for (a, b), (start, end) in zip(BONES, looks.projected_bones(points, joints), strict=True):
        np.testing.assert_allclose([start, end], points[[a, b], :2], atol=1e-6)
    joints[:, 3] = 0
    assert looks.projected_bones(points, joints) == []


def test_draft_that_is_neither_true_nor_false_is_a_fault(folder):
    def unclear(entries):
        entries[0]["draft"] = "no"

    _, records = folder(unclear)
    assert records[0].status == "skipped" and "draft is 'no' instead of true or false" in records[0].reason
