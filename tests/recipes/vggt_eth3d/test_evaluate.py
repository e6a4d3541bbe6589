"""Rows, their summary and the printed table, from scenes whose perfect prediction is known."""

import math
import re
from pathlib import Path

import pytest
import torch

from lib import recipes
from lib.core.config import from_dotted
from lib.core.contract import main_measure
from lib.core.records import Manifest, Record, Row
from lib.recipes.vggt_eth3d import assemble
from lib.recipes.vggt_eth3d.config import PRESETS, Config
from lib.recipes.vggt_eth3d.evaluate import base_limits, score_batch
from lib.scenes import evaluate, geometry, points
from tests.scenes.conftest import STAGE, UNKNOWN

CONFIG = from_dotted(Config, PRESETS["strategy_b"])
HEIGHT, WIDTH = 28, 42
NAN = float("nan")


def truth(frames: int, region: bool = False) -> dict:
    """A batch of one sequence: bumpy depth, cameras that turn and move."""
    draw = torch.Generator().manual_seed(frames)
    angles = torch.arange(frames) * 0.1
    zero, one = torch.zeros(frames), torch.ones(frames)
    turned = [angles.cos(), zero, angles.sin(), zero, one, zero, -angles.sin(), zero, angles.cos()]
    rotation = torch.stack(turned, -1).view(frames, 3, 3)
    translation = torch.rand(frames, 3, 1, generator=draw)
    depths = 2 + torch.rand(1, frames, HEIGHT, WIDTH, generator=draw) * 3
    batch = {
        "sample_id": ["yard/a+b"],
        "group": ["yard"],
        "images": torch.rand(1, frames, 3, HEIGHT, WIDTH, generator=draw),
        "depths": depths,
        "valid": depths < 4.5,
        "extrinsics": torch.cat([rotation, translation], -1)[None],
        "intrinsics": torch.tensor([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]]).expand(1, frames, 3, 3),
    }
    return batch | ({"region": depths > 3} if region else {})


def perfect(batch: dict, units_per_metre: float) -> dict:
    """What a network would answer that is never wrong, in its own unit."""
    cameras = geometry.relative_cameras(batch["extrinsics"], torch.tensor([1 / units_per_metre]))
    code = geometry.encode_cameras(cameras, batch["intrinsics"], HEIGHT, WIDTH)
    return {
        "depth": batch["depths"][..., None] * units_per_metre,
        "depth_conf": 1 + torch.ones_like(batch["depths"]),
        "pose_enc": code,
    }


def scored(monkeypatch, batch: dict, predicted: dict, stage=STAGE):
    monkeypatch.setattr(assemble, "forward", lambda config, parts, batch: predicted)
    [row] = score_batch(CONFIG, stage, object(), batch)
    return row


@pytest.mark.parametrize("autocast", [False, True])
def test_a_perfect_prediction_of_another_scale_scores_zero(monkeypatch, autocast):
    batch = truth(3, region=True)
    predicted = perfect(batch, 0.31)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        numbers = scored(monkeypatch, batch, predicted).numbers
    zero = ("mae", "rmse", "abs_rel", "mae_frame_median", "mae_frame_line", "mae_region", "mae_outside")
    for name in (*zero, "chamfer", "accuracy", "completeness", "fov_error"):
        assert numbers[name] == pytest.approx(0, abs=2e-5), name
    assert all(numbers[name] == 1 for name in ("delta_103", "delta_1", "pose_auc_3", "pose_auc_30"))
    assert numbers["confidence"] == 2


def test_every_number_of_a_row_has_a_unit_and_a_direction_except_the_confidence(monkeypatch):
    batch = truth(2, region=True)
    numbers = scored(monkeypatch, batch, perfect(batch, 1.0)).numbers
    measures = evaluate.measures(CONFIG, STAGE)
    assert numbers.keys() - measures.keys() == {"frames", "confidence"}
    assert not measures.keys() - numbers.keys()


def test_the_best_checkpoint_has_the_lowest_error_in_metres_where_they_are_known():
    for stage, expected in ((STAGE, ("mae", "m", True)), (UNKNOWN, ("abs_rel", "", True))):
        name, metric = main_measure(recipes.load("vggt_eth3d"), CONFIG, stage)
        assert (name, metric.unit, metric.lower_is_better) == expected
    assert "m" in {metric.unit for metric in evaluate.measures(CONFIG, STAGE).values()}
    assert "m" not in {metric.unit for metric in evaluate.measures(CONFIG, UNKNOWN).values()}
    assert evaluate.measures(CONFIG, STAGE).keys() == evaluate.measures(CONFIG, UNKNOWN).keys()


def scaled(batch: dict, factor: float) -> dict:
    cameras = batch["extrinsics"].clone()
    cameras[..., 3] *= factor
    return batch | {"depths": batch["depths"] * factor, "extrinsics": cameras}


@pytest.mark.parametrize("factor", [2.0**-20, 128, 2.0**20])  # powers of two round nothing: no pixel crosses a limit
def test_in_an_unknown_unit_no_score_depends_on_it(monkeypatch, factor):
    batch = truth(3, region=True)
    predicted = perfect(batch, 0.31)
    predicted["depth"] = predicted["depth"] * (1 + 0.3 * torch.rand(predicted["depth"].shape))
    predicted["pose_enc"][0, 1, :3] += 0.2
    one, other = (scored(monkeypatch, each, predicted, UNKNOWN).numbers for each in (batch, scaled(batch, factor)))
    assert other == pytest.approx(one, rel=1e-9, nan_ok=True) and one["mae"] > 0.01
    metres = scored(monkeypatch, scaled(batch, factor), predicted).numbers
    assert metres["mae"] == pytest.approx(factor * scored(monkeypatch, batch, predicted).numbers["mae"], rel=1e-3)


