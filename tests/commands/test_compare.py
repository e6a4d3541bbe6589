"""Runs are ranked only where they were scored on the same held-out data."""

import csv
import json

import pytest

from lib.commands import compare
from lib.core.errors import Stop
from lib.core.run import append_line, existing, write_record
from lib.network import layers
from tests.evaluation.test_report import METRICS, change, make_run, stamp, write_csv


def add_run(root, name: str, adapted: float, trained: int = 10, **settings):
    run = make_run(root, name, **settings)
    main = METRICS["abs_rel"] | {
        "adapted": adapted,
        "difference": adapted - 0.2,
        "low": adapted - 0.22,
        "high": adapted - 0.18,
    }
    change(run.scores, metrics=METRICS | {"abs_rel": main})
    layers.write(run.stage("main"), [("net.a", 3 * trained, 0.1), ("net.b", 5, 0.1)])
    return run


def read(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_runs_are_ranked_by_the_main_metric(tmp_path):
    runs = [add_run(tmp_path, "r32", 0.16, 20), add_run(tmp_path, "r8", 0.18), add_run(tmp_path, "r16", 0.15)]
    text = compare.compare(runs, tmp_path / "runs")
    rows = read(tmp_path / "runs" / "comparison.csv")
    assert [(row["rank"], row["run"]) for row in rows] == [("1", "r16"), ("2", "r32"), ("3", "r8")]
    lines = text.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["r16", "r32", "r8"]
    assert (tmp_path / "runs" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert rows[1]["trainable"] == "65"  # 20 * 3 + 5
    assert (
        float(rows[1]["seconds"]) == 60 * 0.5
        and rows[1]["memory_bytes"] == "1500000060"
        and rows[1]["adapted_inliers"] == "0.61"
    )


def test_every_held_out_group_has_its_columns(tmp_path):
    run = add_run(tmp_path, "r8", 0.18)
    change(
        run.scores,
        by_group={"courtyard": {"n": 3, "base": 0.2, "adapted": 0.1}, "kitchen": {"n": 2, "base": 0.3, "adapted": 0.4}},
    )
    compare.compare([run], tmp_path / "runs")
    [row] = read(tmp_path / "runs" / "comparison.csv")
    assert (row["base_abs_rel_in_kitchen"], row["adapted_abs_rel_in_kitchen"], row["adapted_abs_rel_in_courtyard"]) == (
        "0.3",
        "0.4",
        "0.1",
    )


def test_a_metric_where_more_is_better_is_ranked_the_other_way(tmp_path):
    runs = [add_run(tmp_path, "low", 0.3), add_run(tmp_path, "high", 0.7)]
    for run in runs:
        change(run.scores, main={"metric": "abs_rel", "unit": "", "lower_is_better": False})
    compare.compare(runs, tmp_path / "runs")
    assert [row["run"] for row in read(tmp_path / "runs" / "comparison.csv")] == ["high", "low"]


def test_the_axes_of_a_sweep_become_columns(tmp_path):
    runs = [
        add_run(tmp_path, "r8", 0.18, **{"lora.rank": 8, "session.reserve_seconds": 1}),
        add_run(tmp_path, "r16", 0.15),
    ]
    compare.compare(runs, tmp_path / "runs")
    rows = {row["run"]: row for row in read(tmp_path / "runs" / "comparison.csv")}
    assert (rows["r8"]["lora.rank"], rows["r16"]["lora.rank"]) == ("8", "16")
    assert "train.lr" not in rows["r8"] and "session.reserve_seconds" not in rows["r8"]


def other_file(run):
    rows = read(run.manifest)
    rows[0]["sha256"] = "another picture"  # same name, same scene
    write_csv(run.manifest, rows[0].keys(), [row.values() for row in rows])


def other_samples(run):
    rows = read(run.scores.with_name("per_sample.csv"))[1:]
    write_csv(run.scores.with_name("per_sample.csv"), rows[0].keys(), [row.values() for row in rows])


def other_recipe(run):
    change(run.record, recipe="hamer")


def other_metric(run):
    change(run.scores, main={"metric": "inliers", "unit": "share", "lower_is_better": True})


def other_unit(run):
    change(run.scores, main={"metric": "abs_rel", "unit": "m", "lower_is_better": True})


def other_truth(run):
    change(run.record, config=existing(run.record)["config"] | {"data.depth_scale": 2.0})


def other_stage_before(run):
    change(run.scores, stands_on={"margin": {"name": "step-00000012", "sha256": "0123456789abcdef"}})


@pytest.mark.parametrize("alter, reason", [
    (other_stage_before, "the stage margin=step-00000012 (01234567), not None"),
    (other_file, "other held-out samples"), (other_samples, "other held-out samples"),
    (other_recipe, "recipe hamer, not vggt_eth3d"),
    (other_metric, "metric inliers, not abs_rel"), (other_unit, "in m, not in none"),
    (other_truth, "data.depth_scale=2.0, not None"), (lambda run: change(run.record, demo=False), "not a demo run"),
])  # fmt: skip
def test_what_was_not_scored_on_the_same_data_is_named_instead_of_ranked(tmp_path, alter, reason):
    runs = [add_run(tmp_path, "odd", 0.01), add_run(tmp_path, "a", 0.18), add_run(tmp_path, "b", 0.15)]
    alter(runs[0])
    stamp(runs[0])
    text = compare.compare(runs, tmp_path / "runs")
    assert f"not comparable with these: odd ({reason})" in text
    assert [(row["run"], row["rank"]) for row in read(tmp_path / "runs" / "comparison.csv")] == [
        ("b", "1"),
        ("a", "2"),
        ("odd", ""),
    ]


def test_two_bases_for_the_same_scenes_are_ranked_against_each_other(tmp_path):
    runs = [add_run(tmp_path, "large", 0.18), add_run(tmp_path, "small", 0.15)]
    change(runs[1].record, recipe="da3_eth3d")
    assert "not comparable" not in compare.compare(runs, tmp_path / "runs")
    found = [(row["run"], row["recipe"], row["rank"]) for row in read(tmp_path / "runs" / "comparison.csv")]
    assert found == [("small", "da3_eth3d", "1"), ("large", "vggt_eth3d", "2")]


def test_other_training_data_does_not_hinder_a_comparison(tmp_path):
    runs = [add_run(tmp_path, "a", 0.18), add_run(tmp_path, "b", 0.15)]
    rows = [row for row in read(runs[0].manifest) if row["group"] != "scene4"]
    write_csv(runs[0].manifest, rows[0].keys(), [row.values() for row in rows])
    stamp(runs[0])
    assert "not comparable" not in compare.compare(runs, tmp_path / "runs")


def test_maps_of_another_region_are_not_ranked_against_each_other(tmp_path):
    """The frames are the same ones, and neither lines nor thresholds are."""
    runs = [add_run(tmp_path, name, 0.2) for name in ("wide", "far", "fine")]
    for run, settings in zip(runs, ({}, {"data.region": "100x50"}, {"eval.compared_points": 200}), strict=True):
        of_maps = {"data.region": "60x30", "data.centreline": False, "eval.compared_points": 100, "eval.detections": 50}
        change(run.record, recipe="llava_map", config=existing(run.record)["config"] | of_maps | settings)
        stamp(run)
    text = compare.compare(runs, tmp_path / "runs")
    assert "not comparable with these: far (data.region=100x50, not 60x30)" in text
    assert "not comparable with these: fine (eval.compared_points=200, not 100)" in text


def test_scores_of_other_settings_than_the_run_has_now_are_refused(prepared, step, folder, tmp_path, capsys):
    """Step 1 gave the run another rank, or another training goes on: the scores are those of the one before."""
    prepared(last=5)
    words = ["--root", str(tmp_path), "--compare", "r"]
    assert compare.main(words) == 0
    assert step(1, "lora.rank=1") == 0
    assert compare.main(words) == 2
    said = capsys.readouterr().err
    assert "step 4 (train) is stale: lora.rank was 2, is 1" in said and "step4_train.py --run r" in said
    assert step(1, "lora.rank=2") == 0 and compare.main(words) == 0
    change(folder / "4_train.json", state="paused", progress={"done": 5, "total": 20, "unit": "steps"})
    assert compare.main(words) == 2
    assert "step 4 (train) is paused at 5 of 20 steps" in capsys.readouterr().err


def test_a_layer_that_several_stages_train_is_counted_once(tmp_path):
    run = add_run(tmp_path, "staged", 0.1)
    stage = run.stage("align")
    write_record(stage / "best.json", {"step": 1})
    append_line(stage / "log.jsonl", {"step": 1, "loss_objective": 1.0})
    layers.write(stage, [("net.b", 5, 0.1), ("projection", 7, 0.1)])
    assert compare.trainable(run) == 35 + 7


def test_a_run_without_scores_names_the_step_to_run(tmp_path):
    run = add_run(tmp_path, "unfinished", 0.1)
    run.scores.unlink()
    with pytest.raises(Stop) as stop:
        compare.compare([run], tmp_path / "runs")
    assert "unfinished" in stop.value.cause and stop.value.command == run.command(5)


def test_the_command_takes_names_and_folders_and_counts_a_run_once(tmp_path, capsys):
    for name, adapted in (("a", 0.18), ("b", 0.15)):
        add_run(tmp_path, name, adapted)
    assert compare.main(["--root", str(tmp_path), "--compare", "a", "runs/b", "a"]) == 0
    assert [row["run"] for row in read(tmp_path / "runs" / "comparison.csv")] == ["b", "a"]
    assert "rank  run" in capsys.readouterr().out


def test_the_table_is_json_too(tmp_path, capsys, monkeypatch):
    add_run(tmp_path, "a", 0.18)
    words = ["--root", str(tmp_path), "--compare", "a", "--json"]
    monkeypatch.setattr("sys.argv", ["step5_evaluate.py", *words])
    assert compare.main(words) == 0
    told = capsys.readouterr()
    [row] = json.loads(told.out)["runs"]
    assert row["run"] == "a" and row["adapted"] == 0.18 and "rank  run" in told.err


def test_a_folder_elsewhere_is_not_taken_for_the_run_of_that_name(tmp_path, capsys):
    here, elsewhere = tmp_path / "here", tmp_path / "else where"
    add_run(here, "mine", 0.1)
    other = add_run(elsewhere, "mine", 0.2)
    assert compare.main(["--root", str(here), "--compare", str(other.folder)]) == 2
    said = capsys.readouterr().err
    assert f"{other.folder} is not in" in said and f"cp -r '{other.folder}' {here / 'runs' / 'mine-copy'}" in said
    assert compare.main(["--root", str(here), "--compare", str(here / "runs" / "mine") + "/"]) == 0
    assert compare.main(["--root", str(here), "--compare", "/nowhere/mine"]) == 2


def test_text_that_looks_like_a_number_stays_text_in_the_json(tmp_path):
    run = add_run(tmp_path, "007", 0.1, note="NA")
    other = add_run(tmp_path, "1e5", 0.2, note="8")
    compare.compare([run, other], tmp_path / "runs")
    first, second = compare.rows_of(tmp_path / "runs" / "comparison.csv")
    assert (first["run"], second["run"]) == ("007", "1e5") and isinstance(first["held_out"], str)
    assert (first["note"], second["note"]) == ("NA", 8) and first["observations"] is None and first["demo"] is True


def test_an_unknown_run_is_refused_with_the_nearest_name(tmp_path, capsys):
    add_run(tmp_path, "strategy_b", 0.1)
    assert compare.main(["--root", str(tmp_path), "--compare", "strategy_c"]) == 2
    assert "there is no run 'strategy_c': did you mean 'strategy_b'?" in capsys.readouterr().err
