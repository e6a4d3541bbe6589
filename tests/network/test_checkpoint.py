"""Checkpoints cannot be half-written, cannot be the only one, and are refused when they are not what was asked for."""

import errno
import shutil
from types import SimpleNamespace

import pytest
import torch

from lib.core.errors import Stop
from lib.core.hashes import folder_fault
from lib.core.records import Asset, Parts
from lib.core.run import existing, read_json, read_log, write_record
from lib.network import adapters, checkpoint
from lib.network.lineage import Lineage

FILES = (
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter/base.json",
    "lineage.json",
    "optim.safetensors",
    "sha256.json",
    "state.json",
    "weights.safetensors",
)
SETTINGS = (
    "train.epochs=2",
    "train.checkpoint_steps=2",
    "train.keep_checkpoints=3",
    "train.evaluate_epochs=2",
    "lora.full=['net\\.2\\.bias']",
)


@pytest.fixture
def stage(prepared, folder):
    """Steps 6, 8 and 10 are kept (10 is the last); step 4's stamp is taken away, as after a kill."""
    prepared(*SETTINGS, last=5)
    shutil.rmtree(folder / "eval")
    made = folder / "train" / "adapt"
    (made / "done.json").unlink()
    write_record(folder / "4_train.json", existing(folder / "4_train.json") | {"state": "paused"})
    return made


def harm(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def test_every_file_is_in_the_hash_list_and_nothing_else_is_there(stage):
    found = sorted(str(p.relative_to(stage / "step-000010")) for p in (stage / "step-000010").rglob("*") if p.is_file())
    assert found == sorted(FILES)
    assert sorted(read_json(stage / "step-000010" / "sha256.json")) == sorted(set(FILES) - {"sha256.json"})
    assert [p.name for p in checkpoint.all_of(stage)] == ["step-000010", "step-000008", "step-000006"]


@pytest.mark.parametrize("how", ["missing", "emptied", "truncated", "flipped"])
def test_any_harmed_file_makes_the_one_before_the_newest(stage, how):
    for name in FILES:
        kept = shutil.copytree(stage / "step-000010", stage.parent / "kept")
        harm(stage / "step-000010" / name, how)
        told = []
        assert checkpoint.newest(stage, told.append) == stage / "step-000008", name
        assert (
            len(told) == 1
            and told[0].startswith("checkpoint step-000010 is broken (")
            and "falling back to the one before" in told[0]
        )
        shutil.rmtree(stage / "step-000010")
        kept.rename(stage / "step-000010")


def test_training_goes_on_from_the_one_before_and_ends_the_same(stage, step, folder, capsys):
    wanted = {p.name: p.read_bytes() for p in (stage / "step-000010").rglob("*.safetensors")}
    log = (stage / "log.jsonl").read_bytes()
    harm(stage / "step-000010" / "optim.safetensors", "truncated")
    assert step(4) == 0
    text = capsys.readouterr().out
    assert (
        text.count("checkpoint step-000010 is broken (optim.safetensors does not have the hash that was stored)") == 1
    )
    assert "going on from step-000008" in text
    assert {p.name: p.read_bytes() for p in (stage / "step-000010").rglob("*.safetensors")} == wanted
    assert (stage / "log.jsonl").read_bytes() == log


def test_no_good_checkpoint_is_one_sentence_and_no_silent_restart(stage, step, folder, capsys):
    for path in checkpoint.all_of(stage):
        harm(path / "state.json", "truncated")
    log = (stage / "log.jsonl").read_bytes()
    assert step(4) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0] == "error: no checkpoint in adapt can be read (3 tried)"
    assert "--force" in lines[1] and len(lines) == 2
    assert (stage / "log.jsonl").read_bytes() == log and len(checkpoint.all_of(stage)) == 3


def test_half_renamed_folders_are_no_checkpoints_and_are_swept(stage, step, folder):
    (stage / "step-000010").rename(stage / ".step-000010.4711.tmp")
    assert checkpoint.newest(stage) == stage / "step-000008"
    assert step(4) == 0
    assert not list(stage.glob(".*.tmp")) and folder_fault(stage / "step-000010") == ""


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for number in range(1, 8):
        (tmp_path / checkpoint.folder_name(number)).mkdir()
    (tmp_path / "tensorboard").mkdir()
    checkpoint.rotate(tmp_path, 2, best=[3])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000006", "step-000007", "tensorboard"]
    checkpoint.rotate(tmp_path, 1, best=[])
    assert [p.name for p in checkpoint.all_of(tmp_path)] == ["step-000007"]


def test_the_millionth_step_is_newer_than_the_one_before(tmp_path):
    for name in ("step-999999", "step-1000000", "step-0000007", "step-7", "step-", "step-000001.tmp"):
        (tmp_path / name).mkdir()
    assert [p.name for p in checkpoint.all_of(tmp_path)] == ["step-1000000", "step-999999"]
    checkpoint.drop_newer(tmp_path, 999_999)
    assert [p.name for p in checkpoint.all_of(tmp_path)] == ["step-999999"]


def test_step_5_takes_best_last_or_a_number_and_names_what_there_is(stage, step, folder, capsys):
    assert checkpoint.choose(stage, "last").name == "step-000010"
    assert checkpoint.choose(stage, "step-8").name == checkpoint.choose(stage, "step-000008").name == "step-000008"
    assert checkpoint.choose(stage, "best").name == checkpoint.folder_name(read_json(stage / "best.json")["step"])
    for wrong in ("step-7", "newest"):
        with pytest.raises(
            Stop,
            match=f"there is no checkpoint '{wrong}' in stage adapt; there are: step-000010, step-000008, step-000006",
        ):
            checkpoint.choose(stage, wrong)


