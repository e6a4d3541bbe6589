"""`lib.api` hands out the networks that were scored."""

import pandas as pd
import pytest
import torch

from lib import api
from lib.core.errors import Stop
from lib.core.run import existing, write_record
from lib.recipes.toy import recipe as toy


@pytest.fixture
def trained(prepared):
    prepared("train.epochs=2", "eval.figures=1", last=5)


def error_of(network) -> torch.Tensor:
    x = torch.linspace(-1, 1, 80).reshape(10, 8)
    return (network(x) - toy.truth(x)).abs().mean()


def test_base_and_adapted_are_plain_modules_that_differ_by_the_training(trained, folder):
    run = api.load(folder)
    assert isinstance(run.adapted, torch.nn.Module) and not run.adapted.training
    assert not any(tensor.requires_grad for tensor in run.adapted.parameters())
    assert not any("lora" in name for name, _ in run.adapted.named_parameters())
    assert error_of(run.adapted) < error_of(run.base)


def test_attached_and_merged_adapters_give_the_same(trained, folder):
    attached = api.load(folder, adapters="attached").adapted
    assert any("lora_A" in name for name, _ in attached.named_parameters())
    x = torch.linspace(-1, 1, 80).reshape(10, 8)
    assert torch.allclose(attached(x), api.load(folder).adapted(x), atol=1e-6)


def test_a_merged_export_is_read(trained, step, folder):
    assert step(5, "--export", "merged") == 0
    x = torch.linspace(-1, 1, 80).reshape(10, 8)
    read = api.load(folder / "export" / "merged").adapted
    assert torch.allclose(read(x), api.load(folder).adapted(x), atol=1e-6)


def test_scores_are_a_frame_with_a_row_for_each_metric(trained, folder):
    frame, scores = api.load(folder).scores, existing(folder / "eval" / "scores.json")
    assert isinstance(frame, pd.DataFrame) and list(frame.index) == list(scores["metrics"])
    main = scores["main"]["metric"]
    assert frame.loc[main, "adapted"] == scores["metrics"][main]["adapted"]
    assert frame.loc[main, "unit"] == scores["main"]["unit"]


def test_what_is_no_run_is_refused(tmp_path, prepared, folder):
    with pytest.raises(Stop, match="is not a run"):
        api.load(tmp_path)
    prepared()
    with pytest.raises(Stop, match="has no trained stage"):
        api.load(folder)
    with pytest.raises(Stop, match="adapters='glued' is unknown"):
        api.load(folder, adapters="glued")


def test_an_export_is_one_checkpoint_and_is_compared_with_its_hashes(trained, step, folder):
    assert step(5, "--export", "merged") == 0
    export = folder / "export" / "merged"
    with pytest.raises(Stop, match="checkpoint='last' is of a run"):
        api.load(export, checkpoint="last")
    with pytest.raises(Stop, match="adapters='attached' is of a run"):
        api.load(export, adapters="attached")
    [file] = export.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of a number
    file.write_bytes(content)
    with pytest.raises(Stop, match=r"is broken: model\.safetensors does not have the hash"):
        _ = api.load(export).adapted


def test_a_run_whose_settings_were_changed_is_not_given_out_as_trained(trained, step, folder):
    assert step(1, "data.noise=0.5") == 0
    with pytest.raises(Stop, match=r"step 4 \(train\) is stale: data.noise was 0.01, is 0.5"):
        api.load(folder)
    assert step(1, "data.noise=0.01", "eval.resamples=60") == 0
    run = api.load(folder)
    assert run.adapted is not None
    with pytest.raises(Stop, match=r"step 5 \(evaluate\) is stale: eval.resamples was 50, is 60"):
        _ = run.scores


def test_of_a_training_that_is_not_finished_a_checkpoint_has_to_be_named(trained, folder):
    stamp = existing(folder / "4_train.json")
    write_record(
        folder / "4_train.json", stamp | {"state": "paused", "progress": {"done": 5, "total": 10, "unit": "steps"}}
    )
    with pytest.raises(Stop, match="is paused at 5 of 10 steps"):
        api.load(folder)
    assert api.load(folder, checkpoint="last").adapted is not None


def test_a_lost_best_json_does_not_make_the_last_checkpoint_the_best(prepared, folder):
    prepared(last=5)
    before = api.load(folder).checkpoint
    assert before != api.load(folder, checkpoint="last").checkpoint
    (folder / "train" / "adapt" / "best.json").unlink()
    assert api.load(folder).checkpoint == before


def test_predictions_are_those_of_evaluation_mode_whatever_was_done_with_the_network(trained, step, folder, tmp_path):
    (tmp_path / "mine").mkdir()
    assert step(5, "--predict", "mine", "--out", "out") == 0
    run = api.load(folder, adapters="attached")
    run.adapted.train()
    made = run.predict(tmp_path / "mine") / "prediction.txt"
    assert float(made.read_text()) == float((tmp_path / "out" / "prediction.txt").read_text())
