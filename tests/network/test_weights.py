import argparse
import json
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict, defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.core.errors import Stop
from lib.core.run import Damaged
from lib.network import pickled, weights


class Net(torch.nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.first = torch.nn.Linear(3, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.last = torch.nn.Linear(width, 2)


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(value.shape, generator=generator) for name, value in Net().state_dict().items()}
    return drawn | {"norm.num_batches_tracked": torch.tensor(7)}


def meta_net() -> Net:
    with torch.device("meta"):
        return Net()


def same(module: torch.nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())


# ---------------------------------------------------------------------------------------------- reading


def test_every_file_format_gives_the_same_tensors(tmp_path):
    content = state()
    half = dict(list(content.items())[:4])
    rest = {name: value for name, value in content.items() if name not in half}
    save_file(content, tmp_path / "a.safetensors")
    save_file(half, tmp_path / "s-1.safetensors")
    save_file(rest, tmp_path / "s-2.safetensors")
    where = {name: "s-1.safetensors" if name in half else "s-2.safetensors" for name in content}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    torch.save(content, tmp_path / "flat.pt")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(
        {"state_dict": content, "optimizer_states": [{"step": torch.ones(3)}], "epoch": 3}, tmp_path / "trainer.ckpt"
    )
    torch.save({"model": {f"module.{name}": value for name, value in content.items()}}, tmp_path / "parallel.pt")
    torch.save({"state_dict": {f"model.{name}": value for name, value in content.items()}}, tmp_path / "lightning.ckpt")
    for name in (
        "a.safetensors",
        "a.safetensors.index.json",
        "flat.pt",
        "old.pth",
        "trainer.ckpt",
        "parallel.pt",
        "lightning.ckpt",
    ):
        found = {key: value.clone() for key, value in weights.tensors(tmp_path / name)}
        assert found.keys() == content.keys(), name
        assert all(torch.equal(found[key], content[key]) for key in content), name


def test_prefix_that_only_some_names_have_stays():
    assert weights.prefix(["model.layers.0", "lm_head"]) == ""
    assert weights.prefix(["module.model.a", "module.model.b"]) == "module.model."


def test_missing_and_truncated_files_are_one_sentence(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    torch.save(state(), tmp_path / "a.pt")
    with pytest.raises(Stop, match=r"none\.pt does not exist"):
        list(weights.tensors(tmp_path / "none.pt"))
    for name in ("a.safetensors", "a.pt"):
        whole = (tmp_path / name).read_bytes()
        for kept in (0, 7, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:kept])
            with pytest.raises(Stop, match=name):
                list(weights.tensors(tmp_path / name))


def test_missing_shard_is_named(tmp_path):
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "shard-2.safetensors"}}))
    with pytest.raises(Stop, match=r"shard-2\.safetensors"):
        list(weights.tensors(tmp_path / "a.safetensors.index.json"))


DAMAGED_INDEX = {
    "not JSON": "is not the index of a sharded checkpoint",
    "[1, 2]": "is not the index of a sharded checkpoint",
    '{"weight_map": 7}': "weight_map is not a table",
    '{"weight_map": {"x": 7}}': "which is not a file's name",
    '{"weight_map": {"x": "../one.safetensors"}}': "which is not a file's name",
    '{"weight_map": {"x": "' + "9" * 300 + '"}}': "which is not a file's name",
    '{"weight_map": {"x": "one.safetensors"}}': "does not hold 1 tensor \\(x\\)",
}


@pytest.mark.parametrize("text, said", DAMAGED_INDEX.items())
def test_damaged_index_of_shards_is_one_sentence(tmp_path, text, said):
    save_file({"y": torch.zeros(2)}, tmp_path / "one.safetensors")
    (tmp_path / "m.safetensors.index.json").write_text(text)
    with pytest.raises(Stop, match=said):
        list(weights.tensors(tmp_path / "m.safetensors.index.json"))


@pytest.mark.parametrize("kind", ["safetensors", "pt", "old.pth", "trainer.ckpt"])
def test_weights_with_any_byte_changed_or_lost_are_read_or_refused_in_a_sentence(tmp_path, kind):
    """150 damages of each format: a byte changed, or a few or all of the following ones lost."""
    file, content, draw = tmp_path / f"a.{kind}", state(), random.Random(kind)
    save = {"safetensors": save_file, "old.pth": partial(torch.save, _use_new_zipfile_serialization=False)}
    save.get(kind, torch.save)({"state_dict": content} if kind == "trainer.ckpt" else content, file)
    whole, refused = file.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(whole)
        place = draw.randrange(len(damaged))
        if draw.random() < 0.7:
            damaged[place] = draw.randrange(256)
        else:
            del damaged[place : place + draw.choice([1, 9, len(whole)])]
        file.write_bytes(damaged)
        try:
            list(weights.tensors(file))
        except Stop:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.safetensors.index.json"])
