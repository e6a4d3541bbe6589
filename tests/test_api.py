"""`lib.api` hands out the networks that were scored."""

import pandas as pd
import pytest
import torch

from lib import api
from lib.core.errors import Stop
from lib.core.run import existing
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
