import copy
import json
import shutil

import numpy as np
import pytest
import torch

from lib.core.errors import Stop
from lib.core.order import Key
from lib.core.records import Manifest
from lib.core.run import Damaged
from lib.recipes.vggt_eth3d import assemble
from lib.scenes.data import prepare
from lib.scenes.samples import collate, middle, open_scenes, sampler
from tests.scenes.conftest import STAGE


@pytest.fixture(scope="module")
def prepared(rendered, settings, tmp_path_factory):
    """The two streets as a manifest: linden trains, harbour is held out."""
    out = tmp_path_factory.mktemp("arrays")
    records = list(prepare(settings(), {"scenes": rendered}, out))
    for record in records:
        record.split = "test" if record.group == "harbour" else "train"
    return Manifest(records, out)


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_sample_is_a_function_of_its_key(prepared, settings):
    draw = sampler(settings(data__colour_jitter=0.5), STAGE, prepared, "train").draw
    again = sampler(settings(data__colour_jitter=0.5), STAGE, prepared, "train").draw
    assert equal(draw(3, Key(1, 0, 3)), again(3, Key(1, 0, 3)))
    drawn = {draw(index, Key(1, epoch, index))["sample_id"] for epoch in range(3) for index in range(8)}
    assert len(drawn) > 8


def test_samples_repeat_after_the_distinct_epochs(prepared, settings):
    draw = sampler(settings(data__distinct_epochs=2), STAGE, prepared, "train").draw
    epochs = [[draw(i, Key(1, epoch, i))["sample_id"] for i in range(8)] for epoch in range(4)]
    assert epochs[0] == epochs[2] and epochs[1] == epochs[3] and epochs[0] != epochs[1]


def test_frames_see_their_anchor_within_the_range(prepared, settings):
    scene = open_scenes(prepared, "train")[0]
    low, high = 0.6, 0.9
    draw = sampler(settings(data__covisibility=[low, high]), STAGE, prepared, "train").draw
    for index in range(30):
        rows = [scene.views.index(unit.partition("/")[2]) for unit in draw(index, Key(1, 0, index))["units"]]
        assert len(set(rows)) == 3
        shares = scene.covisibility[np.ix_(rows, rows)] + np.eye(3) * low
        assert ((shares >= low) & (shares <= high)).all(1).any()  # some frame sees all the others: the anchor


def test_every_view_is_a_reference_now_and_then(prepared, settings):
    draw = sampler(settings(), STAGE, prepared, "train").draw
    assert len({draw(i, Key(1, 0, i))["units"][0] for i in range(80)}) == 6


def test_number_of_frames_spans_its_range(prepared, settings):
    config = settings(data__frames=[2, 4], train__micro_batch=1)
    draw = sampler(config, STAGE, prepared, "train").draw
    assert {len(draw(i, Key(1, 0, i))["images"]) for i in range(40)} == {2, 3, 4}


def test_views_without_covisible_partners_are_refused(prepared, settings):
    with pytest.raises(Stop, match="no training view has 2 partners with a covisibility in"):
        sampler(settings(data__covisibility=[0.0, 0.001]), STAGE, prepared, "train")


def test_sample_holds_arrays_of_the_promised_shapes_and_ranges(prepared, settings):
    sample = sampler(settings(), STAGE, prepared, "train").draw(0, Key(1, 0, 0))
    shapes = {name: value.shape for name, value in sample.items() if isinstance(value, np.ndarray)}
    assert shapes == {
        "images": (3, 3, 84, 126),
        "depths": (3, 84, 126),
        "valid": (3, 84, 126),
        "extrinsics": (3, 3, 4),
        "intrinsics": (3, 3, 3),
    }
    assert 0 <= sample["images"].min() < 0.3 < 0.6 < sample["images"].max() <= 1
    np.testing.assert_array_equal(sample["valid"], sample["depths"] > 0)
    assert sample["intrinsics"][0, :2, 2].tolist() == [63, 42]


def test_frames_of_a_sample_agree_on_the_geometry(prepared, settings):
    """Depth of one frame, moved into another by the poses, must be the depth there wherever both see the surface."""
    sample = sampler(settings(), STAGE, prepared, "train").draw(0, Key(1, 0, 0))
    error, pixels = frames_agree(sample)
    assert pixels > 500 and error < 0.01