def test_weights_that_are_others_than_step_2_brought_are_refused(tmp_path, changed_since, name):
    torch.save(state(), tmp_path / "a.pt")
    save_file(state(), tmp_path / "a.safetensors")
    index = {"weight_map": dict.fromkeys(state(), "a.safetensors")}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps(index))
    changed_since(tmp_path, name)
    with pytest.raises(Damaged, match="does not hold what was written"):
        list(weights.tensors(tmp_path / name))


def test_file_without_a_state_dict_is_refused(tmp_path):
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "a.pt")
    with pytest.raises(Stop, match="holds no state dict"):
        list(weights.tensors(tmp_path / "a.pt"))


class Code:
    """Unpickling one of these calls a function with arguments: how a checkpoint runs code."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [exec, eval, getattr, os.system, subprocess.check_output, __import__])
def test_checkpoint_that_could_run_code_is_refused_and_runs_none(tmp_path, function):
    victim = tmp_path / "ran"
    torch.save(
        {"state_dict": state(), "hyper_parameters": Code(function, f"open({str(victim)!r}, 'w')")}, tmp_path / "a.ckpt"
    )
    with pytest.raises(Stop, match="could run code"):
        list(weights.tensors(tmp_path / "a.ckpt"))
    assert not victim.exists()


def test_old_format_that_could_run_code_is_refused_and_runs_none(tmp_path):
    victim = tmp_path / "ran"
    torch.save(
        {"x": Code(exec, f"open({str(victim)!r}, 'w')")}, tmp_path / "a.pth", _use_new_zipfile_serialization=False
    )
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Code(exec, f"open({str(victim)!r}, 'w')"), protocol=2))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(Stop, match="cannot be read as weights"):
            list(weights.tensors(tmp_path / name))
    assert not victim.exists()


def write_lightning_checkpoint(file: str) -> None:
    """Runs in a child with stand-ins for omegaconf, yacs and Lightning, as the publishers' environments have them."""
    import enum
    import types

    import numpy as np

    def module(name: str, **classes: type) -> None:
        sys.modules[name] = types.ModuleType(name)
        for key, kind in classes.items():
            kind.__module__, kind.__qualname__, kind.__name__ = name, key, key
            setattr(sys.modules[name], key, kind)

    class CfgNode(dict):
        pass

    class DictConfig:
        pass

    class Colour(enum.Enum):
        RED = 1

    module(
        "yacs",
    )
    module("yacs.config", CfgNode=CfgNode)
    module(
        "omegaconf",
    )
    module("omegaconf.dictconfig", DictConfig=DictConfig)
    node = CfgNode(MODEL=CfgNode(WIDTH=3))
    node.__dict__["__immutable__"] = False
    config = DictConfig()
    config.__dict__.update(_content={"lr": 1e-4}, _parent=None)
    beside = {
        "settings": node,
        "config": config,
        "args": argparse.Namespace(lr=1.0),
        "path": Path("/a/b"),
        "table": defaultdict(list, a=[1]),
    }
    beside |= {"scalar": np.float64(0.5), "array": np.arange(3), "ordered": OrderedDict(a=1)}
    torch.save({"state_dict": state(), "hyper_parameters": beside, "pytorch-lightning_version": "2.0"}, file)


def test_lightning_checkpoint_with_configuration_objects_is_read(tmp_path):
    code = "import sys; from tests.network import test_weights; test_weights.write_lightning_checkpoint(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "hamer.ckpt")], check=True)
    assert pickled.inert_classes(tmp_path / "hamer.ckpt")  # plain weights-only reading would refuse it
    found = {name: value.clone() for name, value in weights.tensors(tmp_path / "hamer.ckpt")}
    assert all(torch.equal(found[name], value) for name, value in state().items())


