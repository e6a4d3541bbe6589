"""The cache of frozen layers: bit-equal to computing, under a quota, never over a trained tensor."""

from types import SimpleNamespace

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
def test_the_quota_is_kept_and_the_rest_is_computed(parts, tmp_path, capsys):
    cache = FeatureCache(parts, tmp_path, 20)  # one unit of 4 floats is 16 bytes
    for _ in range(2):
        assert torch.equal(
            cache.fill(SAMPLE)["frozen_features"], FeatureCache(parts, None, 0).fill(SAMPLE)["frozen_features"]
        )
    assert len(list(tmp_path.iterdir())) == 1
    assert capsys.readouterr().out.count("takes no more (cache.quota_gb)") == 1


def test_the_last_of_the_disk_is_left_alone(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lib.network.frozen_features.shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000_000)
    )
    FeatureCache(parts, tmp_path, 1e9).keep(tmp_path / "x.safetensors", torch.zeros(4))
    assert list(tmp_path.iterdir()) == []


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