def test_wrong_cameras_move_points_and_not_depth(monkeypatch):
    batch = truth(3)
    predicted = perfect(batch, 1.0)
    predicted["pose_enc"][0, 1, :3] += 1
    numbers = scored(monkeypatch, batch, predicted).numbers
    assert numbers["mae"] < 1e-5 and numbers["chamfer"] > 0.02 and numbers["pose_auc_30"] < 1


def test_what_only_chooses_has_the_same_numbers_without_points(monkeypatch):
    batch = truth(3, region=True)
    predicted = perfect(batch, 2.0)
    whole = scored(monkeypatch, batch, predicted).numbers
    chooses = scored(monkeypatch, batch | {"chooses": torch.tensor([True])}, predicted).numbers
    assert whole.keys() - chooses.keys() == points.MEASURES.keys()
    assert all(chooses[name] == pytest.approx(whole[name], nan_ok=True, abs=0) for name in chooses)


def test_a_single_frame_has_points_and_no_pairs(monkeypatch):
    batch = truth(1)
    numbers = scored(monkeypatch, batch, perfect(batch, 2.0)).numbers
    assert math.isnan(numbers["pose_auc_30"]) and numbers["chamfer"] == pytest.approx(0, abs=1e-5)


def test_the_trivial_predictor_has_depth_and_nothing_else():
    [row] = score_batch(CONFIG, STAGE, None, truth(2, region=True))
    assert {"mae", "mae_region"} <= row.numbers.keys() and not {"pose_auc_30", "chamfer", "ause"} & row.numbers.keys()
    assert row.numbers["mae"] > 0.3


def test_the_summary_leaves_out_what_has_no_meaning(recwarn):
    numbers = [
        {"frames": 1.0, "mae": 1.0, "pose_auc_30": NAN, "mae_region": NAN},
        {"frames": 2.0, "mae": 3.0, "pose_auc_30": 0.5, "mae_region": NAN},
    ]
    rows = [Row(str(number), "yard", of_one) for number, of_one in enumerate(numbers)]
    found = evaluate.summarise(CONFIG, STAGE, rows)
    assert found == pytest.approx({"mae": 2, "pose_auc_30": 0.5, "mae_region": NAN}, nan_ok=True) and not recwarn


def test_the_table_shows_every_block_that_was_scored(monkeypatch):
    batches = [truth(n, region=True) for n in (1, 2)]
    rows = [scored(monkeypatch, batch, perfect(batch, 0.5)) for batch in batches]
    rows[1].group = "hall"
    text = evaluate.describe(CONFIG, STAGE, scores_of("mae", "better"), rows, rows)
    blocks = ("MAE:", "δ < 1.03:", "AUC@30°:      1.0000", "Point map after Umeyama (m):", "Chamfer:", "AUSE:")
    for said in (*blocks, "MAE inside:", "  yard:", "  hall:", "  2 frames:", "adapted 0.3000 (-25.0 %)"):
        assert said in text, said


def scores_of(main: str, verdict: str = "", **changed) -> dict:
    """What step 5 hands over of a run with two samples of two scenes."""
    metric = {"base": 0.4, "adapted": 0.3, "trivial": 1.0, "difference": -0.1, "low": -0.2, "high": -0.05}
    metrics = {main: metric | {"verdict": verdict} | changed}
    return {"n_samples": 2, "n_groups": 2, "resampled": "samples", "main": {"metric": main}, "metrics": metrics}


def test_in_an_unknown_unit_nothing_is_said_in_metres(monkeypatch):
    batches = [truth(n, region=True) for n in (1, 2)]
    rows = [scored(monkeypatch, batch, perfect(batch, 0.5), UNKNOWN) for batch in batches]
    lines = evaluate.describe(CONFIG, UNKNOWN, scores_of("abs_rel", "better"), rows, rows).splitlines()
    assert "median depths" in lines[0] and lines[2].startswith("  Abs Rel:")
    assert "Abs Rel by sequence length:" in lines and lines[-1].startswith("Depth Abs Rel: base 0.4000")
    assert not [line for line in lines if re.search(r"(\d|\(|in) ?m\b", line)]


def test_a_base_without_an_error_has_no_relative_change():
    assert "%)" not in evaluate.verdict(scores_of("mae", base=0.0, low=0.1, high=0.2), "MAE")


@pytest.mark.parametrize("low", [None, NAN])
def test_without_an_interval_there_is_no_verdict(low):
    said = evaluate.verdict(scores_of("mae", low=low, high=low), "MAE")
    assert "no verdict (2 scenes, and sequences over the same photos are not independent samples)" in said


@pytest.mark.parametrize("changed, scene, depth, known", [
    ({}, "courtyard", "map", True), ({"model.weights": "facebook/VGGT-1B-Commercial"}, "facade", "scans", True),
    ({"model.weights": "my/model.safetensors"}, "courtyard", "map", False), ({}, "my_street", "map", False),
    ({}, "courtyard", "points", False),
])  # fmt: skip
def test_the_base_is_known_for_published_weights_on_eth3d_with_dense_depth(changed, scene, depth, known):
    config = from_dotted(Config, PRESETS["strategy_b"] | changed)
    held_out = Record(f"{scene}/DSC_1", scene, "", "", split="test", columns={"depth": depth})
    other = Record("yard/x", "yard", "", "", split="train", columns={"depth": "points"})
    chooses = Record("electro/x", "electro", "", "", split="select", columns={"depth": "scans"})
    found = base_limits(config, STAGE, Manifest([held_out, other, chooses], Path()))
    assert found == ({"abs_rel": 0.08} if known else {})
    # Without scenes to choose by, the base is asked about those that train.
    assert base_limits(config, STAGE, Manifest([held_out, other], Path())) == {}