def test_held_out_sequences_are_fixed_disjoint_and_of_every_length(prepared, settings):
    test = sampler(settings(), STAGE, prepared, "test")
    samples = [test.draw(i, None) for i in range(test.length)]
    assert {sample["group"] for sample in samples} == {"harbour"}
    units = [sample["units"] for sample in samples]
    by_length = {length: [of_one for of_one in units if len(of_one) == length] for length in (1, 2, 4)}
    # Six views; 8 is longer than the scene.
    assert {length: len(found) for length, found in by_length.items()} == {1: 4, 2: 3, 4: 1}
    assert test.length == 8 and len({sample["sample_id"] for sample in samples}) == 8
    for found in by_length.values():
        used = [unit for sequence in found for unit in sequence]
        assert len(set(used)) == len(used)
    again = sampler(settings(), STAGE, prepared, "test")
    assert [sample["sample_id"] for sample in samples] == [again.draw(i, Key(9, 9, 9))["sample_id"] for i in range(8)]


def test_the_checkpoint_is_chosen_on_scenes_that_are_neither_trained_on_nor_tested(prepared, settings):
    records = [copy.copy(record) for record in prepared.records]
    for record in records:
        record.split = "select" if record.group == "linden" else "test"
    sides = Manifest(records, prepared.arrays)
    select, test = (sampler(settings(eval__select_samples=3), STAGE, sides, side) for side in ("select", "test"))
    assert (select.length, test.length) == (3, 8)
    groups = [{one.draw(i, None)["group"] for i in range(one.length)} for one in (select, test)]
    assert groups == [{"linden"}, {"harbour"}]
    assert ["chooses" in one.draw(0, None) for one in (select, test)] == [True, False]
    with pytest.raises(Stop, match="no usable image on the train side"):
        sampler(settings(), STAGE, sides, "train")


def test_held_out_scenes_that_are_shorter_than_every_length_are_refused(prepared, settings):
    config = settings(eval__lengths=[7, 8], data__stand_in_views=8)
    with pytest.raises(Stop, match="no scene of the test side has 7 views"):
        sampler(config, STAGE, prepared, "test")


def test_colour_jitter_changes_colours_of_each_frame_and_nothing_else(prepared, settings):
    plain, jittered = (
        sampler(settings(data__colour_jitter=strength), STAGE, prepared, "train").draw(0, Key(1, 0, 0))
        for strength in (0.0, 0.5)
    )
    change = np.abs(plain["images"] - jittered["images"]).mean((1, 2, 3))
    assert (change > 0.01).all() and len(set(change.round(4))) == 3
    del plain["images"], jittered["images"]
    assert plain.keys() == jittered.keys() and equal(plain, jittered)


def frames_agree(sample):
    """How far depth of one frame, moved into another by poses and intrinsics, is from the depth there.

    Returns the median relative difference, and of how many pixels it is.
    """
    (row, column), height, width = np.nonzero(sample["depths"][0]), *sample["depths"].shape[1:]
    rays = np.linalg.inv(sample["intrinsics"][0]) @ np.stack([column, row, np.ones(len(row))])
    cam = rays * sample["depths"][0][row, column]
    first, second = sample["extrinsics"][:2]
    there = second[:, :3] @ (first[:, :3].T @ (cam - first[:, 3:])) + second[:, 3:]
    u, v = np.rint((sample["intrinsics"][1] @ there)[:2] / there[2]).astype(int)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (there[2] > 0)
    ratio = sample["depths"][1][v[inside], u[inside]] / there[2, inside]
    seen = np.abs(ratio - 1) < 0.1
    return np.median(np.abs(ratio[seen] - 1)), seen.sum()


def test_crop_and_scale_keep_the_geometry(prepared, settings):
    plain, scaled = (
        sampler(settings(data__scale_jitter=strength), STAGE, prepared, "train").draw(2, Key(1, 0, 2))
        for strength in (0.0, 0.4)
    )
    larger = scaled["intrinsics"][:, 0, 0] / plain["intrinsics"][:, 0, 0]
    assert (larger >= 1).all() and larger.max() > 1.1 and larger.max() <= 1 / 0.6
    np.testing.assert_allclose(scaled["intrinsics"][:, 1, 1] / plain["intrinsics"][:, 1, 1], larger, rtol=1e-6)
    np.testing.assert_array_equal(scaled["intrinsics"][:, :2, 2], plain["intrinsics"][:, :2, 2])
    error, pixels = frames_agree(scaled)
    assert error < 0.01 and pixels > 300
    np.testing.assert_array_equal(scaled["valid"], scaled["depths"] > 0)
    assert equal(scaled, sampler(settings(data__scale_jitter=0.4), STAGE, prepared, "train").draw(2, Key(1, 0, 2)))


