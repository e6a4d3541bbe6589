"""A network that is spread over processes is the same network: the same numbers, strictness and files."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib.core.errors import Stop
from lib.core.records import FrozenFeatures, Parts, Plan, Row, Sampler
from lib.core.run import read_json, read_log
from lib.network import checkpoint, gradients, pieces, scoring, sharding, weights
from lib.network.frozen_features import FeatureCache
from tests import ranks

BLOCKS = (r"blocks\.\d+",)
SETTINGS = ("train.epochs=2", "train.micro_batch=1", "eval.select_samples=3", "train.log_seconds=0")


class Net(nn.Module):
    """Rows that two and three processes share unevenly, a buffer that no file holds, a scalar outside of the blocks."""

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
            for file in folder.glob("*.safetensors"):
                file.unlink()
        dist.barrier()
        if not rank:
            cache.keep(cache.path("0a"), first[0])
            cache.keep(cache.path("0b"), first[1])
        dist.barrier()
        return torch.equal(first, cache.fill(sample)["frozen_features"]), first


def test_what_one_process_must_compute_all_compute_with_it(tmp_path):
    path = base(tmp_path)
    whole = Net()
    weights.load_strict(whole, path)
    for rank, (same, first) in enumerate(ranks.call(2, tmp_path, filled, path, tmp_path / "cache")):
        units = torch.arange(10.0).reshape(2, 5) + rank
        assert same and torch.equal(first, torch.stack([whole(unit) for unit in units]))


# ---------------------------------------------------------------------------------------------- training


def files_of(folder):
    """Every file of the last checkpoint but its state, and the log, by name."""
    last = max(folder.glob("train/adapt/step-*"))
    names = [p for p in last.rglob("*") if p.is_file() and p.name not in ("state.json", "sha256.json")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in [*names, folder / "train/adapt/log.jsonl"]}


def test_adapters_on_a_spread_base_are_trained_as_on_a_whole_one_bit_for_bit(step, prepared, folder, tmp_path):
    prepared(*SETTINGS)
    codes, said = ranks.steps(2, tmp_path, 4)
    assert codes == [0, 0], said
    plain = files_of(folder)
    assert step(1, "train.shard=on") == 0
    codes, said = ranks.steps(2, tmp_path, 4, "--force")
    assert codes == [0, 0] and "cpu, 2 processes" in said, said
    assert files_of(folder) == plain and "adapter_model.safetensors" in plain


def test_one_process_alone_can_shard_too_and_switching_it_moves_nothing(step, prepared, folder):
    prepared(*SETTINGS, last=4)
    plain = files_of(folder)
    assert step(1, "train.shard=on") == 0 and step(4) == 0  # complete: nothing that was made depends on it
    assert files_of(folder) == plain
    assert step(4, "--force") == 0 and files_of(folder) == plain
    assert step(5) == 0
    assert not torch.distributed.is_initialized()


FULL = (*SETTINGS, "train.ema=0.5", "train.checkpoint_steps=4", "train.keep_checkpoints=9", "lora.full=['net\\..*']")


def losses(folder):
    return [one["loss_objective"] for one in read_log(folder / "train/adapt/log.jsonl") if "eval" not in one]


def tensors(folder, step=10):
    """Every trained tensor of a checkpoint and every moment, whole, by name: written by one process or by several."""
    found, made = {}, folder / f"train/adapt/step-{step:06d}"
    for file in ("weights", "optim", "adapter/adapter_model"):
        path = made / f"{file}.safetensors"
        found |= load_file(path) if path.exists() else {}
    cut = {name: torch.empty(shape) for name, shape in pieces.shapes(made).items()}
    if cut:
        pieces.read(made, cut)
    return found | cut


def close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


def test_what_is_trained_and_spread_is_trained_the_same_and_goes_on_with_any_number_of_processes(
    step, prepared, folder, tmp_path
):
    prepared(*FULL)
    assert step(4) == 0
    plain, whole = losses(folder), tensors(folder)
    assert step(1, "train.shard=on") == 0
    codes, said = ranks.steps(2, tmp_path, 4, "--force")
    assert codes == [0, 0], said
    assert losses(folder) == pytest.approx(plain, rel=1e-5)
    close(tensors(folder), whole)
    last = folder / "train/adapt/step-000010"
    assert {"net.0.weight", "net.2.bias", "raw/net.0.weight", "fit/all/net.0.weight/exp_avg"} <= set(
        pieces.shapes(last)
    )
    assert sorted(p.name for p in last.rglob("*.tmp")) == [] and checkpoint.fault(last) == ""
    assert step(5) == 0 and step(5, "--export", "merged") == 0  # by one process, which holds all of it
    for count, switch in ((1, "off"), (4, "on"), (2, "off")):
        cut_back(folder)
        assert step(1, f"train.shard={switch}") == 0
        codes, said = ranks.steps(count, tmp_path, 4)
        assert codes == [0] * count and "going on from step-000004" in said, said
        assert losses(folder) == pytest.approx(plain, rel=1e-5), (count, switch)
        close(tensors(folder), whole)


def cut_back(folder):
    """As after a kill in step 7: the checkpoint of step 4 is the newest one."""
    for path in folder.glob("train/adapt/step-*"):
        if path.name > "step-000004":
            shutil.rmtree(path)
    (folder / "train/adapt/done.json").unlink()
    stamp = read_json(folder / "4_train.json")
    (folder / "4_train.json").write_text(json.dumps(stamp | {"state": "paused"}))


def test_a_harmed_piece_makes_the_one_before_the_newest(step, prepared, folder, tmp_path):
    prepared(*FULL, "train.shard=on")
    codes, said = ranks.steps(2, tmp_path, 4)
    assert codes == [0, 0], said
    stage = folder / "train/adapt"
    piece = max((stage / "step-000010" / pieces.FOLDER).iterdir())
    piece.write_bytes(piece.read_bytes()[:-1] + b"\x01")
    told = []
    assert checkpoint.newest(stage, told.append) == stage / "step-000008"
    assert told == [
        f"checkpoint step-000010 is broken (pieces/{piece.name} does not have the hash that was stored); "
        "falling back to the one before"
    ]


def test_a_bad_number_in_the_rows_of_one_process_is_met_by_all(step, prepared, folder, tmp_path):
    prepared(*FULL, "train.shard=on", "train.fault=nan-3", "train.stop_after_bad_steps=2")
    codes, said = ranks.steps(2, tmp_path, 4)
    assert codes == [1, 1] and said.count("fit is not finite, batch skipped: s") == 4, said
    assert "2 steps in a row were not finite" in said


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


def test_out_of_memory_on_one_process_ends_all_and_the_step_goes_on_by_itself_with_less(prepared, folder, tmp_path):
    """The launcher's children: the last of them runs out of memory at step 6, while the others wait for it."""
    prepared("train.epochs=2", "train.fault=memory-5", "train.shard=on", "train.checkpoint_steps=2")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    command = [sys.executable, str(ranks.ROOT / "step4_train.py"), "--run", "r", "--processes", "2", "--force"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("step 6: out of memory; micro_batch is now 1, the global batch stays 4") == 1
    assert "going on from step-000005" in ended.stdout and len(losses(folder)) == 10
    record = read_json(folder / "run.json")
    assert record["micro_batch"] == 1 and record["changes"] == [
        {"step": 6, "what": "micro_batch is now 1, the global batch stays 4"}
    ]
    assert read_json(folder / "train/adapt/step-000010/state.json")["micro_batch"] == 1
    assert not list(folder.rglob(".*.tmp"))


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
    job = SimpleNamespace(
        config=SimpleNamespace(train=SimpleNamespace(shard=chosen)),
        recipe=SimpleNamespace(plan=lambda config: Plan(1, 1, {"weights": 10**9, "rest": (needed_gb - 1) * 10**9})),
        unwatched=contextlib.nullcontext,
    )
    one = SimpleNamespace(num_processes=processes, device=torch.device(device))
    assert sharding.wanted(job, one) is answer