def test_a_harmed_best_is_refused_by_step_5_in_one_sentence(stage, step, folder, capsys):
    assert step(4) == 0
    best = checkpoint.choose(stage, "best")
    harm(best / "adapter" / "adapter_model.safetensors", "flipped")
    capsys.readouterr()
    assert step(5) == 1
    fault = "adapter/adapter_model.safetensors does not have the hash that was stored"
    said = capsys.readouterr().err.splitlines()[0]
    assert said == f"error: the checkpoint {best.name} is broken: {fault}"
    assert not (folder / "eval" / "scores.json").exists()


def test_a_checkpoint_of_another_base_is_refused(stage, step, tmp_path, capsys, monkeypatch):
    from lib.recipes.toy import sources

    real = sources.base_tensors
    monkeypatch.setattr(sources, "base_tensors", lambda: {name: tensor + 1e-3 for name, tensor in real().items()})
    other = Asset("base", "made", stand_in=sources.make_base, made_from="2")
    monkeypatch.setattr(sources, "assets", lambda config: [other])
    assert step(2) == 0
    assert step(4) == 2  # the input changed: the user decides
    capsys.readouterr()
    monkeypatch.setattr("lib.core.steps.differences", lambda old, new: [])
    shutil.rmtree(stage / "step-000010")
    assert step(4) == 2
    assert "was trained on another base (" in capsys.readouterr().err


def test_a_fully_trained_tensor_of_another_shape_or_name_is_refused():
    wanted = {"net.a": torch.zeros(2), "net.b": torch.zeros(3)}
    for stored in (
        {"net.a": torch.zeros(2)},
        {"net.a": torch.zeros(2), "net.b": torch.zeros(1)},
        {**wanted, "net.c": torch.zeros(1)},
    ):
        with pytest.raises(Stop, match="step-000001 does not fit: 1 tensor missing, unknown or mis-shaped"):
            shapes = {name: tensor.shape for name, tensor in stored.items()}
            checkpoint.refuse_other_tensors(wanted, shapes, "step-000001")


def test_too_little_space_is_met_before_a_byte_is_written(stage, step, folder, capsys, monkeypatch):
    before = {p: p.read_bytes() for p in stage.rglob("step-*/**/*") if p.is_file()}
    shutil.rmtree(stage / "step-000010")
    real = shutil.disk_usage
    monkeypatch.setattr("lib.network.checkpoint.shutil.disk_usage", lambda path: SimpleNamespace(free=150_000))
    assert step(4) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert "the disk is full: 0.1 MB free" in lines[0] and "0.2 MB needed" in lines[0] and len(lines) == 2
    assert all(path.read_bytes() == content for path, content in before.items() if path.exists())
    assert checkpoint.newest(stage) == stage / "step-000008" and not list(stage.glob(".*.tmp"))
    monkeypatch.setattr("lib.network.checkpoint.shutil.disk_usage", real)
    assert step(4) == 0 and checkpoint.newest(stage) == stage / "step-000010"


@pytest.mark.parametrize("error", ["system", "safetensors"])
def test_a_disk_that_fills_while_a_checkpoint_is_written_leaves_the_last_good_one(
    stage, step, folder, capsys, monkeypatch, error
):
    from safetensors import SafetensorError

    shutil.rmtree(stage / "step-000010")

    def full(*arguments):
        raise (
            OSError(errno.ENOSPC, "full")
            if error == "system"
            else SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        )

    with monkeypatch.context() as patched:
        patched.setattr(adapters, "save", full)
        assert step(4) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert "the disk is full" in lines[0] and "0.2 MB needed" in lines[0] and "Traceback" not in "".join(lines)
    assert checkpoint.newest(stage) == stage / "step-000008" and not list(stage.glob(".*.tmp"))
    assert step(4) == 0


def test_the_log_is_cut_to_the_checkpoint(stage, step):
    shutil.rmtree(stage / "step-000010")
    log = (stage / "log.jsonl").read_bytes()
    with open(stage / "log.jsonl", "a") as file:
        file.write('{"step": 11, "torn')
    assert step(4) == 0
    assert (stage / "log.jsonl").read_bytes() == log
    assert [record["step"] for record in read_log(stage / "timing.jsonl")] == list(range(1, 11))


def test_a_checkpoint_without_adapters_of_another_base_is_refused_too(tmp_path):
    parts = Parts({"net": torch.nn.Linear(2, 2)}, base="a" * 64)
    folder = checkpoint.write(
        tmp_path, 1, {"base": parts.base, "step": 1}, checkpoint.content(parts, {}, {}), Lineage({}, set())
    )
    assert checkpoint.load(folder, parts, {}, parts.base)["step"] == 1
    with pytest.raises(Stop, match=r"the checkpoint step-000001 was trained on another base \(aaaaaaaaaaaa, loaded"):
        checkpoint.load(folder, parts, {}, "b" * 64)
    (folder / "state.json").write_text("{")
    with pytest.raises(Stop, match=r"step-000001 is broken: state\.json does not have the hash"):
        checkpoint.load(folder, parts, {}, parts.base)


def test_a_checkpoint_of_a_network_of_another_shape_is_refused_before_anything_is_put(tmp_path):
    parts, other = (Parts({"net": torch.nn.Linear(2, side)}, base="a" * 64) for side in (2, 3))
    folder = checkpoint.write(
        tmp_path, 1, {"base": parts.base, "step": 1}, checkpoint.content(parts, {}, {}), Lineage({}, set())
    )
    before = {name: tensor.clone() for name, tensor in other.modules["net"].state_dict().items()}
    with pytest.raises(Stop, match="step-000001 does not fit: 2 tensors missing, unknown or mis-shaped"):
        checkpoint.load(folder, other, {}, other.base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.modules["net"].state_dict().items())
