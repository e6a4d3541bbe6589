"""The cache of frozen layers: bit-equal to computing, under a quota, never over a trained tensor."""

import pytest
import torch
from torch import nn

from lib.core.errors import Stop
from lib.core.records import FrozenFeatures, LoraSpec, Parts
from lib.network import adapters
from lib.network.frozen_features import FeatureCache, folder_for


@pytest.fixture
def parts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    made = Parts({"net": net}, {"net": LoraSpec(("1",), 2, 4.0)}, base="base")
    made.calls = []

    def compute(sample, unit):
        made.calls.append(sample["frames"][unit])
        return net[0](sample["x"][unit])

    made.frozen_features = FrozenFeatures("front", lambda sample: sample["frames"], compute, r"net\.0\..*")
    adapters.attach(made)
    return made


SAMPLE = {"frames": ["a", "b"], "x": torch.arange(8.0).reshape(2, 4)}


@torch.no_grad()
def test_cached_equals_computed_bit_for_bit_and_is_computed_once(parts, tmp_path):
    wanted = FeatureCache(parts, None, 0).fill(SAMPLE)["frozen_features"]
    parts.calls.clear()
    first, second = (
        FeatureCache(parts, tmp_path / "c", 1e9).fill(SAMPLE),
        FeatureCache(parts, tmp_path / "c", 1e9).fill(SAMPLE),
    )
    assert torch.equal(first["frozen_features"], wanted) and torch.equal(second["frozen_features"], wanted)
    assert parts.calls == ["a", "b"]


@torch.no_grad()
def test_a_unit_that_was_damaged_is_computed_again(parts, tmp_path, capsys):
    wanted = FeatureCache(parts, tmp_path / "c", 1e9).fill(SAMPLE)["frozen_features"]
    stored = bytearray((tmp_path / "c" / "0.units").read_bytes())
    stored[3] ^= 64  # a bit of the exponent of the first number of a
    (tmp_path / "c" / "0.units").write_bytes(stored)
    parts.calls.clear()
    again = FeatureCache(parts, tmp_path / "c", 1e9)
    assert again.read(SAMPLE) is SAMPLE
    assert torch.equal(again.fill(SAMPLE)["frozen_features"], wanted) and parts.calls == ["a"]
    assert torch.equal(again.read(SAMPLE)["frozen_features"], wanted)
    assert "is not as it was written" in capsys.readouterr().out


@torch.no_grad()
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_units_have_the_precision_of_the_training_whether_kept_or_not(parts, tmp_path, precision):
    parts.modules["net"][0].forward = lambda x: x.exp()  # fp32, as the stream between blocks is under autocast
    made = []
    for folder in (None, tmp_path / "c", tmp_path / "c"):
        with torch.autocast("cpu", precision):
            made.append(FeatureCache(parts, folder, 1e9).fill(SAMPLE)["frozen_features"])
    assert all(torch.equal(one, SAMPLE["x"].exp().to(precision)) for one in made)
    assert (tmp_path / "c" / "0.units").stat().st_size == SAMPLE["x"].numel() * 2


@torch.no_grad()
def test_a_unit_that_fp16_cannot_hold_is_refused(parts):
    parts.modules["net"][0].forward = lambda x: x + 1e5
    with torch.autocast("cpu", torch.float16), pytest.raises(Stop, match="front front is too large for fp16"):
        FeatureCache(parts, None, 0).fill(SAMPLE)


def test_a_frozen_front_through_trained_tensors_is_refused(parts):
    parts.frozen_features = FrozenFeatures(
        "front", parts.frozen_features.units, parts.frozen_features.compute, r"net\..*"
    )
    with pytest.raises(
        Stop, match=r"the frozen front front runs through 2 trained tensors, e\.g\. net\.1\.lora_A\.weight"
    ):
        FeatureCache(parts, None, 0)


@torch.no_grad()
def test_a_front_whose_output_may_not_be_kept_says_why_and_is_not_kept(parts, tmp_path, capsys):
    parts.frozen_features = FrozenFeatures(
        "front",
        parts.frozen_features.units,
        parts.frozen_features.compute,
        r"net\.0\..*",
        refused="augmentation changes its input",
    )
    FeatureCache(parts, tmp_path, 1e9).fill(SAMPLE)
    assert list(tmp_path.iterdir()) == [] and "augmentation changes its input" in capsys.readouterr().out


def test_another_base_or_other_data_is_another_folder(parts, tmp_path):
    one = folder_for(tmp_path, parts, {"prepared": "x"})
    assert one != folder_for(tmp_path, parts, {"prepared": "y"}) and one == folder_for(
        tmp_path, parts, {"prepared": "x"}
    )
    parts.base = "other"
    assert one != folder_for(tmp_path, parts, {"prepared": "x"})
