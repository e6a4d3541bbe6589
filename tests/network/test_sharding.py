"""A network that is spread over processes is the same network: the same numbers, strictness and files."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib.core.errors import Stop
from lib.core.records import Block, Footprint, FrozenFeatures, Parts, Plan, Row, Sampler
from lib.network import gradients, scoring, sharding, weights
from lib.network.frozen_features import FeatureCache
from tests import ranks

BLOCKS = (r"blocks\.\d+",)


class Net(nn.Module):
    """Rows that two and three processes share unevenly, and a scalar outside of the blocks."""

    def __init__(self, rows: int = 5):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(rows, rows) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).relu()
        return x * self.scale


def base(folder):
    torch.manual_seed(7)
    save_file(Net().state_dict(), folder / "base.safetensors")
    return folder / "base.safetensors"


def in_group():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def spread_net(path) -> Parts:
    """Loaded in parts, within a group of processes."""
    with sharding.over(in_group()), torch.device("meta"):
        net = Net()
    with sharding.over(in_group()):
        loaded = weights.load_strict(net, path, dtype=torch.float32, shard=BLOCKS)
        parts = Parts({"net": net}, base=loaded.fingerprint, shard={"net": BLOCKS})
        sharding.complete(parts)
    net.requires_grad_(False)
    return parts


# ---------------------------------------------------------------------------------------------- loading


def loaded_in_parts(path):
    parts = spread_net(path)
    net = parts.modules["net"]
    rows = [sharding.local(block.weight).clone() for block in net.blocks]
    return parts.base, rows, net(torch.arange(10.0).reshape(2, 5)), sharding.is_sharded(parts)


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_holds_its_rows_and_the_network_and_its_fingerprint_are_those_of_the_whole(tmp_path, count):
    path = base(tmp_path)
    whole = Net()
    print_of_whole = weights.load_strict(whole, path).fingerprint
    found = ranks.call(count, tmp_path, loaded_in_parts, path)
    assert {one[0] for one in found} == {print_of_whole} and all(one[3] for one in found)
    for number, block in enumerate(whole.blocks):
        assert torch.equal(torch.cat([one[1][number] for one in found]), block.weight)
        assert [len(one[1][number]) for one in found] == {2: [3, 2], 3: [2, 2, 1]}[count]
    for one in found:
        assert torch.equal(one[2], whole(torch.arange(10.0).reshape(2, 5)))


def refused(path):
    try:
        spread_net(path)
    except Stop as stop:
        return stop.cause
    return ""


def test_a_load_in_parts_is_as_strict_as_a_whole_one(tmp_path):
    state = {name: tensor.clone() for name, tensor in Net().state_dict().items()}
    state["blocks.3.weight"] = state.pop("blocks.1.weight")
    state["blocks.0.bias"] = torch.zeros(4)
    save_file(state, tmp_path / "base.safetensors")
    for said in ranks.call(2, tmp_path, refused, tmp_path / "base.safetensors"):
        assert "1 missing (blocks.1.weight); 1 unexpected (blocks.3.weight); 1 of another shape (blocks.0.bias" in said


def test_outside_of_a_sharded_step_blocks_are_loaded_whole(tmp_path):
    with torch.device("meta"):
        net = Net()
    weights.load_strict(net, base(tmp_path), shard=BLOCKS)
    assert not sharding.is_sharded(Parts({"net": net}))


@pytest.mark.parametrize(
    "patterns, cause",
    [
        ((r"layers\.\d+",), r"'layers\\\\\.\\\\d\+' matches no part of net"),
        ((r"blocks", r"blocks\.1"), r"the block blocks\.1 of net lies in the block blocks"),
    ],
)
def test_blocks_that_are_not_there_or_lie_in_others_are_refused_also_where_nothing_is_sharded(patterns, cause):
    with pytest.raises(Stop, match=cause):
        sharding.complete(Parts({"net": Net()}, shard={"net": patterns}))


def without_blocks():
    with sharding.over(in_group()):
        try:
            sharding.complete(Parts({"net": Net()}))
        except Stop as stop:
            return stop.cause, stop.command
    return "", ""


def test_a_recipe_without_blocks_says_so(tmp_path):
    [(cause, command)] = ranks.call(1, tmp_path, without_blocks)
    assert cause == "the recipe names no blocks that could be spread over processes" and command == "train.shard=off"


class Rotary(nn.Module):
    """A block with a computed buffer that no file holds, as rotary frequencies are."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("frequencies", torch.arange(2.0), persistent=False)


