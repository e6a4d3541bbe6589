"""Rows carry detections as numbers; what comes out is the precision of the whole set."""

import json

import numpy as np
import pytest

from lib.core.records import Row, Stage
from lib.recipes.llava_map import evaluate, metrics
from lib.recipes.llava_map.classes import CLASSES

STAGE2 = Stage("stage2", 1)


def straight(x_m: float) -> np.ndarray:
    return np.array([[x_m, -30.0], [x_m, 30.0]])


def frames(count: int) -> dict:
    lines = [straight(-6.0), straight(0.0), straight(6.0)]
    labels = np.array([2, 0, 2])
    names = [f"scene-{i}/frame{i}" for i in range(count)]
    places = [{"location": f"town-{i % 2}", "night": str(int(i > 1)), "rain": "0"} for i in range(count)]
    found = {"sample_id": names, "group": names, "folder": names, "labels": [labels] * count, "lines": [lines] * count}
    return found | {"place": places, "ablated": [True] * count}


def outputs(points: int, shift_m: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Three queries on the three lines, sure of their class, and one on nothing."""
    logits = np.full((4, len(CLASSES)), -9.0)
    logits[0, 2], logits[1, 0], logits[2, 2] = 3.0, 2.0, 1.0
    ahead_m = np.linspace(-30, 30, points)
    return logits, np.stack(
        [np.stack([np.full(points, x_m + shift_m), ahead_m], axis=1) for x_m in (-6.0, 0.0, 6.0, 13.0)]
    )


def rows(config, shifts: list[float]) -> list:
    batch = frames(len(shifts))
    return [evaluate.row(config, batch, i, *outputs(config.model.points, shift)) for i, shift in enumerate(shifts)]


def test_right_predictions_score_one_for_the_classes_that_are_there(config):
    found = evaluate.summarise(config, STAGE2, rows(config, [0.0, 0.0]))
    assert found["AP_divider"] == found["AP_boundary"] == 1 and found["AP_ped_crossing"] == 0
    assert found["mAP"] == pytest.approx(2 / 3) == found["mAP_guide"]


def test_packed_rows_give_the_same_precision_as_the_detections_themselves(config):
    shifts = [0.0, 0.7, 1.2]
    batch = frames(3)
    hits, scores = [], []
    for shift in shifts:
        kept, labels, lines = metrics.best_pairs(*outputs(config.model.points, shift), config.eval.detections)
        mine = labels == 2
        scores.append(kept[mine])
        truth = [batch["lines"][0][0], batch["lines"][0][2]]
        hits.append(metrics.hits(metrics.similarity(list(lines[mine]), truth), kept[mine]))
    wanted = metrics.average_precision(metrics.Detections(np.concatenate(scores), np.concatenate(hits), 6))
    found = evaluate.summarise(config, STAGE2, rows(config, shifts))
    assert [found[f"AP_boundary_{threshold}m"] for threshold in metrics.THRESHOLDS_M] == pytest.approx(wanted.tolist())


def test_numbers_survive_a_file(config):
    """Step 5 writes rows down and reads them back when it was paused: arrays are lost, numbers are not."""
    kept = rows(config, [0.7])
    again = [Row(row.sample_id, row.group, json.loads(json.dumps(row.numbers))) for row in kept]
    assert evaluate.summarise(config, STAGE2, again) == evaluate.summarise(config, STAGE2, kept)


def test_the_submission_scores_what_step_5_scored(config, tmp_path):
    found = rows(config, [0.0, 0.7])
    evaluate.write_submission(found, tmp_path / "submission.json")
    submitted = json.loads((tmp_path / "submission.json").read_text())
    assert list(submitted) == ["frame0", "frame1"]
    by_class = []
    for label, name in enumerate(CLASSES):
        hits, scores, truths = [], [], 0
        for frame in submitted.values():
            mine = [line for line in frame if line["class"] == name]
            truth = [line for line, other in zip(frames(1)["lines"][0], (2, 0, 2), strict=True) if other == label]
            scores.append(np.array([line["score"] for line in mine]))
            hits.append(metrics.hits(metrics.similarity([np.array(line["pts"]) for line in mine], truth), scores[-1]))
            truths += len(truth)
        by_class.append(metrics.Detections(np.concatenate(scores), np.concatenate(hits), truths))
    wanted = evaluate.summarise(config, STAGE2, found)
    assert metrics.table(by_class) == pytest.approx({name: wanted[name] for name in metrics.table(by_class)})


def test_every_row_has_the_same_numbers(config):
    """per_sample.csv is a table."""
    full, empty = frames(1), frames(1)
    empty["labels"], empty["lines"] = [np.zeros(0, np.int64)], [[]]
    one, other = (evaluate.row(config, batch, 0, *outputs(config.model.points)) for batch in (full, empty))
    assert one.numbers.keys() == other.numbers.keys()


def test_a_group_drawn_twice_counts_twice(config):
    one, other = rows(config, [0.0, 1.2])
    assert (
        evaluate.summarise(config, STAGE2, [one, one, other])["mAP"]
        > evaluate.summarise(config, STAGE2, [one, other])["mAP"]
    )


def test_guides_variant_drops_low_scores(config):
    config.eval.guide_threshold = 0.9
    found = evaluate.summarise(config, STAGE2, rows(config, [0.0]))
    # one of two boundaries is above 0.9, and no divider
    assert found["AP_divider"] == 1 and found["mAP_guide"] == pytest.approx(1 / 6)


def test_trivial_predictor_is_the_same_road_for_every_frame(config):
    found = evaluate.score_batch(config, STAGE2, None, frames(2))
    assert found[0].numbers == found[1].numbers and found[0].numbers["score_00"] > 0.9


def test_every_measure_is_summarised_and_the_first_is_the_main_one(config):
    names = list(evaluate.measures(config, STAGE2))
    assert names[0] == "mAP" and set(names) == set(evaluate.summarise(config, STAGE2, rows(config, [0.0])))


def test_few_scenes_are_described_without_an_interval(config):
    one = rows(config, [0.0])
    numbers = evaluate.summarise(config, STAGE2, one)
    cells = {"base": 0.0, "adapted": 0.5, "trivial": None, "difference": 0.5, "low": None, "high": None}
    scores = {"n_samples": 1, "n_groups": 1, "metrics": dict.fromkeys(numbers, cells)}
    assert "+0.500, no interval: too few scenes" in evaluate.describe(config, STAGE2, scores, one, one)
    scores["metrics"]["mAP"] = cells | {"low": 0.1, "high": 0.9}
    assert "95 % interval [+0.100, +0.900]" in evaluate.describe(config, STAGE2, scores, one, one)


def test_map_is_split_by_location_night_and_rain(config):
    found = {tag: (count, value) for tag, count, value in evaluate.by_tag(config, rows(config, [0.0, 3.0, 3.0]))}
    assert {tag: count for tag, (count, _) in found.items()} == {
        "town-0": 2,
        "town-1": 1,
        "day": 2,
        "night": 1,
        "dry": 3,
    }
    assert found["town-1"][1] == found["night"][1] == 0 and found["day"][1] > 0.1
    whole = evaluate.summarise(config, STAGE2, rows(config, [0.0, 3.0, 3.0]))["mAP"]
    assert found["dry"][1] == pytest.approx(whole)


def test_a_fourth_class_is_measured_where_it_is_mapped(config):
    config.data.centreline = True
    batch = frames(1)
    batch["labels"] = [np.array([2, 3, 2])]  # the line in the middle is a centre line
    logits, lines = outputs(config.model.points)
    logits = np.column_stack([logits[:, [1, 1, 2]], logits[:, 0]])
    found = evaluate.summarise(config, STAGE2, [evaluate.row(config, batch, 0, logits, lines)])
    assert found["AP_centreline"] == found["AP_boundary"] == 1 and found["mAP"] == pytest.approx(2 / 4)
    assert set(found) == set(evaluate.measures(config, STAGE2))
    assert "centre lines" in config.prompt and config.prompt.startswith(config.model.prompt)
    assert evaluate.straight_road(config)[0].argmax(1).tolist() == [0, 2, 2, 3, 3]


def test_the_larger_region_has_its_own_thresholds(config):
    config.data.region = "100x50"
    found = evaluate.summarise(config, STAGE2, rows(config, [1.7, 1.7]))
    # Chamfer distance 1.7 m: beyond 1.0 and 1.5 m, within 2.0 m
    assert [found[f"AP_divider_{threshold}m"] for threshold in (1.0, 1.5, 2.0)] == [0, 0, 1]
    assert set(found) <= set(evaluate.measures(config, STAGE2)) and "AP_divider_0.5m" not in found
    assert evaluate.straight_road(config)[1][..., 1].max() == 50


def test_lines_are_compared_on_as_many_points_as_is_said(config):
    rough = [np.array([[0.0, -30], [0.4, 0], [0.0, 30]])]
    hundred, more = (metrics.similarity([straight(0.0)], rough, points)[0, 0] for points in (100, 200))
    config.eval.compared_points = 200
    truth = [(0, rough[0])]
    assert 0 < abs(hundred - more) < 0.02
    packed = evaluate.packed(config, np.ones(1), np.zeros(1, int), straight(0.0)[None], truth, 1)
    assert packed["kind_00"] == 7  # within 0.5, 1.0 and 1.5 m


def test_an_ablation_is_scored_beside_the_network_and_changes_nothing_of_it(config, monkeypatch):
    from lib.core.records import Parts
    from lib.recipes.llava_map import ablations

    batch, asked = frames(2), []

    def network_outputs(config, parts, batch):
        asked.append(sorted(parts.modules))
        return [outputs(config.model.points, 0.0 if "llm" in parts.modules else 3.0)] * 2

    monkeypatch.setattr(evaluate, "network_outputs", network_outputs)
    monkeypatch.setitem(ablations.TAKEN, "mAP_other_pictures", lambda modules, batch: (modules, batch))
    monkeypatch.setitem(ablations.TAKEN, "mAP_shuffled_prompt", lambda modules, batch: (modules, batch))
    plain = evaluate.score_batch(config, STAGE2, Parts({"llm": 1, "prompt": 2}), batch)
    config.eval.ablations = True
    ablated = evaluate.score_batch(config, STAGE2, Parts({"llm": 1, "prompt": 2}), batch)
    assert asked == [["llm", "prompt"]] * 4 + [["prompt"]]
    before, after = (evaluate.summarise(config, STAGE2, found) for found in (plain, ablated))
    assert {name: after[name] for name in before} == before
    assert after["mAP_other_pictures"] == before["mAP"] > 0.5 and after["mAP_past_llm"] == 0
    assert set(after) <= set(evaluate.measures(config, STAGE2))
    batch["ablated"] = [False] * 2  # while a checkpoint is chosen
    assert evaluate.summarise(config, STAGE2, evaluate.score_batch(
        config, STAGE2, Parts({"llm": 1, "prompt": 2}), batch)) == before  # fmt: skip
