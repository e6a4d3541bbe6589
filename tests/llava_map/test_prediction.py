"""Predictions of a person's own frames, pictures, and the export."""
import json

import numpy as np
import pytest
import torch

from lib.errors import Stop
from lib.recipes import Stage
from lib.recipes.llava_map import assemble, drawing, model, prediction, pretrain, standin
from lib.recipes.llava_map.tables import read_frames


@pytest.fixture
def parts(cfg, tmp_path):
    torch.manual_seed(3)
    published = model.published_parts(cfg, None)
    pretrain.write(published["image"].eval(), published["qformer"], tmp_path / "base")
    return assemble.build(cfg, Stage("stage2", 1), {"base": tmp_path / "base"})


def test_one_sample_of_a_folder_becomes_lines_and_a_picture(cfg, parts, world, tmp_path):
    frame = read_frames(world, standin.VERSION)[0][0]
    with torch.no_grad():
        prediction.predict(cfg, parts, f"{world}#{frame.token}", tmp_path)
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert list(found) == [frame.token] and len(found[frame.token]) == cfg.eval.detections
    scores = [line["score"] for line in found[frame.token]]
    assert scores == sorted(scores, reverse=True) and len(found[frame.token][0]["pts"]) == cfg.model.points
    assert (tmp_path / f"{frame.scene}-{frame.token}.png").stat().st_size > 10_000


def test_a_scene_is_chosen_by_name(world):
    frames = prediction.chosen(world, "scene-0001")
    assert len(frames) == 2 and {frame.scene for frame in frames} == {"scene-0001"}


@pytest.mark.parametrize(("inputs", "named"), [("#no-such-scene", "no usable frame"), ("/samples", "no nuScenes tables")])
def test_nothing_to_predict_is_said(world, inputs, named):
    folder, _, wanted = f"{world}{inputs}".partition("#")
    with pytest.raises(Stop, match=named):
        prediction.chosen(type(world)(folder), wanted)


def test_a_picture_that_cannot_be_read_is_named(world, tmp_path):
    frame = read_frames(world, standin.VERSION)[0][0]
    with pytest.raises(Stop, match=f"{frame.cameras[0].filename} cannot be decoded"):
        prediction.photographs(frame, tmp_path, (20, 10))


def test_export_holds_what_was_trained_and_not_the_language_model(cfg, parts, tmp_path):
    from safetensors.torch import load_file

    prediction.export(cfg, parts, tmp_path)
    stored = load_file(tmp_path / "map.safetensors")
    assert {name.split(".")[0] for name in stored} == {"qformer", "bridge", "queries", "decoder"}
    assert torch.equal(stored["queries.point_content"], parts.modules["queries"].point_content)
    assert not (tmp_path / "llm").exists()


def test_a_line_that_passes_the_camera_is_drawn_only_ahead_of_it():
    """A camera at 1.5 m looking along y over a line on the ground from 20 m behind to 20 m ahead."""
    bev_from_cam = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    intrinsics = np.array([[100.0, 0, 100], [0, 100, 50], [0, 0, 1]])
    [piece] = drawing.drawn_in(np.array([[0.0, -20], [0, 20]]), intrinsics, bev_from_cam, 200, 100)
    assert np.allclose(piece[:, 0], 100)
    assert piece[:, 1].max() <= 100 and piece[:, 1].min() == pytest.approx(50 + 100 * 1.5 / 20, abs=0.1)