def with_buffers(computed):
    """A block in parts: its buffer, or why there is none."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False) if computed else torch.device("meta"):
        net = nn.Sequential(Rotary())
    with sharding.over(in_group()):
        try:
            sharding.spread_empty(net, ("0",), None)
        except Stop as stop:
            return stop.cause
    return net[0].frequencies


def test_a_buffer_that_no_file_holds_keeps_its_values_and_is_missed_where_it_has_none(tmp_path):
    [kept] = ranks.call(1, tmp_path, with_buffers, True)
    assert torch.equal(kept, torch.arange(2.0))
    [cause] = ranks.call(1, tmp_path, with_buffers, False)
    assert "has buffers without values that no checkpoint holds: frequencies" in cause


# ---------------------------------------------------------------------------------------------- equal forwards


def scored(path, samples, batch):
    parts = spread_net(path)
    draw = lambda index, key: {"sample_id": str(index), "x": torch.full((5,), float(index))}  # noqa: E731

    def score_batch(config, stage, parts, batch):
        values = parts.modules["net"](batch["x"]).sum(-1)
        return [Row(name, "", {"sum": float(value)}) for name, value in zip(batch["names"], values, strict=True)]

    recipe = SimpleNamespace(
        collate=lambda config, stage, samples: {
            "x": torch.stack([one["x"] for one in samples]), "names": [one["sample_id"] for one in samples]
        },
        score_batch=score_batch,
    )  # fmt: skip
    config = SimpleNamespace(eval=SimpleNamespace(batch=batch), train=SimpleNamespace(seed=1))
    rows = scoring.divided_rows(recipe, config, None, parts, Sampler(samples, draw), in_group())
    return [(row.sample_id, row.numbers["sum"]) for row in rows]


@pytest.mark.parametrize("samples, batch", [(3, 1), (1, 1), (5, 2)])
def test_a_process_with_fewer_samples_joins_in_the_forwards_of_the_others(tmp_path, samples, batch):
    path = base(tmp_path)
    [alone] = ranks.call(1, tmp_path, scored, path, samples, batch)
    assert [name for name, _ in alone] == [str(index) for index in range(samples)]
    assert ranks.call(2, tmp_path, scored, path, samples, batch) == [alone] * 2


def filled(path, folder):
    """One process finds the outputs of both units in its folder, the other of none."""
    import torch.distributed as dist

    parts = spread_net(path)
    compute = lambda sample, unit: parts.modules["net"](sample["x"][unit])  # noqa: E731
    parts.frozen_features = FrozenFeatures("net", lambda sample: sample["names"], compute, r"net\..*")
    rank = dist.get_rank()
    sample = {"names": [f"{rank}a", f"{rank}b"], "x": torch.arange(10.0).reshape(2, 5) + rank}
    cache = FeatureCache(parts, folder, 1e9, lambda count: sharding.most(in_group(), count))
    with torch.no_grad():
        first = cache.fill(sample)["frozen_features"]
        if rank:
            cache = FeatureCache(parts, folder / "empty", 1e9, lambda count: sharding.most(in_group(), count))
        dist.barrier()
        return torch.equal(first, cache.fill(sample)["frozen_features"]), first


def test_what_one_process_must_compute_all_compute_with_it(tmp_path):
    path = base(tmp_path)
    whole = Net()
    weights.load_strict(whole, path)
    for rank, (same, first) in enumerate(ranks.call(2, tmp_path, filled, path, tmp_path / "cache")):
        units = torch.arange(10.0).reshape(2, 5) + rank
        assert same and torch.equal(first, torch.stack([whole(unit) for unit in units]))


# ---------------------------------------------------------------------------------------------- what is decided for all


def norms():
    """What `clip` says of two spread tensors and a whole one, and the gradients that it leaves."""
    net = Net()
    for number, tensor in enumerate(net.parameters()):
        torch.nn.init.constant_(tensor, float(number))
    with sharding.over(in_group()):
        sharding.complete(Parts({"net": net}, shard={"net": BLOCKS}))
    tensors = list(net.parameters())
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor).detach()
    sums = gradients.GradientSum(dict(net.named_parameters()))
    before = gradients.clip(tensors, 1.0)
    largest = sharding.local(net.blocks[0].weight.grad)
    largest[: int(sharding.own_rows(torch.arange(5), net.blocks[0].weight)[0] == 0)] = float("inf")
    return before, gradients.clip(tensors, 0), sums.finite(), sums.not_finite()


def test_norms_and_finite_checks_are_those_of_all_rows(tmp_path):
    for before, after, finite, names in ranks.call(2, tmp_path, norms):
        assert before == pytest.approx((3 * 30 + 1) ** 0.5) and after == float("inf")
        assert not finite and names == ["blocks.0.weight"]


@pytest.mark.parametrize(
    "chosen, processes, device, needed_gb, answer",
    [
        ("off", 4, "cuda", 99, False),
        ("on", 1, "cpu", 1, True),
        ("auto", 4, "cuda", 22, True),
        ("auto", 4, "cuda", 21, False),
        ("auto", 1, "cuda", 99, False),
        ("auto", 4, "cpu", 99, False),
    ],
)
def test_auto_shards_over_several_gpus_what_does_not_fit_nine_tenths_of_one(
    monkeypatch, chosen, processes, device, needed_gb, answer
):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24e9))
    monkeypatch.setattr(sharding, "any_asks", lambda accelerator, asked: asked)
    rest_gb = needed_gb - 2  # 1 GB of blocks, which can be spread, and 1 GB of CUDA's own
    needed = Footprint(0, 0, {"rest": rest_gb * 10**9}, blocks=(Block(10**9, 10**9),))
    job = SimpleNamespace(
        config=SimpleNamespace(train=SimpleNamespace(shard=chosen)),
        recipe=SimpleNamespace(plan=lambda config: Plan(1, 1, needed)),
        unwatched=contextlib.nullcontext,
    )
    one = SimpleNamespace(num_processes=processes, device=torch.device(device))
    assert sharding.wanted(job, one) is answer