# ---------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("make", [Net, meta_net])
def test_every_tensor_is_loaded_and_counted(tmp_path, make):
    content = state()
    save_file(content | {"track_head.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    net = make()
    loaded = weights.load_strict(net, tmp_path / "a.safetensors", ignore=(r"track_head\..*",))
    assert same(net, content)
    assert (loaded.matched, loaded.ignored) == (9, 1)  # 2 + 5 + 2 tensors
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("make", [Net, meta_net])
def test_base_is_held_in_the_precision_that_is_asked_for(make):
    net = make()
    weights.load_strict(net, state().items(), dtype=torch.bfloat16)
    assert {value.dtype for value in net.state_dict().values()} == {
        torch.bfloat16,
        torch.int64,
    }  # the counter stays a counter
    assert torch.equal(net.last.bias, state()["last.bias"].bfloat16())


def test_loading_keeps_no_grip_on_the_file(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    net = meta_net()
    weights.load_strict(net, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"\0" * (tmp_path / "a.safetensors").stat().st_size)
    assert same(net, state())


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state().items() if name not in names}


@pytest.mark.parametrize(
    "content, said",
    [
        (without("first.bias"), "1 missing (first.bias)"),
        (
            {"first.bias": torch.ones(4)},
            "8 missing (first.weight, last.bias, last.weight, norm.bias, norm.num_batches_tracked, …)",
        ),
        (state() | {"head.weight": torch.ones(1)}, "1 unexpected (head.weight)"),
        (state() | {"last.bias": torch.ones(3)}, "1 of another shape (last.bias (3,) instead of (2,))"),
        (state() | {"last.bias": torch.ones(2, dtype=torch.int8)}, "1 quantised or no floats (last.bias torch.int8)"),
        (state() | {"last.bias": torch.ones(2).to(torch.float8_e4m3fn)}, "(last.bias torch.float8_e4m3fn)"),
        ({f"net.{name}": value for name, value in state().items()}, "9 missing"),
    ],
)
def test_base_that_does_not_fit_is_refused_with_names_and_count(content, said):
    with pytest.raises(Stop) as stopped:
        weights.load_strict(meta_net(), content.items())
    assert said in stopped.value.cause


def test_base_cannot_be_loaded_after_adapters_are_attached():
    """The order that voided a published result: the adapted layers had other names and stayed random."""
    from peft import LoraConfig, inject_adapter_in_model

    net = Net()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["first", "last"]), net)
    with pytest.raises(Stop, match=r"already has adapters on 2 layers .*: 4 tensors of the base would be lost"):
        weights.load_strict(net, state().items())


def test_buffer_that_no_checkpoint_holds_must_not_stay_empty():
    with torch.device("meta"):
        net = Net()
        net.register_buffer("angles", torch.zeros(3), persistent=False)
    with pytest.raises(Stop, match="leaves 1 buffer empty that no checkpoint holds: angles"):
        weights.load_strict(net, state().items())


# ---------------------------------------------------------------------------------------------- fingerprint, conversion


def test_fingerprint_is_of_the_content_not_of_file_order_or_held_precision(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"model.{name}": value for name, value in state().items()}}, tmp_path / "a.ckpt")
    prints = [
        weights.load_strict(Net(), source).fingerprint for source in (tmp_path / "a.safetensors", tmp_path / "a.ckpt")
    ]
    prints.append(weights.load_strict(meta_net(), reversed(state().items()), dtype=torch.bfloat16).fingerprint)
    prints.append(weights.fingerprint(state().items()))
    assert len(set(prints)) == 1


def test_fingerprint_sees_one_bit_a_name_a_shape_and_a_dtype():
    one = torch.tensor([1.0, 2.0])
    flipped = one.clone()
    flipped.view(torch.int32)[0] ^= 1
    variants = [{"a": one}, {"a": flipped}, {"b": one}, {"a": one[None]}, {"a": one.view(torch.int32)}]
    assert len({weights.fingerprint(variant.items()) for variant in variants}) == len(variants)


def test_conversion_keeps_names_and_bytes_and_is_done_once(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    content = {"a": shared, "tied": shared, "slice": shared[:, 1], "bf16": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"state_dict": content}, tmp_path / "a.pt")
    out = weights.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert (
        all(torch.equal(value, content[name]) for name, value in load_file(out).items())
        and load_file(out).keys() == content.keys()
    )
    written = out.stat().st_mtime_ns
    weights.convert(tmp_path / "a.pt", out)
    assert out.stat().st_mtime_ns == written
    assert load_file(weights.convert(tmp_path / "a.pt", out, without=(".*",))).keys() == set()
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    assert load_file(weights.convert(tmp_path / "a.pt", out)).keys() == {"a"}


MEMORY = """
import sys, torch
from pathlib import Path
from lib.network import weights
def peak_bytes():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
weights.REOPEN_BYTES = int(sys.argv[2])
before = peak_bytes()
total = sum(tensor[0, 0].item() + tensor.sum().item() for _, tensor in weights.tensors(Path(sys.argv[1])))
print(peak_bytes() - before)
"""


@pytest.mark.parametrize("name", ["big.safetensors", "big.pt"])
def test_reading_never_holds_the_whole_file(tmp_path, name):
    """256 MiB in 8 MiB tensors, 16 MiB portions: mapped pages are let go, or the peak would show all of it."""
    content = {f"t{i}": torch.full((2048, 1024), 1.0) for i in range(32)}
    save_file(content, tmp_path / name) if name.endswith("safetensors") else torch.save(content, tmp_path / name)
    assert grown_bytes(tmp_path / name, 16 << 20) < 128 << 20


def grown_bytes(file: Path, portion_bytes: int) -> int:
    return int(
        subprocess.run(
            [sys.executable, "-c", MEMORY, file, str(portion_bytes)], capture_output=True, text=True, check=True
        ).stdout
    )
