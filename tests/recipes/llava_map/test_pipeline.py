"""The five steps in this process, with the shipped base and a world of four scenes: stages, submission, prediction."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lib import api
from lib.core.run import read_json, read_log, write_json
from lib.recipes.llava_map import predict, stand_in
from lib.recipes.llava_map.roadmap import LOCATIONS
from lib.recipes.llava_map.tables import read_frames
from tests import pages, reload_adapter

pytestmark = pytest.mark.long


def test_both_stages_are_trained_scored_submitted_and_predict(step, world, folder, tmp_path, capsys):
    words = ("--recipe", "llava_map", "--preset", "stage3_lora", "--demo", f"data.root={world}")
    short = ("train.epochs=1", "train.stage3_epochs=1", "train.log_seconds=0", "eval.resamples=20")
    # the fourth class takes a few more queries than the demo's 20
    settings = (*words, *short, "eval.figures=1", "data.overlays=1", "data.centreline=true", "model.instances=30")
    for number in range(1, 6):
        assert step(number, *(settings if number == 1 else ())) == 0
    shown = capsys.readouterr().out
    terms = "".join(rf".*loss_{term} \S+ \(Avg: " for term in ("cls", "pts", "dir", "total"))
    assert re.search(rf"LR: q=\S+ m=\S+ d=\S+ {terms}", shown)
    assert step(5, "--export", "adapter") == 0
    reload_adapter.refuse_other_outputs(folder.name)
    refuse_the_exported_language_model_where_its_scenes_are_held_out(step, world, folder, capsys)
    check_checkpoint(max((folder / "train" / "stage3").glob("step-*")))
    scores = read_json(folder / "eval" / "scores.json")
    assert scores["main"]["metric"] == "mAP" and scores["comparison"] == "random_init" and scores["stage"] == "stage3"
    held_out = [frame for frame in read_frames(world, stand_in.VERSION)[0] if frame.location == LOCATIONS[3]]
    submitted = read_json(folder / "figures" / "submission.json")
    assert submitted.keys() == {frame.token for frame in held_out} and len(held_out) == scores["n_samples"] == 2
    drawn = {path.name for path in (folder / "figures").glob("*.png")}
    assert drawn == {"frame_00.png", "precision_recall.png", "mAP_by_tag.png"}
    assert step(5, "--predict", f"{world}#{held_out[0].token}", "--out", str(tmp_path / "out")) == 0
    assert {"AP_centreline", "AP_centreline_0.5m"} < scores["metrics"].keys()
    assert all(int(row["centreline"]) > 0 for row in csv.DictReader((folder / "manifest.csv").open()))
    [best, *_] = read_json(tmp_path / "out" / "predictions.json")[held_out[0].token]
    alike = [line for line in submitted[held_out[0].token] if line["class"] == best["class"]]
    near = [line for line in alike if abs(line["score"] - best["score"]) < 0.02]
    # what keeps them apart: step 3's JPEG, tokens in half precision
    assert any(np.allclose(line["pts"], best["pts"], atol=0.2) for line in near)
    found = pages.run("llava_map", NAME=folder, NUSCENES=world)
    instances, points = found["run"].config.model.instances, found["run"].config.model.points
    assert found["logits"].shape == (1, instances, 4) and found["points"].shape == (1, instances, points, 2)
    read = api.load(folder / "export" / "merged").adapted
    batch = predict.as_batch(found["run"].config, found["frame"], world, found["run"].device)
    assert torch.allclose(read(**batch)["pred_points"], found["points"], atol=1e-4)


def refuse_the_exported_language_model_where_its_scenes_are_held_out(step, world, folder, capsys):
    """It is a folder that model.llm takes, tokenizer included, and says what it was trained on; here another world."""
    assert step(5, "--export", "merged") == 0
    exported = folder / "export" / "merged" / "llm"
    written, groups = (exported / "lineage.json").read_bytes(), read_json(folder / "split.json")["groups"]
    known = json.loads(written)
    assert known["groups"] == {"scene": sorted(groups["train"] + groups["select"])} and known["files"]
    write_json(exported / "lineage.json", {"groups": {"scene": groups["test"]}, "files": []})
    settings = (f"data.root={world}", f"model.llm={exported}", "data.overlays=1", "eval.figures=1")
    onward = ("--run", "onward", "--recipe", "llava_map", "--preset", "stage2", "--demo", *settings)
    for number in range(1, 4):
        assert step(number, *(onward if number == 1 else onward[:2])) == 0
    assert step(4, "--run", "onward") == 2
    said = capsys.readouterr().err
    assert "the asset llm was trained on" in said and "held out here (scene-" in said
    assert step(1, *onward, "train.accept_seen=true", "train.epochs=1") == 0
    assert step(4, "--run", "onward") == 0
    (exported / "lineage.json").write_bytes(written)


def check_checkpoint(checkpoint: Path) -> None:
    """Trainable state only: no image encoder, and of the language model nothing but its adapters."""
    with safe_open(checkpoint / "weights.safetensors", "pt") as stored:
        assert {name.split(".")[0] for name in stored.keys()} == {"qformer", "bridge", "queries", "decoder"}  # noqa: SIM118
    with safe_open(next((checkpoint / "adapter").rglob("adapter_model.safetensors")), "pt") as stored:
        assert all(".lora_" in name for name in stored.keys())  # noqa: SIM118
    assert any(record.get("loss_total") for record in read_log(checkpoint.parent / "log.jsonl"))