def test_scaled_pixels_show_what_their_rays_meet():
    """Red is the column, so that an enlarged image must show (u - c) * share + c."""
    column, row = np.meshgrid(np.arange(40.0), np.arange(30.0))
    image = (np.stack([column, row, 0 * row]) / 64).astype(np.float32)
    share = 0.8
    shown = middle(image, share) * 64
    np.testing.assert_allclose(shown[0, 3:-3, 3:-3], ((column - 20) * share + 20)[3:-3, 3:-3], atol=0.02)
    np.testing.assert_allclose(shown[1, 3:-3, 3:-3], ((row - 15) * share + 15)[3:-3, 3:-3], atol=0.02)


@pytest.mark.parametrize("augmentation", ["data__scale_jitter", "data__colour_jitter"])
def test_features_of_augmented_images_are_not_kept(settings, augmentation):
    assert assemble.frozen_features(settings(), None).refused == ""
    assert "augmentation" in assemble.frozen_features(settings(**{augmentation: 0.2}), None).refused


def alone(prepared, name, tmp_path):
    """The arrays with one view of a scene that shares nothing with the others."""
    arrays = shutil.copytree(prepared.arrays, tmp_path / "arrays")
    stored = json.loads((arrays / name / "scene.json").read_text())
    for i in range(6):
        stored["covisibility"][2][i] = stored["covisibility"][i][2] = float(i == 2)
    (arrays / name / "scene.json").write_text(json.dumps(stored))
    return Manifest(prepared.records, arrays)


def test_view_that_shares_nothing_is_named_and_never_drawn(prepared, settings, tmp_path, capsys):
    draw = sampler(settings(), STAGE, alone(prepared, "linden", tmp_path), "train").draw
    said = "1 training views share too little with every other one (data.covisibility): linden/DSC_0003"
    assert said in capsys.readouterr().out
    drawn = {unit for i in range(40) for unit in draw(i, Key(1, 0, i))["units"]}
    assert drawn == {f"linden/DSC_000{i}" for i in (1, 2, 4, 5, 6)}


def test_held_out_sequence_holds_no_view_that_shares_nothing(prepared, settings, tmp_path, capsys):
    test = sampler(settings(eval__lengths=[1, 2, 6]), STAGE, alone(prepared, "harbour", tmp_path), "test")
    sequences = [test.draw(i, None)["units"] for i in range(test.length)]
    assert all("harbour/DSC_0003" not in units for units in sequences if len(units) > 1)
    assert {len(units) for units in sequences} == {1, 2}
    assert "harbour: no sequence of 6 held-out views from DSC_0001, they share nothing" in capsys.readouterr().out


def test_batch_stacks_arrays_and_lists_names(prepared, settings):
    draw = sampler(settings(), STAGE, prepared, "train").draw
    batch = collate(settings(), STAGE, [draw(i, Key(1, 0, i)) for i in range(2)])
    assert batch["images"].shape == (2, 3, 3, 84, 126)
    assert batch["images"].dtype == torch.float32 and batch["valid"].dtype == torch.bool
    assert len(batch["sample_id"]) == 2 and len(batch["units"][1]) == 3


def test_empty_side_is_refused(settings, tmp_path):
    with pytest.raises(Stop, match="no usable image on the test side"):
        sampler(settings(), STAGE, Manifest([], tmp_path), "test")


@pytest.mark.parametrize("pattern", ["scene.json", "*.image.npy", "*.depth.npy"])
def test_a_scene_or_array_that_is_another_than_step_3_wrote_is_refused(prepared, settings, changed_since, pattern):
    changed_since(prepared.arrays, pattern)
    with pytest.raises(Damaged, match="does not hold what was written"):
        sampler(settings(), STAGE, prepared, "train").draw(0, Key(1, 0, 0))
