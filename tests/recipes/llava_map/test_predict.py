"""Predictions of a person's own frames, and the export."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lib.core.errors import Stop
from lib.core.records import Stage
from lib.recipes.llava_map import assemble, predict, stand_in
from lib.recipes.llava_map.tables import read_frames

STAGE2 = Stage("stage2", 1)


@pytest.fixture
def parts(config, base):
    return assemble.build(config, STAGE2, {"base": base})


def test_one_sample_of_a_folder_becomes_lines_and_a_picture(config, parts, world, tmp_path):
    frame = read_frames(world, stand_in.VERSION)[0][0]
    with torch.no_grad():
        predict.predict(config, STAGE2, parts, f"{world}#{frame.token}", tmp_path)
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert list(found) == [frame.token] and len(found[frame.token]) == config.eval.detections
    scores = [line["score"] for line in found[frame.token]]
    assert scores == sorted(scores, reverse=True) and len(found[frame.token][0]["pts"]) == config.model.points
    assert (tmp_path / f"{frame.scene}-{frame.token}.png").stat().st_size > 10_000


def test_a_scene_is_chosen_by_name(world):
    frames = predict.chosen(world, "scene-0001")
    assert len(frames) == 2 and {frame.scene for frame in frames} == {"scene-0001"}


@pytest.mark.parametrize(
    ("inputs", "named"), [("#no-such-scene", "no usable frame"), ("/samples", "no nuScenes tables")]
)
def test_nothing_to_predict_is_said(world, inputs, named):
    folder, _, wanted = f"{world}{inputs}".partition("#")
    with pytest.raises(Stop, match=named):
        predict.chosen(type(world)(folder), wanted)


def test_a_picture_that_cannot_be_read_is_named(world, tmp_path):
    frame = read_frames(world, stand_in.VERSION)[0][0]
    with pytest.raises(Stop, match=f"{frame.cameras[0].filename}: the file is missing"):
        predict.photographs(frame, tmp_path, (20, 10))


def test_export_holds_what_was_trained_and_not_the_language_model(config, parts, tmp_path):
    predict.export(config, STAGE2, parts, tmp_path)
    stored = load_file(tmp_path / "map.safetensors")
    assert {name.split(".")[0] for name in stored} == {"qformer", "bridge", "queries", "decoder"}
    assert torch.equal(stored["queries.point_content"], parts.modules["queries"].point_content)
    assert not (tmp_path / "llm").exists()


def test_export_leaves_out_nothing_that_was_trained(config, base, tmp_path):
    """Patterns of lora.full may name tensors of the frozen networks, too."""
    config.lora.full = [r"image\..*norm.*\.bias", r".*\.embed_tokens\.weight"]
    built = assemble.build(config, STAGE2, {"base": base})
    predict.export(config, STAGE2, built, tmp_path)
    stored = load_file(tmp_path / "map.safetensors")
    assert any(name.startswith("image.") for name in stored) and (tmp_path / "llm" / "model.safetensors").is_file()


def test_an_exported_language_model_can_be_named_as_one(config, base, tmp_path):
    """With the tokenizer beside it: the export holds what was trained."""
    config.train.stage3 = "full"
    stage = Stage("stage3", 1)
    parts = assemble.build(config, stage, {"base": base})
    predict.export(config, stage, parts, tmp_path)
    folder = tmp_path / "llm"
    shutil.copy(base / "tokenizer.json", folder)
    config.model.llm = str(folder)
    again = assemble.build(config, stage, {"base": base, "llm": folder})
    theirs, ours = (built.modules["llm"].state_dict() for built in (parts, again))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
