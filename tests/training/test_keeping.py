"""What is kept of frozen layers is measured once, said, and part of the run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.core.records import FrozenFeatures
from lib.core.run import read_json
from lib.data.prepared import note
from lib.network.setup import open_feature_cache
from lib.training import keeping
from lib.training.keeping import Measured, choose
from tests.equal import equal_files

FAST, SLOW = Measured(1.0, 0.1, 1e6), Measured(0.1, 1.0, 1e6)  # a disk that beats the device, and one that does not
BLOCKS = Measured(3.0, 0.2, 1e8)


@pytest.mark.parametrize("found, distinct, quota_gb, wanted", [
    ([FAST], 0, 20, ("tokens", 0)),
    ([SLOW], 0, 20, ("none", 0)),
    ([FAST, BLOCKS], 0, 20, ("blocks", 2)),  # a tenth of 20 epochs; 100 samples take 10 GB
    ([FAST, BLOCKS], 0, 19, ("blocks", 1)),
    ([FAST, BLOCKS], 0, 9, ("tokens", 0)),  # not one epoch fits
    ([FAST, BLOCKS], 5, 60, ("blocks", 5)),  # what the user said
    ([FAST, BLOCKS], 5, 40, ("tokens", 5)),
    ([FAST, BLOCKS], 20, 900, ("tokens", 20)),  # nothing comes again
    ([FAST, Measured(1.1, 0.9, 1e6)], 0, 20, ("tokens", 0)),  # reading costs more than the blocks save
    ([SLOW, Measured(9.0, 0.2, 1e6)], 0, 20, ("blocks", 2)),
])  # fmt: skip
def test_the_fastest_that_fits_is_chosen(found, distinct, quota_gb, wanted):
    assert choose(found, 100, 20, distinct, quota_gb * 1e9) == wanted


def test_auto_is_decided_once_and_moves_no_number(step, prepared, folder, capsys):
    prepared("train.epochs=2", last=5)
    wanted = equal_files(folder)
    assert step(1, "cache.policy=auto") == 0 and step(4, "--force") == 0 and step(5) == 0
    assert capsys.readouterr().out.count("what the frozen layers make of a sample takes") == 1
    record = read_json(folder / "run.json")
    assert record["decided"]["cache.policy"] == record["config"]["cache.policy"] in ("tokens", "none")
    assert equal_files(folder) == wanted
    assert not list((folder.parents[1] / "cache").glob("measured-*"))
    for again in (1, 4, 5):
        assert step(again) == 0
    assert "what the frozen layers make" not in capsys.readouterr().out


def test_what_is_said_later_is_not_decided_any_more(step, prepared, folder):
    prepared("train.epochs=1", "cache.policy=auto")
    assert step(4) == 0
    assert step(1, "cache.policy=none") == 0
    record = read_json(folder / "run.json")
    assert record["config"]["cache.policy"] == "none" and "cache.policy" not in record["decided"]


def test_the_deeper_front_is_chosen_where_samples_come_again(monkeypatch, tmp_path, capsys):
    """Both fronts are computed and read back; their times are made up."""
    times = {"tokens": FAST, "blocks": BLOCKS}
    real = keeping.measured

    def measured(job, front, samples, processes):
        taken = real(job, front, samples, processes)
        assert taken.size_bytes == 4 and 0 < taken.read_seconds < 10
        return times[front.name]

    monkeypatch.setattr(keeping, "measured", measured)
    units, compute = lambda sample: [sample["sample_id"]], lambda sample, unit: torch.ones(1)
    deeper = FrozenFeatures("blocks", units, compute, "x")
    parts = SimpleNamespace(frozen_features=FrozenFeatures("tokens", units, compute, "x", deeper=deeper))
    draw = lambda index, key: {"sample_id": str(index)}  # noqa: E731
    settled = []
    job = SimpleNamespace(
        config=SimpleNamespace(
            cache=SimpleNamespace(policy="auto", quota_gb=20.0),
            data=SimpleNamespace(distinct_epochs=0),
            train=SimpleNamespace(epochs=20, seed=0),
        ),
        recipe=SimpleNamespace(sampler=lambda *given: SimpleNamespace(length=100, draw=draw)),
        run=SimpleNamespace(cache=tmp_path / "cache"),
        record={"decided": {"train.plan": "long"}},
        settle=settled.append,
    )
    alone = SimpleNamespace(num_processes=1, autocast=lambda: torch.autocast("cpu", enabled=False))
    keeping.decide(job, None, parts, None, alone, begun=True)  # its samples cannot become others in the middle
    assert parts.frozen_features is not deeper and settled.pop()["cache.policy"] == "tokens" and not settled
    keeping.decide(job, None, parts, None, alone)
    assert parts.frozen_features is deeper
    assert settled == [{"train.plan": "long", "cache.policy": "blocks", "data.distinct_epochs": 2}]
    said = capsys.readouterr().out
    assert "cache.policy=blocks" in said and "2 x 100 samples come again and take 20 GB (data.distinct_epochs)" in said


def test_what_is_kept_belongs_to_the_arrays_and_not_only_to_their_list(step, prepared, tmp_path):
    """A setting of step 3 may change every picture, while names, files and sides stay as they were."""
    prepared("train.epochs=1", last=4)
    [arrays], kept = (tmp_path / "cache").glob("prepared-*"), "cache/frozen-features-*"
    before = list(tmp_path.glob(kept))
    np.save(arrays / "0.npy", np.load(arrays / "0.npy") + 1)
    note(arrays, lambda: None)
    assert step(4, "--force") == 0
    assert len(before) == 1 and len(list(tmp_path.glob(kept))) == 2


def test_nothing_is_kept_with_none(tmp_path):
    front = FrozenFeatures("tokens", None, None, "x")
    parts = SimpleNamespace(frozen_features=front, modules={}, shard={})
    job = SimpleNamespace(config=SimpleNamespace(cache=SimpleNamespace(policy="none")))
    assert open_feature_cache(job, parts, None).kept is None
